"""A machine to start: sizes, files by descriptor, and how it is accelerated."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Accel(StrEnum):
    """How QEMU runs the guest."""

    TCG = "tcg"
    KVM = "kvm"


@dataclass(frozen=True, slots=True, kw_only=True)
class VmSpec:
    """A machine with one read-only disk and one channel; its console is its standard output.

    The descriptors are indices into the list of files that is handed to the process that starts the machine.
    """

    accel: Accel
    memory_mib: int
    cpus: int
    cmdline: str
    firmware_fd: int
    kernel_fd: int
    initrd_fd: int
    channel_fd: int
    disk_fd: int | None
    port_name: str = "krunpy.ctl"


def placeholder(index: int) -> str:
    """Return what stands in argv for the number that file `index` will have in the machine's process."""
    return f"{{fd{index}}}"
