"""The VMSA page: a vCPU's registers at reset, which SNP measures.

Values are those that KVM hands to the firmware under each VMM; nothing else of the save area is set.

Source: AMD APM volume 2, table B-4 (offsets); QEMU target/i386/cpu.c builtin_x86_defs (signatures);
the values per VMM agree with sev-snp-measure byte for byte (tests/conformance).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import StrEnum

from krunpy.core.errors import FormatError
from krunpy.formats.launch_digest import PAGE_SIZE

BSP_RESET_EIP = 0xFFFFFFF0
FEATURE_SNP_ACTIVE = 0x1  # SEV_FEATURES, APM volume 2 table B-4
FEATURE_DEBUG_SWAP = 0x20

_LARGEST_BASE_FAMILY = 0xF  # what is above goes into the extended family
_SEGMENT = struct.Struct("<HHIQ")  # selector, attributes, limit, base
_U16, _U32, _U64 = struct.Struct("<H"), struct.Struct("<I"), struct.Struct("<Q")


class Vmm(StrEnum):
    """Whose launch is described: they differ in the registers at reset.

    QEMU_OLD_HOST: QEMU on a host whose KVM does not hand over the FPU's state: Linux before 6.10, AMD's own trees.
    """

    QEMU = "qemu"
    QEMU_OLD_HOST = "qemu-old-host"
    EC2 = "ec2"
    GCE = "gce"


def make_signature(family: int, model: int, stepping: int) -> int:
    """Return EAX of CPUID leaf 1 (AMD publication 25481) for a family, model and stepping."""
    low = min(family, _LARGEST_BASE_FAMILY)
    high = (family - low) & 0xFF
    return high << 20 | (model >> 4 & 0xF) << 16 | low << 8 | (model & 0xF) << 4 | stepping & 0xF


_NAPLES, _ROME = make_signature(23, 1, 2), make_signature(23, 49, 0)
_MILAN, _GENOA = make_signature(25, 1, 1), make_signature(25, 17, 0)

VCPU_SIGNATURES = {
    "EPYC": _NAPLES,
    "EPYC-v1": _NAPLES,
    "EPYC-v2": _NAPLES,
    "EPYC-IBPB": _NAPLES,
    "EPYC-v3": _NAPLES,
    "EPYC-v4": _NAPLES,
    "EPYC-Rome": _ROME,
    "EPYC-Rome-v1": _ROME,
    "EPYC-Rome-v2": _ROME,
    "EPYC-Rome-v3": _ROME,
    "EPYC-Milan": _MILAN,
    "EPYC-Milan-v1": _MILAN,
    "EPYC-Milan-v2": _MILAN,
    "EPYC-Genoa": _GENOA,
    "EPYC-Genoa-v1": _GENOA,
    "EPYC-Turin": make_signature(26, 0, 0),
}


def find_signature(vcpu_type: str) -> int:
    """Return the CPUID signature of a QEMU CPU model, as "EPYC-v4". Raises FormatError for others."""
    try:
        return VCPU_SIGNATURES[vcpu_type]
    except KeyError:
        known = ", ".join(VCPU_SIGNATURES)
        raise FormatError(
            "cannot measure the vCPU", why=f'seen type "{vcpu_type}", wanted one of {known}'
        ) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reset:
    """The registers in which VMMs differ."""

    cs: int = 0x9B  # segment attributes
    ss: int = 0x93
    tr: int = 0x8B
    pat: int = 0x7040600070406
    mxcsr: int = 0
    fcw: int = 0
    rdx: int = 0x600


def _reset_state(vmm: Vmm, eip: int, signature: int) -> _Reset:
    match vmm:
        case Vmm.QEMU:
            return _Reset(mxcsr=0x1F80, fcw=0x37F, rdx=signature)
        case Vmm.QEMU_OLD_HOST:
            return _Reset(rdx=signature)
        case Vmm.EC2:
            return _Reset(cs=0x9A if eip == BSP_RESET_EIP else 0x9B, ss=0x92, tr=0x83)
        case Vmm.GCE:
            return _Reset(pat=0x00070106)


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A segment register; its limit is 0xFFFF at reset."""

    selector: int = 0
    attributes: int = 0
    base: int = 0


_SEGMENTS_AT_RESET = {
    0x60: Segment(),  # gdtr
    0x70: Segment(attributes=0x82),  # ldtr
    0x80: Segment(),  # idtr
}
_REGISTERS_AT_RESET = {
    0x0D0: 0x1000,  # efer: KVM sets SVME
    0x148: 0x40,  # cr4: KVM sets MCE
    0x158: 0x10,  # cr0
    0x160: 0x400,  # dr7
    0x168: 0xFFFF0FF0,  # dr6
    0x170: 0x2,  # rflags
    0x3E8: 0x1,  # xcr0
}


def pack_save_area(segments: dict[int, Segment], registers: dict[int, int], *, mxcsr: int, fcw: int) -> bytes:
    """Return the 4096 bytes of a save area: what every reset has in common, and what is given, by offset."""
    page = bytearray(PAGE_SIZE)
    for offset, segment in (_SEGMENTS_AT_RESET | segments).items():
        _SEGMENT.pack_into(page, offset, segment.selector, segment.attributes, 0xFFFF, segment.base)
    for offset, value in (_REGISTERS_AT_RESET | registers).items():
        _U64.pack_into(page, offset, value)
    _U32.pack_into(page, 0x408, mxcsr)
    _U16.pack_into(page, 0x410, fcw)
    return bytes(page)


def build_vmsa(*, eip: int, signature: int, features: int, vmm: Vmm) -> bytes:
    """Return the 4096 bytes of a vCPU's save area at reset.

    eip:       where it starts, 32 bits: BSP_RESET_EIP, or the firmware's AP reset vector.
    signature: EAX of CPUID leaf 1.
    features:  SEV_FEATURES, 64 bits; 0x1, or 0x21 with debug-swap.
    """
    reset = _reset_state(vmm, eip, signature)
    segments = {
        0x00: Segment(attributes=0x93),  # es
        0x10: Segment(selector=0xF000, attributes=reset.cs, base=eip & 0xFFFF0000),
        0x20: Segment(attributes=reset.ss),
        0x30: Segment(attributes=0x93),  # ds
        0x40: Segment(attributes=0x93),  # fs
        0x50: Segment(attributes=0x93),  # gs
        0x90: Segment(attributes=reset.tr),
    }
    registers = {
        0x178: eip & 0xFFFF,  # rip
        0x268: reset.pat,
        0x310: reset.rdx,
        0x3B0: features,
    }
    return pack_save_area(segments, registers, mxcsr=reset.mxcsr, fcw=reset.fcw)
