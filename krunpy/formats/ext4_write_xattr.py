"""Write the extended attributes of an ext4 inode: behind it while they fit, the rest in one block.

Source: as `krunpy.formats.ext4_parse_xattr`; e2fsprogs, lib/ext2fs/ext_attr.c for the hashes.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from krunpy.core.errors import FormatError
from krunpy.formats.crc32c import fold_crc32c
from krunpy.formats.ext4_parse_xattr import (
    BLOCK_HEADER,
    CHECKSUM_AT,
    ENTRY,
    LISTS,
    MAGIC,
    NAMED_TAGS,
    PREFIXES,
)
from krunpy.formats.ext4_write import BLOCK_SIZE
from krunpy.formats.ext4_write_inode import XATTR_ROOM

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Attribute = tuple[int, bytes, bytes]  # kind of the name, rest of the name, value as it is stored

_MAGIC = struct.pack("<I", MAGIC)
_KINDS = {kind: prefix for kind, prefix in PREFIXES.items() if prefix != b"system."}
_LISTS = {name: kind for kind, name in LISTS.items()}
_END = 4  # bytes of zeros after the last entry
_WHAT = "cannot pack an extended attribute"
_U32 = 0xFFFFFFFF


def split_xattrs(xattrs: Mapping[bytes, bytes]) -> tuple[list[Attribute], list[Attribute]]:
    """Return the attributes that lie behind the inode and those that lie in a block, each in the kernel's order.

    Raises FormatError if one has a name that ext4 cannot hold, or all together do not fit.
    """
    found = sorted((_name(name, value) for name, value in xattrs.items()), key=_order)
    inside: list[Attribute] = []
    outside: list[Attribute] = []
    room = XATTR_ROOM - len(_MAGIC) - _END
    for each in found:
        size = _measure(each)
        (inside if size <= room else outside).append(each)
        room -= size if size <= room else 0
    need = sum(_measure(each) for each in outside)
    if need > BLOCK_SIZE - BLOCK_HEADER - _END:
        raise FormatError(
            "cannot pack extended attributes",
            why=f"{need} bytes do not fit one block, at most {BLOCK_SIZE - BLOCK_HEADER - _END} do",
        )
    return inside, outside


def pack_after_inode(attributes: Sequence[Attribute]) -> bytes:
    """Return what follows the fields of an inode, empty if there are no attributes."""
    if not attributes:
        return b""
    return _MAGIC + _pack(attributes, 0, XATTR_ROOM - len(_MAGIC))


def pack_block(attributes: Sequence[Attribute], block: int, seed: int) -> bytes:
    """Return the block with attributes. block: its address; seed: of the file system's checksums."""
    whole = 0
    for each in attributes:
        whole = _rotate(whole, 16) ^ _hash(each)
    header = _MAGIC + struct.pack("<III", 1, 1, whole) + bytes(BLOCK_HEADER - 16)
    packed = bytearray(header + _pack(attributes, BLOCK_HEADER, BLOCK_SIZE - BLOCK_HEADER))
    checksum = fold_crc32c(fold_crc32c(seed, struct.pack("<Q", block)), packed)
    struct.pack_into("<I", packed, CHECKSUM_AT, checksum)
    return bytes(packed)


def _pack(attributes: Sequence[Attribute], start: int, room: int) -> bytes:
    """Return entries from the front and values from the back of `room` bytes. start: what offsets count before."""
    packed = bytearray(room)
    at, end = 0, room
    for each in attributes:
        kind, name, value = each
        end -= -(-len(value) // 4) * 4
        place = start + end if value else 0
        entry = ENTRY.pack(len(name), kind, place, 0, len(value), _hash(each)) + name
        packed[at : at + len(entry)] = entry
        packed[end : end + len(value)] = value
        at += -(-len(entry) // 4) * 4
    return bytes(packed)


def _measure(attribute: Attribute) -> int:
    _, name, value = attribute
    return -(-(ENTRY.size + len(name)) // 4) * 4 + -(-len(value) // 4) * 4


def _order(attribute: Attribute) -> tuple[int, int, bytes]:
    kind, name, _ = attribute
    return kind, len(name), name


def _hash(attribute: Attribute) -> int:
    _, name, value = attribute
    found = 0
    for byte in name:
        found = _rotate(found, 5) ^ byte
    padded = value + bytes(-len(value) % 4)
    for (word,) in struct.iter_unpack("<I", padded):
        found = _rotate(found, 16) ^ word
    return found


def _rotate(value: int, bits: int) -> int:
    return (value << bits | value >> 32 - bits) & _U32


def _name(name: bytes, value: bytes) -> Attribute:
    if name in _LISTS:
        return _LISTS[name], b"", _shorten_list(value)
    for kind, prefix in _KINDS.items():
        if name.startswith(prefix) and len(prefix) < len(name) <= len(prefix) + 255:
            return kind, name[len(prefix) :], value
    raise FormatError(
        _WHAT, why=f"{repr(name[:80])[1:]} is not in user, trusted, security or a POSIX access control list"
    )


def _shorten_list(value: bytes) -> bytes:
    """Return an access control list as it is stored. value: as programs see it."""
    if value[:4] != struct.pack("<I", 2) or len(value) % 8 != 4:  # noqa: PLR2004 - 4 bytes, then 8 for each entry
        raise FormatError(_WHAT, why="an access control list is not of version 2")
    parts = [struct.pack("<I", 1)]
    for tag, permissions, name in struct.iter_unpack("<HHI", value[4:]):
        parts.append(struct.pack("<HH", tag, permissions))
        if tag in NAMED_TAGS:
            parts.append(struct.pack("<I", name))
    return b"".join(parts)
