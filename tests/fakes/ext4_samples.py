"""Records of ext4, made by hand: what its parsers accept, for fuzzing."""

from __future__ import annotations

import struct

from krunpy.formats.ext4_parse import Superblock, parse_superblock
from krunpy.formats.ext4_parse_inode import Inode, parse_directory, parse_inode

EXTENTS = struct.pack("<HHHHI", 0xF30A, 1, 4, 0, 0) + struct.pack("<IHHI", 0, 3, 0, 40) + bytes(36)
INODE = (
    struct.pack("<HHI", 0o100644, 0, 3000)
    + bytes(16)
    + struct.pack("<HHII", 0, 1, 6, 0x80000)
    + bytes(4)
    + EXTENTS
).ljust(256, b"\0")
_ENTRY = struct.pack("<BBHIII", 4, 1, 60, 0, 3, 0) + b"name"
XATTRS = (struct.pack("<I", 0xEA020000) + _ENTRY).ljust(64, b"\0") + b"abc"
XATTR_BLOCK = (struct.pack("<II", 0xEA020000, 1) + bytes(24) + _ENTRY).ljust(128, b"\0")


def superblock() -> bytes:
    """8 MiB in blocks of 1 KiB, without checksums."""
    raw = bytearray(1024)
    fields = {
        0x0: 64, 0x4: 8192, 0x14: 1, 0x20: 8192, 0x28: 64, 0x38: 0xEF53 | 1 << 16, 0x4C: 1, 0x54: 11, 0x58: 256,
        0x60: 0x42,
    }  # fmt: skip
    for offset, value in fields.items():
        struct.pack_into("<I", raw, offset, value)
    return bytes(raw)


def parsed() -> Superblock:
    return parse_superblock(superblock())


def inode() -> Inode:
    return parse_inode(INODE, 12, None)


def list_directory(data: bytes) -> list[tuple[bytes, int]]:
    return list(parse_directory(data, inode(), is_first=True))
