"""The VMSA page of a vCPU that libkrun starts, in the variants that libkrun and KVM have had.

C is deduced from KVM's reset state and has not been seen on hardware: a workload registers all three.

Source: libkrunfw utils/krunfw_measurement.c and vmsa.h (A); Linux arch/x86/kvm/svm, "KVM: SEV: sync FPU
and AVX state" (B, C); libkrun 1.16, which sets no register (C).
"""

from __future__ import annotations

from enum import StrEnum

from krunpy.formats.vmsa import FEATURE_SNP_ACTIVE, Segment, pack_save_area

_PAT = 0x0007040600070406
_BASE = 0xFFFF0000
_RESET_RIP, _AP_RIP = 0xFFF0, 0xFFF3
_STACK_GPA, _ZERO_PAGE_GPA = 0x8FF0, 0x7000
_SIGNATURE_AT_RESET = 0x600


class VmsaVariant(StrEnum):
    """Which libkrun on which host; see the module's docstring."""

    A = "A"  # libkrun up to 1.15, host without FPU sync (AMD's own trees)
    B = "B"  # libkrun up to 1.15, host with FPU sync (6.11 and later)
    C = "C"  # libkrun from 1.16, host with FPU sync


def build_libkrun_vmsa(variant: VmsaVariant, *, is_boot: bool) -> bytes:
    """Return the 4096 bytes of a vCPU's save area; is_boot: of the first vCPU."""
    is_raw = variant is VmsaVariant.C
    data = Segment(attributes=0x92 if is_raw else 0x93)
    segments = dict.fromkeys((0x00, 0x30, 0x40, 0x50), data) | {
        0x10: Segment(selector=0xF000, attributes=0x9A, base=_BASE),
        0x20: Segment(attributes=0x92),
        0x90: Segment(attributes=0x83),
    }
    registers = {
        0x178: _RESET_RIP if is_raw or is_boot else _AP_RIP,
        0x268: _PAT,
        0x3B0: FEATURE_SNP_ACTIVE,
    }
    if is_raw:
        registers[0x310] = _SIGNATURE_AT_RESET  # rdx
    elif is_boot:
        registers |= {0x1D8: _STACK_GPA, 0x328: _STACK_GPA, 0x330: _ZERO_PAGE_GPA}  # rsp, rbp, rsi
    if variant is VmsaVariant.A:
        return pack_save_area(segments, registers, mxcsr=0, fcw=0)
    return pack_save_area(segments, registers, mxcsr=0x1F80, fcw=0x37F)
