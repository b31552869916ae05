"""Write single records of an ext4 file system: inodes, extents, directory blocks.

Inodes and directory blocks come without their checksums: `krunpy.formats.ext4_write_checksum` fills in those of many
at once. Source: as `krunpy.formats.ext4_parse_inode`.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from krunpy.core.errors import FormatError
from krunpy.formats.crc32c import fold_crc32c
from krunpy.formats.ext4_write import BLOCK_SIZE, EXTRA_SIZE, INODE_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

INLINE_SIZE = 60  # bytes of i_block
XATTR_ROOM = INODE_SIZE - 128 - EXTRA_SIZE  # bytes behind an inode's fields
MAX_NAME = 255  # bytes
MAX_LINKS = 65000
MAX_EXTENT = 32768  # blocks
FLAG_EXTENTS = 0x80000
TAIL_SIZE = 12  # bytes at the end of a directory block, with its checksum

_INODE = struct.Struct("<HHIIIIIHHIII60sIIIIHHHHHHHHIIIIIII")
_EXTENT_MAGIC = 0xF30A
_HEADER = struct.Struct("<HHHHI")
_EXTENT = struct.Struct("<IHHI")
_INDEX = struct.Struct("<IIHH")
_ROOT_EXTENTS = 4
_BLOCK_EXTENTS = (BLOCK_SIZE - _HEADER.size - 4) // _EXTENT.size
_DIRENT = struct.Struct("<IHBB")
_TAIL = struct.pack("<IHBBI", 0, TAIL_SIZE, 0, 0xDE, 0)
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
    major, minor = os.major(device), os.minor(device)
    if major >= 1 << 12 or minor >= 1 << 20:
        raise FormatError("cannot pack an ext4 inode", why=f"device {major}:{minor} is over 4095:1048575")
    if major < 256 and minor < 256:  # noqa: PLR2004 - the old form, 8 bits each
        return struct.pack("<I", major << 8 | minor)
    return struct.pack("<II", 0, minor & 0xFF | major << 8 | (minor & ~0xFF) << 12)


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
    entries = [(each.logical, _EXTENT.pack(each.logical, each.blocks, 0, each.physical)) for each in extents]
    depth = 0
    while len(entries) > _ROOT_EXTENTS:
        above = []
        for first in range(0, len(entries), _BLOCK_EXTENTS):
            part = entries[first : first + _BLOCK_EXTENTS]
            body = _pack_node([entry for _, entry in part], _BLOCK_EXTENTS, depth)
            packed.append(body + struct.pack("<I", fold_crc32c(seed, body)))
            above.append((part[0][0], _INDEX.pack(part[0][0], next(free), 0, 0)))
        entries = above
        depth += 1
    return _pack_node([entry for _, entry in entries], _ROOT_EXTENTS, depth), packed


def _pack_node(entries: Sequence[bytes], room: int, depth: int) -> bytes:
    header = _HEADER.pack(_EXTENT_MAGIC, len(entries), room, depth, 0)
    return (header + b"".join(entries)).ljust(_HEADER.size + room * _EXTENT.size, b"\0")


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
        parts.append((_DIRENT.pack(number, size, len(name), kind) + name).ljust(size, b"\0"))
        left -= size
    return b"".join((*parts, _TAIL))


def _measure(name: bytes) -> int:
    return -(-(_DIRENT.size + len(name)) // 4) * 4
