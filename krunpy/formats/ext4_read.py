"""Find inodes, directories and the data of files in an ext4 file system that somebody else reads.

The caller hands in a function that gives bytes of the volume. Every walk is bounded by the volume: a block that
is mapped more often than there are blocks is refused, and so are maps that do not ascend. This module builds no
tree. Source: as `krunpy.formats.ext4_parse`.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from typing import TYPE_CHECKING

from krunpy.core.errors import FormatError
from krunpy.formats.ext4_parse import (
    ROOT_INODE,
    SUPERBLOCK_OFFSET,
    SUPERBLOCK_SIZE,
    WHAT,
    parse_inode_table,
    parse_superblock,
)
from krunpy.formats.ext4_parse_inode import (
    FLAG_EXTENTS,
    INLINE_SIZE,
    Extent,
    Inode,
    parse_directory,
    parse_extents,
    parse_inode,
)
from krunpy.formats.ext4_parse_xattr import parse_xattr_block, parse_xattrs_after_inode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PAGE = 65536  # bytes of metadata read at once
_PAGES = 128  # of them kept
_DIRECT = 12  # block numbers in an inode before the indirect ones
_DIRECTORY_LIMIT = 256 * 1024 * 1024  # bytes of one directory
_LEVELS = 3
_TARGET_LIMIT = 4096  # bytes of a symlink


class BlockMeter:
    """Counts blocks that were mapped: a sound file system maps each once."""

    def __init__(self, limit: int) -> None:
        self._left = limit

    def count(self, blocks: int) -> None:
        """Count more of them. Raises FormatError when there are more than the file system has."""
        self._left -= blocks
        if self._left < 0:
            raise FormatError(WHAT, why="its files share blocks, or more are mapped than it has")


class Filesystem:
    """An ext4 file system. superblock: what it says of itself."""

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        """Read the superblock. read: bytes from an offset and a size; size: bytes of the volume.

        Raises FormatError if it is no ext4 that is read here, or longer than the volume.
        """
        self._read = read
        self._pages: OrderedDict[int, bytes] = OrderedDict()
        self._tables: dict[int, int] = {}
        self.superblock = parse_superblock(read(SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE))
        if self.superblock.size > size:
            raise FormatError(WHAT, why=f"it has {self.superblock.size} bytes, the volume {size}")

    def make_meter(self) -> BlockMeter:
        """Return a meter for one walk over files or directories."""
        return BlockMeter(self.superblock.blocks)

    def read_data(self, offset: int, size: int) -> bytes:
        """Return bytes of the volume, not kept. Raises FormatError if they are not all there."""
        data = self._read(offset, size)
        if len(data) != size:
            raise FormatError(WHAT, why=f"{size} bytes at {offset} are cut off")
        return data

    def read_inode(self, number: int) -> Inode:
        """Return an inode in use: the root, or one that directories name. Raises FormatError."""
        block = self.superblock
        if number != ROOT_INODE and not block.first_inode <= number <= block.inodes:
            raise FormatError(WHAT, why=f"a directory names inode {number}, which no file can have")
        group, index = divmod(number - 1, block.inodes_per_group)
        offset = self._find_table(group) * block.block_size + index * block.inode_size
        return parse_inode(self._read_metadata(offset, block.inode_size), number, block.checksum_seed)

    def list_directory(self, inode: Inode, meter: BlockMeter) -> Iterator[tuple[bytes, int]]:
        """Yield (name, inode number) of a directory without "." and "..". Raises FormatError."""
        size = self.superblock.block_size
        if not inode.size or inode.size % size or inode.size > _DIRECTORY_LIMIT:
            raise FormatError(f"{WHAT}: directory of inode {inode.number}", why=f"it has {inode.size} bytes")
        end = 0
        for offset, place, length in self.map_data(inode, meter):
            for step in range(0, length, size):
                block = self._read_metadata(place + step, size)
                for name, number in parse_directory(block, inode, is_first=offset + step == 0):
                    if name not in (b".", b".."):
                        yield name, number
            if offset != end:
                raise FormatError(f"{WHAT}: directory of inode {inode.number}", why=f"it has a hole at {end}")
            end = offset + length
        if end != inode.size:
            raise FormatError(f"{WHAT}: directory of inode {inode.number}", why=f"it has a hole at {end}")

    def read_target(self, inode: Inode) -> bytes:
        """Return the target of a symlink. Raises FormatError."""
        if inode.size < INLINE_SIZE:
            return inode.map[: inode.size]
        if inode.size > _TARGET_LIMIT:
            raise FormatError(
                f"{WHAT}: inode {inode.number}", why=f"it is a symlink with a target of {inode.size} bytes"
            )
        found = bytearray(inode.size)
        for offset, place, length in self.map_data(inode, self.make_meter()):
            part = self._read_metadata(place, min(length, inode.size - offset))
            found[offset : offset + len(part)] = part
        return bytes(found)

    def read_xattrs(self, inode: Inode) -> dict[bytes, bytes]:
        """Return the extended attributes of an inode by their full names. Raises FormatError."""
        found = parse_xattrs_after_inode(inode.extra, inode.number)
        if inode.xattr_block:
            place = self._locate(inode.xattr_block, 1)
            data = self._read_metadata(place, self.superblock.block_size)
            further = parse_xattr_block(data, inode.xattr_block, self.superblock.checksum_seed)
            if further.keys() & found.keys():
                raise FormatError(f"{WHAT}: inode {inode.number}", why="an extended attribute is there twice")
            found |= further
        return found

    def map_data(self, inode: Inode, meter: BlockMeter) -> Iterator[tuple[int, int, int]]:
        """Yield (offset in the file, offset in the volume, bytes), ascending; what is left out is zeros.

        The last one may reach past the size, to the end of its block. Raises FormatError.
        """
        size = self.superblock.block_size
        wanted = -(-inode.size // size)
        extents = (
            self._walk_extents(inode) if inode.flags & FLAG_EXTENTS else self._walk_blocks(inode, wanted)
        )
        least = 0
        for extent in extents:
            if extent.logical < least:
                raise FormatError(
                    f"{WHAT}: inode {inode.number}", why=f"its block {extent.logical} is mapped twice"
                )
            least = extent.logical + extent.blocks
            blocks = min(least, wanted) - extent.logical
            if blocks <= 0:
                return
            if extent.physical is not None:
                meter.count(blocks)
                place = self._locate(extent.physical, extent.blocks)
                yield extent.logical * size, place, blocks * size

    def _walk_extents(self, inode: Inode) -> Iterator[Extent]:
        depth, parts = parse_extents(inode.map, inode, None)
        pending = [(depth, part) for part in reversed(parts)]
        while pending:
            depth, part = pending.pop()
            if isinstance(part, Extent):
                yield part
                continue
            data = self._read_metadata(self._locate(part.physical, 1), self.superblock.block_size)
            _, below = parse_extents(data, inode, depth - 1)
            first = below[0].logical
            after = pending[-1][1].logical if pending else 1 << 32
            if first < part.logical or below[-1].logical >= after:
                raise FormatError(
                    f"{WHAT}: extents of inode {inode.number}",
                    why=f"block {first} does not belong to its branch",
                )
            pending.extend((depth - 1, each) for each in reversed(below))

    def _walk_blocks(self, inode: Inode, wanted: int) -> Iterator[Extent]:
        """Yield the blocks of a file whose map is that of ext2, up to `wanted`."""
        numbers = struct.unpack(f"<{_DIRECT + _LEVELS}I", inode.map)
        for logical, number in enumerate(numbers[:_DIRECT]):
            if number:
                yield Extent(logical, 1, number)
        per_block = self.superblock.block_size // 4
        logical = _DIRECT
        for level, number in enumerate(numbers[_DIRECT:], start=1):
            if number and logical < wanted:
                yield from self._walk_indirect(number, level, logical, wanted)
            logical += per_block**level

    def _walk_indirect(self, number: int, level: int, logical: int, wanted: int) -> Iterator[Extent]:
        per_block = self.superblock.block_size // 4
        data = self._read_metadata(self._locate(number, 1), self.superblock.block_size)
        span = per_block ** (level - 1)
        for below in struct.unpack(f"<{per_block}I", data):
            if logical >= wanted:
                return
            if below and level == 1:
                yield Extent(logical, 1, below)
            elif below:
                yield from self._walk_indirect(below, level - 1, logical, wanted)
            logical += span

    def _find_table(self, group: int) -> int:
        found = self._tables.get(group)
        if found is None:
            block = self.superblock
            start = (block.first_block + 1) * block.block_size + group * block.descriptor_size
            found = parse_inode_table(block, group, self._read_metadata(start, block.descriptor_size))
            self._tables[group] = found
        return found

    def _locate(self, number: int, blocks: int) -> int:
        block = self.superblock
        if not block.first_block < number <= block.blocks - blocks:
            raise FormatError(WHAT, why=f"{blocks} blocks at {number} lie outside its {block.blocks}")
        return number * block.block_size

    def _read_metadata(self, offset: int, size: int) -> bytes:
        """Return bytes of the volume through the pages that are kept; they do not cross pages often."""
        parts = []
        while size:
            number, start = divmod(offset, _PAGE)
            part = self._read_page(number)[start : start + size]
            if not part:
                raise FormatError(WHAT, why=f"{size} bytes at {offset} are cut off")
            parts.append(part)
            offset += len(part)
            size -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _read_page(self, number: int) -> bytes:
        page = self._pages.get(number)
        if page is not None:
            self._pages.move_to_end(number)
            return page
        page = self._read(number * _PAGE, _PAGE)
        self._pages[number] = page
        if len(self._pages) > _PAGES:
            self._pages.popitem(last=False)
        return page
