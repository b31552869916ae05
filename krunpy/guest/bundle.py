"""What SEV-SNP machines of libkrun boot: a bundle of the installed kernel and firmware with our initrd and manifest.

libkrun takes no kernel and no initrd by themselves there; it looks a library up by name, and finds this one loaded.
Source: libkrun src/libkrun/src/lib.rs; docs/decisions/0007.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from krunpy.formats.krun_bundle import KERNEL_STEP, KrunBundle, pad, require_bootable
from krunpy.formats.krun_kernel import PAGE_SIZE
from krunpy.formats.krun_qboot import set_entry
from krunpy.guest.initrd import build_base, build_manifest_member
from krunpy.measure.libkrun import LibkrunLaunch

if TYPE_CHECKING:
    from krunpy.formats.krun_kernel import KrunKernel


def build_bundle(kernel: KrunKernel, qboot: bytes, *, agent: bytes, manifest: bytes) -> KrunBundle:
    """Return the bundle of a workload; a firmware that names another kernel's entry is told this one's.

    kernel, qboot: of an installed libkrunfw-sev, or a kernel of our own with its qboot.

    Raises FormatError if they do not fit each other or the initrd.
    """
    padded = replace(kernel, image=pad(kernel.image, KERNEL_STEP))
    initrd = pad(build_base(agent, (), ()) + build_manifest_member(manifest), PAGE_SIZE)
    firmware = set_entry(qboot, kernel.entry_gpa)
    bundle = KrunBundle(kernel=padded, qboot=firmware, initrd=initrd)
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
