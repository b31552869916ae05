"""What SEV-SNP machines of libkrun boot: a bundle of the installed kernel and firmware with our initrd and manifest.

libkrun takes no kernel and no initrd by themselves there; it looks a library up by name, and finds this one loaded.
Source: libkrun src/libkrun/src/lib.rs; docs/decisions/0007.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from krunpy.formats.krun_bundle import KERNEL_STEP, KrunBundle, pad, require_bootable
from krunpy.formats.krun_cmdline import drop_hijack
from krunpy.formats.krun_kernel import PAGE_SIZE, unwrap_kernel, wrap_kernel
from krunpy.formats.krun_qboot import set_entry
from krunpy.guest.initrd import build_plain_initrd
from krunpy.guest.kernel import ElfKernel, find_release
from krunpy.measure.libkrun import LibkrunLaunch, fold_system

if TYPE_CHECKING:
    from krunpy.core.octets import LaunchDigest
    from krunpy.formats.krun_kernel import KrunKernel
    from krunpy.guest.payload import GuestPayload


@dataclass(frozen=True, slots=True, kw_only=True)
class SevParts:
    """What a guest build keeps of a libkrunfw for SEV: the kernel, and the firmware that jumps to its entry.

    folded: the launch digest after these two, where that of every workload begins.
    """

    kernel: ElfKernel
    qboot: bytes
    folded: LaunchDigest


def prepare_parts(kernel: KrunKernel, qboot: bytes, *, origin: str) -> SevParts:
    """Return the parts of a libkrunfw as a guest build keeps them. origin: where they come from, for people.

    Raises FormatError if they do not fit each other.
    """
    ready = _prepare_kernel(kernel)
    elf = ElfKernel(contents=wrap_kernel(ready), release=find_release(ready.image), origin=origin)
    firmware = set_entry(qboot, kernel.entry_gpa)
    return SevParts(kernel=elf, qboot=firmware, folded=fold_system(firmware, ready.image, ready.load_gpa))


def build_bundle(kernel: KrunKernel, qboot: bytes, *, agent: bytes, manifest: bytes) -> KrunBundle:
    """Return the bundle of a workload; a firmware that names another kernel's entry is told this one's.

    kernel, qboot: of an installed libkrunfw-sev, or a kernel of our own with its qboot.

    Raises FormatError if they do not fit each other or the initrd.
    """
    bundle = KrunBundle(
        kernel=_prepare_kernel(kernel),
        qboot=set_entry(qboot, kernel.entry_gpa),
        initrd=build_plain_initrd(agent, manifest),
    )
    require_bootable(bundle)
    return bundle


def open_payload(payload: GuestPayload) -> KrunBundle:
    """Return the bundle that a payload for SEV-SNP under libkrun is. Raises FormatError if it cannot boot."""
    bundle = KrunBundle(
        kernel=unwrap_kernel(payload.kernel), qboot=payload.firmware, initrd=pad(payload.initrd, PAGE_SIZE)
    )
    require_bootable(bundle)
    return bundle


def describe_bundle(bundle: KrunBundle, *, vcpus: int, memory_mib: int) -> LibkrunLaunch:
    """Return the inputs of the launch digest of a machine that boots this bundle."""
    return LibkrunLaunch(
        qboot=bundle.qboot,
        kernel=bundle.kernel.image,
        initrd=bundle.initrd,
        vcpus=vcpus,
        memory_mib=memory_mib,
        kernel_gpa=bundle.kernel.load_gpa,
    )


def _prepare_kernel(kernel: KrunKernel) -> KrunKernel:
    """Return the kernel as it is loaded: with sockets of its own, and as many bytes as upstream's have."""
    return replace(kernel, image=pad(drop_hijack(kernel.image), KERNEL_STEP))
