"""Read the extended attributes of an ext4 inode: those that follow it, and those in a block of their own.

Access control lists are stored in a shorter form than the one programs see; they come out in that of programs.
Source: Linux 6.12, fs/ext4/xattr.h and acl.h.
"""

from __future__ import annotations

import struct

from krunpy.core.errors import FormatError
from krunpy.formats.crc32c import fold_crc32c
from krunpy.formats.ext4_parse import WHAT

MAGIC = 0xEA020000
BLOCK_HEADER = 32  # bytes
CHECKSUM_AT = 16
ENTRY = struct.Struct("<BBHIII")
PREFIXES = {1: b"user.", 4: b"trusted.", 6: b"security.", 7: b"system."}
LISTS = {2: b"system.posix_acl_access", 3: b"system.posix_acl_default"}
NAMED_TAGS = (2, 8)  # ACL_USER, ACL_GROUP: the only entries that are stored with an id
_NOBODY = 0xFFFFFFFF


def parse_xattrs_after_inode(data: bytes, number: int) -> dict[bytes, bytes]:
    """Return the attributes by their full names. data: what follows an inode in its table.

    Raises FormatError if they are damaged.
    """
    if len(data) < 4 or int.from_bytes(data[:4], "little") != MAGIC:  # noqa: PLR2004 - the magic
        return {}
    return _parse_entries(data[4:], 0, f"{WHAT}: extended attributes of inode {number}")


def parse_xattr_block(data: bytes, block: int, seed: int | None) -> dict[bytes, bytes]:
    """Return the attributes by their full names. data: the whole block; seed: of the file system's checksums.

    Raises FormatError if they are damaged.
    """
    where = f"{WHAT}: extended attributes in block {block}"
    if len(data) < BLOCK_HEADER or int.from_bytes(data[:4], "little") != MAGIC:
        raise FormatError(where, why="they do not begin as such")
    if seed is not None:
        seen = int.from_bytes(data[CHECKSUM_AT : CHECKSUM_AT + 4], "little")
        cleared = data[:CHECKSUM_AT] + bytes(4) + data[CHECKSUM_AT + 4 :]
        wanted = fold_crc32c(fold_crc32c(seed, struct.pack("<Q", block)), cleared)
        if seen != wanted:
            raise FormatError(where, why=f"checksum: seen {seen:#x}, wanted {wanted:#x}")
    return _parse_entries(data, BLOCK_HEADER, where)


def _parse_entries(data: bytes, offset: int, where: str) -> dict[bytes, bytes]:
    """Return the entries from an offset. Offsets of values count from the start of the data."""
    found: dict[bytes, bytes] = {}
    while data[offset : offset + 4] not in (bytes(4), b""):
        if offset + ENTRY.size > len(data):
            raise FormatError(where, why=f"an entry at {offset} is cut off")
        name_size, kind, value_at, value_inode, value_size, _ = ENTRY.unpack_from(data, offset)
        end = offset + ENTRY.size + name_size
        if end > len(data) or value_inode or value_at + value_size > len(data):
            raise FormatError(
                where, why=f"an entry at {offset} has {value_size} bytes at {value_at} of {len(data)}"
            )
        name, value = data[offset + ENTRY.size : end], data[value_at : value_at + value_size]
        full = LISTS.get(kind, b"") if kind in LISTS and not name else PREFIXES.get(kind, b"") + name
        if kind not in LISTS and (kind not in PREFIXES or not name):
            raise FormatError(where, why=f"an entry at {offset} has a name of the unknown kind {kind}")
        if not full or full in found:
            raise FormatError(where, why=f"an entry at {offset} has a name that it cannot have")
        found[full] = _widen_list(value, where) if kind in LISTS else value
        offset += -(-(ENTRY.size + name_size) // 4) * 4
    return found


def _widen_list(value: bytes, where: str) -> bytes:
    """Return an access control list as programs see it. value: as it is stored."""
    if value[:4] != struct.pack("<I", 1):
        raise FormatError(where, why="an access control list is not of version 1")
    parts = [struct.pack("<I", 2)]
    offset = 4
    while offset < len(value):
        if offset + 4 > len(value):
            raise FormatError(where, why="an access control list is cut off")
        tag, permissions = struct.unpack_from("<HH", value, offset)
        offset += 4
        name = _NOBODY
        if tag in NAMED_TAGS:
            if offset + 4 > len(value):
                raise FormatError(where, why="an access control list is cut off")
            name = int.from_bytes(value[offset : offset + 4], "little")
            offset += 4
        parts.append(struct.pack("<HHI", tag, permissions, name))
    return b"".join(parts)
