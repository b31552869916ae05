"""Write single records of an ext4 file system: inodes, extents, directory blocks.

Inodes and directory blocks come without their checksums: `krunpy.formats.ext4_write_checksum` fills in those of many
at once. Source: as `krunpy.formats.ext4_parse_inode`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from krunpy.core.errors import FormatError
from krunpy.formats.crc32c import fold_crc32c
from krunpy.formats.device import encode_device
from krunpy.formats.ext4_parse_inode import (
    DIRENT,
    EXTENT,
    EXTENT_HEADER,
    EXTENT_MAGIC,
    INDEX,
    TAIL_KIND,
    TAIL_SIZE,
)
from krunpy.formats.ext4_write import BLOCK_SIZE, EXTRA_SIZE, INODE_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

XATTR_ROOM = INODE_SIZE - 128 - EXTRA_SIZE  # bytes behind an inode's fields
MAX_NAME = 255  # bytes
MAX_LINKS = 65000
MAX_EXTENT = 32768  # blocks

_INODE = struct.Struct("<HHIIIIIHHIII60sIIIIHHHHHHHHIIIIIII")
_ROOT_EXTENTS = 4
_BLOCK_EXTENTS = (BLOCK_SIZE - EXTENT_HEADER.size - 4) // EXTENT.size
_TAIL = DIRENT.pack(0, TAIL_SIZE, 0, TAIL_KIND) + bytes(4)
_U32 = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Extent:
    """`blocks` blocks of a file from `logical`, stored from `physical`."""

    logical: int
    blocks: int
    physical: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Inode:
    """One inode.

    mode:    type and permission bits, 16 bits.
    mtime:   seconds since 1970, of all its times.
    sectors: of 512 bytes that belong to it, its maps among them.
    flags:   FLAG_EXTENTS, or 0 where `map` is no map.
    map:     INLINE_SIZE bytes at most.
    xattrs:  XATTR_ROOM bytes at most; the rest lies in `xattr_block`, 0 if there is none.
    """

    mode: int
    uid: int
    gid: int
    links: int
    size: int
    mtime: int
    sectors: int
    flags: int
    map: bytes
    xattrs: bytes
    xattr_block: int


def pack_inode(inode: Inode) -> bytes:
    """Return INODE_SIZE bytes with a checksum of 0. Raises FormatError if a field does not fit."""
    time = inode.mtime & _U32
    epoch = (inode.mtime - (time - (time >> 31 << 32))) >> 32 & 3
    try:
        packed = _INODE.pack(
            inode.mode, inode.uid & 0xFFFF, inode.size & _U32, time, time, time, 0, inode.gid & 0xFFFF, inode.links,
            inode.sectors & _U32, inode.flags, 0, inode.map, 0, inode.xattr_block, inode.size >> 32, 0,
            inode.sectors >> 32, 0, inode.uid >> 16, inode.gid >> 16, 0, 0, EXTRA_SIZE, 0,
            epoch, epoch, epoch, time, epoch, 0, 0,
        )  # fmt: skip
    except struct.error as error:
        raise FormatError("cannot pack an ext4 inode", why=f"a field does not fit: {inode}") from error
    return (packed + inode.xattrs).ljust(INODE_SIZE, b"\0")


def pack_device(device: int) -> bytes:
    """Return what stands in place of the map of a device. device: as os.makedev gives it.

    Raises FormatError if major or minor are too large.
    """
    number = encode_device(device)
    return struct.pack("<II", 0, number) if number > 0xFFFF else struct.pack("<I", number)  # noqa: PLR2004 - old form


def split_extents(logical: int, runs: Sequence[tuple[int, int]]) -> Iterator[Extent]:
    """Yield the extents of contiguous blocks of a file. runs: (first physical block, blocks)."""
    for start, count in runs:
        for done in range(0, count, MAX_EXTENT):
            blocks = min(MAX_EXTENT, count - done)
            yield Extent(logical, blocks, start + done)
            logical += blocks


def count_map_blocks(extents: int) -> int:
    """Return how many blocks the map of so many extents needs beside the inode."""
    total = 0
    while extents > _ROOT_EXTENTS:
        extents = -(-extents // _BLOCK_EXTENTS)
        total += extents
    return total


def pack_map(extents: Sequence[Extent], blocks: Sequence[int], seed: int) -> tuple[bytes, list[bytes]]:
    """Return (the inode's map, contents of the blocks).

    blocks: as many addresses as `count_map_blocks` says; seed: of the inode's checksums.
    """
    free = iter(blocks)
    packed: list[bytes] = []
    entries = [(each.logical, EXTENT.pack(each.logical, each.blocks, 0, each.physical)) for each in extents]
    depth = 0
    while len(entries) > _ROOT_EXTENTS:
        above = []
        for first in range(0, len(entries), _BLOCK_EXTENTS):
            part = entries[first : first + _BLOCK_EXTENTS]
            body = _pack_node([entry for _, entry in part], _BLOCK_EXTENTS, depth)
            packed.append(body + struct.pack("<I", fold_crc32c(seed, body)))
            above.append((part[0][0], INDEX.pack(part[0][0], next(free), 0)))
        entries = above
        depth += 1
    return _pack_node([entry for _, entry in entries], _ROOT_EXTENTS, depth), packed


def _pack_node(entries: Sequence[bytes], room: int, depth: int) -> bytes:
    header = EXTENT_HEADER.pack(EXTENT_MAGIC, len(entries), room, depth, 0)
    return (header + b"".join(entries)).ljust(EXTENT_HEADER.size + room * EXTENT.size, b"\0")


def split_directory(names: Sequence[bytes]) -> list[tuple[int, int]]:
    """Return (first, last + 1) of the names that share a block, in order. names: with "." and ".." first."""
    found = []
    first = used = 0
    for index, name in enumerate(names):
        size = _measure(name)
        if used + size > BLOCK_SIZE - TAIL_SIZE:
            found.append((first, index))
            first, used = index, 0
        used += size
    found.append((first, len(names)))
    return found


def pack_directory_block(entries: Sequence[tuple[bytes, int, int]]) -> bytes:
    """Return a block with a checksum of 0: (name, inode, type) of each entry; at least one."""
    parts = []
    left = BLOCK_SIZE - TAIL_SIZE
    for index, (name, number, kind) in enumerate(entries):
        size = left if index == len(entries) - 1 else _measure(name)
        parts.append((DIRENT.pack(number, size, len(name), kind) + name).ljust(size, b"\0"))
        left -= size
    return b"".join((*parts, _TAIL))


def _measure(name: bytes) -> int:
    return -(-(DIRENT.size + len(name)) // 4) * 4
