"""Lay planned inodes out as an ext4 file system, and pack all of it that is not the contents of files.

In front lie superblock, descriptors, bitmaps and inode tables of all groups; then, inode by inode, directories, files
and what belongs to them. Copies of the superblock cut what crosses them in two. This module writes nothing.
"""

from __future__ import annotations

import uuid
from collections import Counter
from hashlib import sha256
from typing import TYPE_CHECKING

from krunpy.core.errors import FormatError
from krunpy.formats import ext4_write as ext4
from krunpy.formats import ext4_write_inode as records
from krunpy.formats.ext4_parse_inode import FLAG_EXTENTS
from krunpy.formats.ext4_write import BLOCK_SIZE, BLOCKS_PER_GROUP, INODE_SIZE, Geometry, Group, Identity
from krunpy.formats.ext4_write_checksum import fill_directories, fill_inodes, seed_inode
from krunpy.formats.ext4_write_xattr import pack_after_inode, pack_block
from krunpy.image.libkrun_sev_plan import digest_places
from krunpy.image.place import TYPES, WHAT
from krunpy.image.tree import Node, NodeKind, refuse

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from krunpy.image.libkrun_sev_plan import Place
    from krunpy.image.libkrun_sev_slop import Slop

_BATCH = 1024  # directory blocks whose checksums are made at once


class _FullError(Exception):
    """The geometry is too small for what is to lie in it."""


class _Room:
    """What is free in a file system: gaps between the copies of the superblock, taken from the front."""

    def __init__(self, geometry: Geometry) -> None:
        starts = [group * BLOCKS_PER_GROUP for group in geometry.list_heads()]
        ends = [*starts[1:], geometry.blocks]
        self.gaps = [(start + geometry.head_blocks, end) for start, end in zip(starts, ends, strict=True)]

    def take_whole(self, blocks: int) -> int:
        """Return the first of contiguous blocks."""
        for index, (start, end) in enumerate(self.gaps):
            if end - start >= blocks:
                self.gaps[index] = (start + blocks, end)
                return start
        raise _FullError

    def take(self, blocks: int) -> list[tuple[int, int]]:
        """Return runs of blocks: (first, blocks)."""
        found = []
        while blocks:
            while self.gaps and self.gaps[0][0] == self.gaps[0][1]:
                self.gaps.pop(0)
            if not self.gaps:
                raise _FullError
            start, end = self.gaps[0]
            count = min(blocks, end - start)
            found.append((start, count))
            self.gaps[0] = (start + count, end)
            blocks -= count
        return found


