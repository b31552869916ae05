"""Read single records of an ext4 file system: inodes, directory blocks and extents.

Each takes the bytes of one record and what its checksum is seeded with, and knows nothing of where it lies.
Source: Linux 6.12, fs/ext4/ext4.h, ext4_extents.h and namei.c.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from krunpy.core.errors import FormatError
from krunpy.formats.crc32c import fold_crc32c
from krunpy.formats.ext4_parse import WHAT

if TYPE_CHECKING:
    from collections.abc import Iterator

INLINE_SIZE = 60  # bytes of i_block: a short symlink, a device number, or the roots of the block map
FLAG_INDEX, FLAG_EXTENTS = 0x1000, 0x80000
_REFUSED = {
    0x4: "compressed",
    0x800: "encrypted",
    0x200000: "an extended attribute's own inode",
    0x10000000: "inline data",
    0x40000000: "case-folded",
}
_INODE = struct.Struct("<HHI8xI4xHHII4x60sIII4xHHHHH2x")
_EXTRA = struct.Struct("<HH4xI")  # extra size, checksum high, time of change's extra bits
_EXTRA_AT = 128
EXTENT_MAGIC = 0xF30A
EXTENT_HEADER = struct.Struct("<HHHHI")
EXTENT = struct.Struct("<IHHI")
INDEX = struct.Struct("<IIH2x")
_UNWRITTEN = 32768  # blocks; a longer extent is reserved but reads as zeros
DIRENT = struct.Struct("<IHBB")
TAIL_SIZE = 12  # bytes, with a checksum that looks like an entry
TAIL_KIND = 0xDE
_DEPTH_LIMIT = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Inode:
    """One inode.

    mode:   type and permission bits, 16 bits.
    mtime:  seconds since 1970.
    map:    INLINE_SIZE bytes.
    xattr_block: 0 if there is none.
    extra:  the bytes behind the fixed part, where extended attributes may lie.
    seed:   what checksums of this inode's blocks start from; None if there are none.
    """

    number: int
    mode: int
    uid: int
    gid: int
    links: int
    size: int
    mtime: int
    flags: int
    map: bytes = field(repr=False)
    xattr_block: int
    extra: bytes = field(repr=False)
    seed: int | None


@dataclass(frozen=True, slots=True)
class Extent:
    """`blocks` blocks of a file from `logical`, stored from `physical`; zeros if that is None."""

    logical: int
    blocks: int
    physical: int | None


@dataclass(frozen=True, slots=True)
class Branch:
    """A block that holds the extents of a file from `logical` on."""

    logical: int
    physical: int


def parse_inode(data: bytes, number: int, seed: int | None) -> Inode:
    """Return an inode that is in use. data: inode_size bytes; seed: of the file system's checksums.

    Raises FormatError if it is damaged, free, or of a kind that is not read.
    """
    where = f"{WHAT}: inode {number}"
    if len(data) < _EXTRA_AT:
        raise FormatError(where, why=f"it is cut off after {len(data)} bytes")
    (
        mode, uid, size, mtime, gid, links, _, flags, block_map, generation, acl, size_high, _, acl_high,
        uid_high, gid_high, checksum,
    ) = _INODE.unpack_from(data)  # fmt: skip
    extra_size, checksum_high, mtime_extra = 0, None, 0
    if len(data) > _EXTRA_AT:
        extra_size, high, extra = _EXTRA.unpack_from(data, _EXTRA_AT)
        if extra_size % 4 or extra_size > len(data) - _EXTRA_AT:
            raise FormatError(where, why=f"it says that {extra_size} bytes follow its fixed part")
        checksum_high = high if extra_size >= 4 else None  # noqa: PLR2004 - bytes to its end
        mtime_extra = extra & 3 if extra_size >= 12 else 0  # noqa: PLR2004 - bytes to its end
    if seed is not None:
        seed = fold_crc32c(seed, struct.pack("<II", number, generation))
        _require_checksum(where, data, seed, checksum, checksum_high)
    if not mode or not links:
        raise FormatError(where, why="it is free, but a directory names it")
    for bit, name in _REFUSED.items():
        if flags & bit:
            raise FormatError(where, why=f"it is {name}, which is not read")
    signed = mtime - (1 << 32) if mtime >> 31 else mtime
    return Inode(
        number=number,
        mode=mode,
        uid=uid | uid_high << 16,
        gid=gid | gid_high << 16,
        links=links,
        size=size | size_high << 32,
        mtime=signed + (mtime_extra << 32),
        flags=flags,
        map=block_map,
        xattr_block=acl | acl_high << 32,
        extra=data[_EXTRA_AT + extra_size :] if extra_size else b"",
        seed=seed,
    )


def _require_checksum(where: str, data: bytes, seed: int, low: int, high: int | None) -> None:
    cleared = bytearray(data)
    cleared[0x7C:0x7E] = b"\0\0"
    seen = low
    if high is not None:
        cleared[0x82:0x84] = b"\0\0"
        seen |= high << 16
    wanted = fold_crc32c(seed, bytes(cleared)) & (0xFFFF if high is None else 0xFFFFFFFF)
    if seen != wanted:
        raise FormatError(where, why=f"checksum: seen {seen:#x}, wanted {wanted:#x}")


def parse_extents(data: bytes, inode: Inode, depth: int | None) -> tuple[int, tuple[Extent | Branch, ...]]:
    """Return (depth, extents or branches) of one node of a file's extent tree.

    data: a block, or the inode's map for the root. depth: what a block must have, None for the root.

    Raises FormatError if it is damaged; the parts ascend and do not overlap.
    """
    where = f"{WHAT}: extents of inode {inode.number}"
    if len(data) < EXTENT_HEADER.size:
        raise FormatError(where, why="they are cut off")
    magic, count, room, seen_depth, _ = EXTENT_HEADER.unpack_from(data)
    end = EXTENT_HEADER.size + room * EXTENT.size
    is_deep = seen_depth > _DEPTH_LIMIT or (depth is not None and seen_depth != depth)
    if magic != EXTENT_MAGIC or is_deep or count > room or end > len(data):
        raise FormatError(where, why=f"magic {magic:#x}, depth {seen_depth}, {count} of {room} entries")
    if depth is not None:
        _require_tail(where, data, end, inode.seed)
        if not count:
            raise FormatError(where, why="a block of them is empty")
    found: list[Extent | Branch] = []
    least = 0
    for index in range(count):
        part = _unpack_part(data, EXTENT_HEADER.size + index * EXTENT.size, is_leaf=seen_depth == 0)
        blocks = part.blocks if isinstance(part, Extent) else 1
        if part.logical < least or not blocks:
            raise FormatError(where, why=f"{blocks} blocks at {part.logical} overlap those before")
        least = part.logical + blocks
        found.append(part)
    return seen_depth, tuple(found)


def _unpack_part(data: bytes, offset: int, *, is_leaf: bool) -> Extent | Branch:
    if not is_leaf:
        logical, low, high = INDEX.unpack_from(data, offset)
        return Branch(logical, low | high << 32)
    logical, blocks, high, low = EXTENT.unpack_from(data, offset)
    if blocks > _UNWRITTEN:
        return Extent(logical, blocks - _UNWRITTEN, None)
    return Extent(logical, blocks, low | high << 32)


def _require_tail(where: str, data: bytes, end: int, seed: int | None) -> None:
    if seed is None:
        return
    seen, wanted = int.from_bytes(data[end : end + 4], "little"), fold_crc32c(seed, data[:end])
    if end + 4 > len(data) or seen != wanted:
        raise FormatError(where, why=f"checksum: seen {seen:#x}, wanted {wanted:#x}")


def parse_directory(data: bytes, inode: Inode, *, is_first: bool) -> Iterator[tuple[bytes, int]]:
    """Yield (name, inode number) of one directory block, "." and ".." as well.

    An index of names (htree) is passed over: its blocks look empty. is_first: of its directory.

    Raises FormatError if it is damaged.
    """
    where = f"{WHAT}: directory of inode {inode.number}"
    if inode.seed is not None:
        _require_directory_checksum(where, data, inode, is_first=is_first)
    offset = 0
    while offset < len(data):
        if offset + DIRENT.size > len(data):
            raise FormatError(where, why=f"an entry at {offset} is cut off")
        number, length, name_size, _ = DIRENT.unpack_from(data, offset)
        end = offset + length
        if length % 4 or length < DIRENT.size + name_size or length < TAIL_SIZE or end > len(data):
            raise FormatError(where, why=f"an entry at {offset} has {length} bytes, its name {name_size}")
        if number:
            name = data[offset + DIRENT.size : offset + DIRENT.size + name_size]
            if not name or b"/" in name or b"\0" in name:
                raise FormatError(where, why=f"an entry at {offset} has a name that no file can have")
            yield name, number
        offset = end


def _require_directory_checksum(where: str, data: bytes, inode: Inode, *, is_first: bool) -> None:
    assert inode.seed is not None
    if inode.flags & FLAG_INDEX:
        start = 32 if is_first else 8 if int.from_bytes(data[4:6], "little") == len(data) else 0
        if start:
            _require_index_checksum(where, data, inode.seed, start)
            return
    tail = data[-TAIL_SIZE:]
    if tail[:8] != DIRENT.pack(0, TAIL_SIZE, 0, TAIL_KIND):
        raise FormatError(where, why="a block of it has no checksum")
    seen, wanted = int.from_bytes(tail[8:], "little"), fold_crc32c(inode.seed, data[:-TAIL_SIZE])
    if seen != wanted:
        raise FormatError(where, why=f"checksum: seen {seen:#x}, wanted {wanted:#x}")


def _require_index_checksum(where: str, data: bytes, seed: int, start: int) -> None:
    room, count = struct.unpack_from("<HH", data, start)
    at = start + room * 8
    if count > room or at + 8 > len(data):
        raise FormatError(where, why=f"its index has {count} of {room} entries")
    wanted = fold_crc32c(fold_crc32c(seed, data[: start + count * 8]), data[at : at + 4] + bytes(4))
    seen = int.from_bytes(data[at + 4 : at + 8], "little")
    if seen != wanted:
        raise FormatError(where, why=f"checksum of its index: seen {seen:#x}, wanted {wanted:#x}")
