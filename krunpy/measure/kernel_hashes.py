"""The page by which direct boot puts kernel, initrd and command line under the launch digest.

QEMU writes it, OVMF compares what it loads with it; here it is built from the same three digests.

Source: QEMU target/i386/sev.c, struct SevHashTable and PaddedSevHashTable.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from hashlib import sha256
from uuid import UUID

from krunpy.core.errors import FormatError
from krunpy.core.octets import Digest32
from krunpy.formats.launch_digest import PAGE_SIZE

_TABLE_GUID = UUID("9438d606-4f22-4cc9-b479-a793d411fd21").bytes_le
_CMDLINE_GUID = UUID("97d02dd8-bd20-4c94-aa78-e7714d36ab2a").bytes_le
_INITRD_GUID = UUID("44baf731-3a2f-4bd7-9af1-41e29169781d").bytes_le
_KERNEL_GUID = UUID("4de79437-abd2-427f-b835-d5b172d2045b").bytes_le

_HEADER = struct.Struct("<16sH")
_ENTRY = struct.Struct("<16sH32s")
_ALIGNMENT = 16  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelHashes:
    """SHA-256 of the kernel, the initrd (of nothing if there is none), and the command line with its NUL."""

    kernel: Digest32
    initrd: Digest32
    cmdline: Digest32


def hash_cmdline(cmdline: str) -> Digest32:
    """Return the SHA-256 of a kernel command line and the NUL that QEMU puts behind it."""
    return Digest32(sha256(cmdline.encode() + b"\0").digest())


def hash_direct_boot(kernel: bytes, initrd: bytes, cmdline: str) -> KernelHashes:
    """Return the three digests of a direct boot.

    kernel:  the file's bytes, as given to -kernel.
    initrd:  the file's bytes; empty if there is none.
    cmdline: without NUL.
    """
    return KernelHashes(
        kernel=Digest32(sha256(kernel).digest()),
        initrd=Digest32(sha256(initrd).digest()),
        cmdline=hash_cmdline(cmdline),
    )


def build_hashes_page(hashes: KernelHashes, offset: int) -> bytes:
    """Return the 4096 bytes of the page that holds the table at `offset`.

    Raises FormatError if the table does not fit behind offset.
    """
    entries = b"".join(
        _ENTRY.pack(guid, _ENTRY.size, digest)
        for guid, digest in (
            (_CMDLINE_GUID, hashes.cmdline),
            (_INITRD_GUID, hashes.initrd),
            (_KERNEL_GUID, hashes.kernel),
        )
    )
    table = _HEADER.pack(_TABLE_GUID, _HEADER.size + len(entries)) + entries
    table += bytes(-len(table) % _ALIGNMENT)
    if not 0 <= offset <= PAGE_SIZE - len(table):
        raise FormatError(
            "cannot build the kernel-hashes page",
            why=f"seen offset {offset}, wanted at most {PAGE_SIZE - len(table)}",
        )
    return (bytes(offset) + table).ljust(PAGE_SIZE, b"\0")
