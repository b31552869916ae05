"""What a dishonest host could do, on purpose: one bit or one answer is changed after registration.

Used by `krunpy quickstart --tamper`; every kind must end in a refusal, and the tests run them all.
"""

from __future__ import annotations

import os
from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING

from krunpy.core.errors import UsageError
from krunpy.core.octets import Nonce
from krunpy.formats.manifest import ManifestIn
from krunpy.guest.payload import assemble_payload

if TYPE_CHECKING:
    from krunpy.formats.disk import Disk
    from krunpy.guest.payload import GuestPayload
    from krunpy.runtime.prepare import Drafted

MAX_TAMPERED_DISK = 1024**3  # bytes: the copy lies in memory
_REPORT = 4  # bytes into the evidence: behind the report's length
_REPORT_DATA, _SIGNATURE = 0x50, 0x2A0  # bytes into an SNP report; SEV-SNP ABI 1.58, table 23
_BOOT_MESSAGE = 0x40  # bytes into a bzImage: the old boot sector, which nothing runs
_ELF = b"\x7fELF"
_ELF_PADDING = 15  # bytes into an ELF file: the last of its identification, which nothing reads


class Tamper(StrEnum):
    """Which part the host changes."""

    DISK = "disk"
    INITRD = "initrd"
    CMDLINE = "cmdline"
    KERNEL = "kernel"
    MANIFEST = "manifest"
    NONCE = "nonce"
    SERVER_KEY = "server-key"
    EVIDENCE = "evidence"
    REPORT_DATA = "report-data"
    SEALED = "sealed"


def flip_bit(data: bytes, at: int, bit: int = 0) -> bytes:
    """Return the bytes with one bit changed. Raises ValueError if `at` is outside."""
    if not 0 <= at < len(data):
        msg = f"byte {at} of {len(data)}"
        raise ValueError(msg)
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


def tamper_kernel(kernel: bytes) -> bytes:
    """Return a kernel that boots all the same and is not the registered one."""
    return flip_bit(kernel, _ELF_PADDING if kernel.startswith(_ELF) else _BOOT_MESSAGE)


def tamper_initrd(initrd: bytes) -> bytes:
    """Return an initrd that unpacks all the same: a bit of the padding behind the last archive is set."""
    return initrd + bytes(511) + b"\0"


def tamper_manifest(manifest: bytes) -> bytes:
    """Return the manifest of another workload: its process gets another umask."""
    return manifest.replace(b'"umask":18', b'"umask":19')


def tamper_payload(drafted: Drafted, kind: str | None) -> GuestPayload:
    """Return what the machine is to load: the draft's payload itself if this kind changes nothing of it."""
    payload = drafted.payload
    match kind:
        case Tamper.KERNEL if drafted.guest.is_bundled:
            return replace(payload, kernel=flip_bit(payload.kernel, len(payload.kernel) - 1))  # its padding
        case Tamper.CMDLINE if drafted.guest.is_bundled:
            raise UsageError("cannot tamper with the command line", why="it is built into this kernel")
        case Tamper.KERNEL:
            return replace(payload, kernel=tamper_kernel(payload.kernel))
        case Tamper.INITRD:
            return replace(payload, initrd=tamper_initrd(payload.initrd))
        case Tamper.CMDLINE:
            return replace(payload, cmdline=payload.cmdline + " krunpy.tampered")
        case Tamper.MANIFEST if drafted.manifest_in is ManifestIn.INITRD:
            return assemble_payload(drafted.guest, tamper_manifest(drafted.manifest))
        case _:
            return payload


def copy_disk_with_flip(disk_fd: int, disk: Disk) -> int:
    """Return a copy in memory with one bit changed where the file system's superblock is encrypted.

    Raises UsageError if the disk is over MAX_TAMPERED_DISK.
    """
    size = os.fstat(disk_fd).st_size
    if size > MAX_TAMPERED_DISK:
        raise UsageError(
            "cannot tamper with the disk", why=f"it has {size} bytes, at most {MAX_TAMPERED_DISK} are copied"
        )
    copy = os.memfd_create("disk", os.MFD_CLOEXEC)
    at = 0
    while at < size:
        part = os.pread(disk_fd, 1 << 20, at)
        at += os.pwrite(copy, part, at)
    place = disk.payload_offset + 1024
    byte = os.pread(copy, 1, place)
    os.pwrite(copy, bytes([byte[0] ^ 1]), place)
    try:
        return os.open(f"/proc/self/fd/{copy}", os.O_RDONLY | os.O_CLOEXEC)  # as a disk is handed to QEMU
    finally:
        os.close(copy)


def tamper_evidence(evidence: bytes, kind: Tamper) -> bytes:
    """Return evidence with one bit changed, in the report's report_data or in its signature."""
    report_offset = _REPORT_DATA if kind is Tamper.REPORT_DATA else _SIGNATURE
    return flip_bit(evidence, _REPORT + report_offset)


def tamper_nonce(nonce: Nonce) -> Nonce:
    """Return another nonce than the server's: what a replay looks like to it."""
    return Nonce(flip_bit(nonce, 0))
