"""A machine of libkrun to start: sizes, files by descriptor, and which libraries start it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

MOST_CPUS = 255  # the interface has eight bits
CMDLINE_LIMIT = 1800  # bytes; the kernel takes 2047, and libkrun appends its devices
CHANNEL_PORT = 0x6B72  # vsock port at which the guest finds the launcher: "kr"


class Flavour(StrEnum):
    """For which TEE a libkrun was built. They exclude one another: a process has one."""

    PLAIN = "plain"
    SEV = "sev"
    TDX = "tdx"


@dataclass(frozen=True, slots=True, kw_only=True)
class Libraries:
    """Absolute paths of libkrun, and of libkrunfw if there is one: plain machines may bring a kernel of their own."""

    libkrun: str
    libkrunfw: str | None
    flavour: Flavour = Flavour.PLAIN


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A directory that the guest mounts by its tag, with virtiofs. directory: index of its descriptor."""

    tag: str
    directory: int
    is_read_only: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TeeLaunch:
    """A launch in a TEE. What boots comes out of a bundle of libkrunfw's kind, and is measured.

    bundle_fd: index of the library's descriptor.
    config_fd: index of the TEE configuration's descriptor, JSON with six members.
    """

    bundle_fd: int
    config_fd: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KrunSpec:
    """A machine with up to two read-only disks and one channel; its console is libkrun's log, on standard error.

    Descriptors are indices into the list of files that is handed to the process that starts the machine.
    kernel_fd:  an ELF file with a 64-bit entry; None in a TEE, whose kernel is the bundle's.
    boot_fd:    the volume that it boots from, its first disk; None in a TEE.
    disk_fd:    the workload's disk; None for none.
    channel_fd: the inode of a listening Unix socket (O_PATH), to which the guest's connection to CHANNEL_PORT goes.
    ports:      TCP ports of the host and of the guest. They need a shared network.
    groups, owner: of whom it runs as, see `machine_user.leave_root`.
    is_network_shared: the guest's TCP and UDP go out through this host's sockets (TSI); else it has no network.
    """

    libraries: Libraries
    memory_mib: int
    cpus: int
    cmdline: str
    kernel_fd: int | None
    boot_fd: int | None
    channel_fd: int
    disk_fd: int | None
    shares: tuple[Share, ...] = ()
    ports: tuple[tuple[int, int], ...] = ()
    is_network_shared: bool = False
    tee: TeeLaunch | None = None
    groups: tuple[int, ...] = ()
    owner: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.cpus <= MOST_CPUS:
            raise ValueError(f"cpus is {self.cpus}, wanted 1 to {MOST_CPUS}")
        if not self.cmdline.isascii() or not self.cmdline.isprintable() or len(self.cmdline) > CMDLINE_LIMIT:
            raise ValueError(
                f"cmdline is {self.cmdline!r}, wanted at most {CMDLINE_LIMIT} printable ASCII bytes"
            )
        if self.ports and not self.is_network_shared:
            raise ValueError("ports need a shared network")
        if {self.kernel_fd is None, self.boot_fd is None} != {self.tee is not None}:
            raise ValueError("a plain machine has a kernel, a machine in a TEE a bundle")
        if (self.tee is None) != (self.libraries.flavour is Flavour.PLAIN):
            raise ValueError(f"libkrun is {self.libraries.flavour}: that is for another kind of machine")
