"""Which virtual machine monitor starts a machine: QEMU where it is installed, else libkrun; never silently another one.

QEMU first, because it measures what it boots on SEV-SNP and TDX, and its kernels check the disk as it is read; stock
kernels of libkrun can only check the whole disk beforehand. The reasons are in docs/decisions/0006.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from krunpy.core.errors import HostError
from krunpy.core.proc import find_program
from krunpy.guest.payload import VmmKind
from krunpy.tee.detect import TeeKind
from krunpy.vmm.qemu import PROGRAM

if TYPE_CHECKING:
    from krunpy.core.settings import Settings

AUTO = "auto"
_NO_TDX = (
    "its launch measures 64 KiB of firmware and nothing that it boots: any workload has the same MRTD; with TD-Shim in "
    "that place krunpy predicts MRTD (`krunpy measure --firmware TDSHIM`), and launches none"
)


def choose_vmm(settings: Settings, tee: TeeKind) -> VmmKind:
    """Return the VMM that the setting `vmm` means here, for machines in a TEE.

    Raises HostError if neither is installed, or libkrun cannot start such a machine.
    """
    wanted = settings.vmm
    if wanted == AUTO:
        serves = tee is TeeKind.SOFTWARE and find_program(PROGRAM) is None and has_libkrun(settings)
        wanted = VmmKind.LIBKRUN if serves else VmmKind.QEMU
    vmm = VmmKind(wanted)
    if vmm is VmmKind.LIBKRUN and tee is TeeKind.TDX:
        raise HostError(
            "cannot launch a machine of libkrun in tdx", why=_NO_TDX, next='set vmm to "qemu", or --vmm qemu'
        )
    return vmm


def has_libkrun(settings: Settings) -> bool:
    """Return whether a libkrun for plain machines is installed."""
    from krunpy.vmm.libkrun_find import find_libraries

    try:
        find_libraries(settings.libkrun, settings.libkrunfw)
    except HostError:
        return False
    return True