class Layout:
    """An ext4 file system that is planned but not written.

    places:   as `plan_places` gives them.
    geometry: its size.
    gaps:     what stays free: (first block, last + 1).
    digest:   of everything it shows, 32 bytes.
    """

    def __init__(self, places: Mapping[int, Place], slop: Slop) -> None:
        """Plan the file system. Raises BundleError if it would be too large for ext4."""
        self.places = places
        self.used_inodes = ext4.FIRST_INODE - 2 + len(places)
        content = sum(
            place.data_blocks + bool(place.outside) + records.count_map_blocks(len(place.shape.runs))
            for place in places.values()
        )
        free = slop.count_free(content * BLOCK_SIZE) // BLOCK_SIZE
        inodes = self.used_inodes + slop.count_free_inodes(len(places))
        short = 0
        while True:
            geometry = ext4.plan_geometry(content_blocks=content + short, free_blocks=free, inodes=inodes)
            if geometry.blocks > ext4.MAX_BLOCKS:
                raise refuse(
                    WHAT, b"", f"needs {geometry.blocks} blocks of 4096 bytes, at most {ext4.MAX_BLOCKS}"
                )
            try:
                left = self._lay_out(geometry)
            except _FullError:
                short += geometry.table_blocks
                continue
            if left >= free:
                break
            short += free - left
        self.digest = digest_places(places, geometry.blocks)
        self._identity = Identity(
            uuid=uuid.UUID(bytes=sha256(b"uuid" + self.digest).digest()[:16], version=4).bytes,
            hash_seed=sha256(b"hash seed" + self.digest).digest()[:16],
        )
        self._seed = self._identity.checksum_seed

    def find_place(self, node: Node) -> Place:
        """Return where a node of the tree lies. Raises KeyError for a node that is not in it."""
        return self.places[id(node)]

    def list_files(self) -> Iterator[Place]:
        """Yield the places of regular files that have contents, in the order of their blocks."""
        return (place for place in self.places.values() if place.node.kind is NodeKind.FILE and place.size)

    def pack_metadata(self) -> Iterator[tuple[int, bytes | bytearray]]:
        """Yield (first block, whole blocks) of everything but files' contents and free space."""
        directories = Counter(
            (place.number - 1) // self.geometry.inodes_per_group
            for place in self.places.values()
            if place.node.kind is NodeKind.DIRECTORY
        )
        groups = [self._describe_group(number, directories[number]) for number in range(self.geometry.groups)]
        yield from self._pack_heads(groups)
        for group in groups:
            yield group.block_bitmap, group.block_bits
            yield group.inode_bitmap, group.inode_bits
        yield from self._pack_directories()
        inodes = {place.number: place for place in self.places.values()}
        for number, group in enumerate(groups):
            table = bytearray()
            first = number * self.geometry.inodes_per_group + 1
            for inode in range(first, min(first + self.geometry.inodes_per_group, self.used_inodes + 1)):
                place = inodes.get(inode)
                if place is None:
                    table += bytes(INODE_SIZE)
                    continue
                packed, others = self._pack_inode(place)
                table += packed
                yield from others
            fill_inodes(table, range(first, first + len(table) // INODE_SIZE), self._seed)
            yield group.inode_table, table.ljust(self.geometry.table_blocks * BLOCK_SIZE, b"\0")

    def _lay_out(self, geometry: Geometry) -> int:
        """Give everything its blocks; return how many stay free."""
        room = _Room(geometry)
        bitmaps = [(room.take_whole(1), room.take_whole(1)) for _ in range(geometry.groups)]
        tables = [room.take_whole(geometry.table_blocks) for _ in range(geometry.groups)]
        counted = 0
        for place in self.places.values():
            place.extents = [
                extent
                for logical, blocks in place.shape.runs
                for extent in records.split_extents(logical, room.take(blocks))
            ]
            needed = records.count_map_blocks(len(place.extents))
            place.map_blocks = [room.take_whole(1) for _ in range(needed)]
            place.xattr_block = room.take_whole(1) if place.outside else 0
            if place.node.kind is NodeKind.FILE:
                place.block = counted
                counted += -(-place.size // BLOCK_SIZE)
        self.geometry = geometry
        self.gaps = [gap for gap in room.gaps if gap[0] < gap[1]]
        self._bitmaps, self._tables = bitmaps, tables
        return sum(end - start for start, end in self.gaps)

    def _describe_group(self, number: int, directories: int) -> Group:
        geometry = self.geometry
        first = number * BLOCKS_PER_GROUP
        bits, free = (1 << BLOCKS_PER_GROUP) - 1, 0
        for start, end in self.gaps:
            low, high = max(start, first) - first, min(end, first + BLOCKS_PER_GROUP) - first
            if low < high:
                bits ^= (1 << high) - (1 << low)
                free += high - low
        per_group = geometry.inodes_per_group
        used = min(max(self.used_inodes - number * per_group, 0), per_group)
        return Group(
            block_bitmap=self._bitmaps[number][0],
            inode_bitmap=self._bitmaps[number][1],
            inode_table=self._tables[number],
            free_blocks=free,
            free_inodes=per_group - used,
            directories=directories,
            unused_inodes=per_group - used,
            block_bits=bits.to_bytes(BLOCK_SIZE, "little"),
            inode_bits=ext4.make_bits(per_group, used),
        )

    def _pack_heads(self, groups: list[Group]) -> Iterator[tuple[int, bytes]]:
        descriptors = b"".join(
            ext4.pack_descriptor(self.geometry, self._seed, number, group)
            for number, group in enumerate(groups)
        )
        free_blocks = sum(group.free_blocks for group in groups)
        for number in self.geometry.list_heads():
            superblock = ext4.pack_superblock(
                self.geometry,
                self._identity,
                free_blocks=free_blocks,
                free_inodes=self.geometry.inodes - self.used_inodes,
                group=number,
            )
            yield number * BLOCKS_PER_GROUP, ext4.pack_head(superblock, descriptors, number)

    def _pack_inode(self, place: Place) -> tuple[bytes, list[tuple[int, bytes]]]:
        """Return the inode, and the blocks that belong to it."""
        node = place.node
        others: list[tuple[int, bytes]] = []
        flags, block_map = 0, b""
        try:
            match node.kind:
                case NodeKind.CHAR | NodeKind.BLOCK:
                    block_map = records.pack_device(node.rdev)
                case NodeKind.SYMLINK if not place.extents:
                    block_map = node.target
                case NodeKind.FILE | NodeKind.DIRECTORY | NodeKind.SYMLINK:
                    flags = FLAG_EXTENTS
                    seed = seed_inode(place.number, self._seed)
                    block_map, nodes = records.pack_map(place.extents, place.map_blocks, seed)
                    others += zip(place.map_blocks, nodes, strict=True)
                case _:
                    pass
            if place.outside:
                others.append((place.xattr_block, pack_block(place.outside, place.xattr_block, self._seed)))
            if node.kind is NodeKind.SYMLINK and place.extents:
                others.append((place.extents[0].physical, node.target.ljust(BLOCK_SIZE, b"\0")))
            inode = records.Inode(
                mode=TYPES[node.kind][1] | node.mode,
                uid=node.uid,
                gid=node.gid,
                links=place.links,
                size=place.size,
                mtime=node.mtime,
                sectors=place.sectors,
                flags=flags,
                map=block_map,
                xattrs=pack_after_inode(place.inside),
                xattr_block=place.xattr_block,
            )
            return records.pack_inode(inode), others
        except FormatError as error:
            raise refuse(WHAT, place.find_path(), f"cannot be represented: {error.why}") from error

    def _pack_directories(self) -> Iterator[tuple[int, bytearray]]:
        blocks, numbers, addresses = bytearray(), list[int](), list[int]()
        for place in self.places.values():
            if place.node.kind is not NodeKind.DIRECTORY:
                continue
            addresses += [each.physical + step for each in place.extents for step in range(each.blocks)]
            for first, last in records.split_directory(place.names):
                blocks += records.pack_directory_block(
                    [self._find_entry(place, name) for name in place.names[first:last]]
                )
                numbers.append(place.number)
            if len(numbers) >= _BATCH:
                yield from self._seal_directories(blocks, numbers, addresses)
                blocks, numbers, addresses = bytearray(), [], []
        yield from self._seal_directories(blocks, numbers, addresses)

    def _seal_directories(
        self, blocks: bytearray, numbers: list[int], addresses: list[int]
    ) -> Iterator[tuple[int, bytearray]]:
        if not numbers:
            return
        fill_directories(blocks, numbers, self._seed)
        for index, address in enumerate(addresses):
            yield address, blocks[index * BLOCK_SIZE : (index + 1) * BLOCK_SIZE]

    def _find_entry(self, place: Place, name: bytes) -> tuple[bytes, int, int]:
        target = place.find_entry(name, self.places)
        return name, target.number, TYPES[target.node.kind][0]
