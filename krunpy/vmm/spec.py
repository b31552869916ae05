"""A machine to start: sizes, files by descriptor, and how it is accelerated."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from krunpy.tee.detect import QUOTE_SOCKET

if TYPE_CHECKING:
    from krunpy.core.octets import Digest48, HostData

ID_BLOCK_SIZE = 96  # bytes
ID_AUTH_SIZE = 4096  # bytes
SNP_POLICY = 0x30000  # SMT allowed and the bit that must be one; no debugging, no migration, ABI 0.0
_MUST_BE_ONE, _MIGRATE_MA, _DEBUG = 1 << 17, 1 << 18, 1 << 19  # guest policy, AMD 56860 section 4.3
_POLICY_SIZE = 64  # bits


class Accel(StrEnum):
    """How QEMU runs the guest."""

    TCG = "tcg"
    KVM = "kvm"


@dataclass(frozen=True, slots=True, kw_only=True)
class IdBlock:
    """Who the owner of an SNP guest is: 96 bytes signed by the ID key, 4096 bytes with that signature and the keys.

    Source: AMD SEV-SNP Firmware ABI (publication 56860), section 8.18: ID_BLOCK and ID_AUTH.
    """

    block: bytes
    auth: bytes
    has_author_key: bool

    def __post_init__(self) -> None:
        if len(self.block) != ID_BLOCK_SIZE or len(self.auth) != ID_AUTH_SIZE:
            msg = f"ID block and ID auth are {ID_BLOCK_SIZE} and {ID_AUTH_SIZE} bytes, seen {len(self.block)} and "
            raise ValueError(msg + str(len(self.auth)))


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpLaunch:
    """A launch as an SEV-SNP guest, which measures kernel, initrd and command line.

    policy:            guest policy, 64 bits; neither debugging nor migration can be allowed.
    c_bit:             position of the encryption bit in this host's page tables.
    reduced_phys_bits: bits of the physical address space that encryption takes from the guest.
    vcpu_type:         QEMU's CPU model, as the launch digest was predicted for.
    """

    host_data: HostData
    c_bit: int
    reduced_phys_bits: int
    vcpu_type: str
    policy: int = SNP_POLICY
    id_block: IdBlock | None = None

    def __post_init__(self) -> None:
        if (
            self.policy >> _POLICY_SIZE
            or not self.policy & _MUST_BE_ONE
            or self.policy & (_DEBUG | _MIGRATE_MA)
        ):
            msg = f"guest policy {self.policy:#x}: wanted bit 17 set, DEBUG and MIGRATE_MA clear"
            raise ValueError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class TdxLaunch:
    """A launch as a TDX guest with SEPT_VE_DISABLE set.

    mrconfigid:   48 bytes that every quote of the guest repeats.
    quote_socket: where the host's quote generation service (QGS) listens.
    """

    mrconfigid: Digest48
    quote_socket: str = QUOTE_SOCKET


@dataclass(frozen=True, slots=True, kw_only=True)
class VmSpec:
    """A machine with one read-only disk and one channel; its console is its standard output.

    The descriptors are indices into the list of files that is handed to the process that starts the machine.
    tee: the hardware TEE it is launched in; None is a plain machine.
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
    tee: SnpLaunch | TdxLaunch | None = None


def placeholder(index: int) -> str:
    """Return what stands in argv for the number that file `index` will have in the machine's process."""
    return f"{{fd{index}}}"
