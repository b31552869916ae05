"""Write the records of an ext4 file system that describe the whole of it: geometry, superblock, group descriptors.

The form is fixed: blocks of 4 KiB, inodes of 256 bytes, extents, checksums of all metadata, no journal, and the
bitmaps and inode tables of all groups together at the front (flex_bg). `krunpy.image.libkrun_sev_ext4` decides what
lies where. Source: Linux 6.12, fs/ext4/ext4.h and super.c; e2fsprogs 1.47.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from krunpy.formats.crc32c import CRC32C_START, fold_crc32c
from krunpy.formats.ext4_parse import MAGIC, SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK_SIZE = 4096  # bytes
INODE_SIZE = 256  # bytes
INODES_PER_BLOCK = BLOCK_SIZE // INODE_SIZE
BLOCKS_PER_GROUP = 8 * BLOCK_SIZE  # what one block of bits can count
MAX_INODES_PER_GROUP = 8 * BLOCK_SIZE
MAX_BLOCKS = 2**32 - 1  # 16 TiB
FIRST_INODE = 11  # those before are ext4's own
BYTES_PER_INODE = 16384  # one inode for so many bytes at least, as mke2fs has it
EXTRA_SIZE = 32  # bytes of an inode behind the first 128 that are fields

_DESCRIPTOR = struct.Struct("<IIIHHHHIHHHH")
_DESCRIPTOR_CHECKSUM_AT = 30
_LAST_GROUP_ROOM = 64  # blocks that a group has beyond its copy of the superblock
_ZEROED = 4  # flag of a group: its inode table is written
_COMPAT = 0x8 | 0x20  # ext_attr, dir_index
_INCOMPAT = 0x2 | 0x40 | 0x200  # filetype, extents, flex_bg
_RO_COMPAT = (
    0x1 | 0x2 | 0x8 | 0x20 | 0x40 | 0x400
)  # sparse_super, large_file, huge_file, dir_nlink, extra_isize, csum
_HALF_MD4, _SIGNED_HASH, _CRC32C = 1, 1, 1
_USER_XATTR_ACL = 0xC  # default mount options
_CHECKSUM_AT = 0x3FC


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """How large the parts of a file system are, in blocks of BLOCK_SIZE and in inodes."""

    blocks: int
    inodes_per_group: int

    @property
    def groups(self) -> int:
        """Return the number of groups."""
        return -(-self.blocks // BLOCKS_PER_GROUP)

    @property
    def inodes(self) -> int:
        """Return the number of all inodes."""
        return self.groups * self.inodes_per_group

    @property
    def table_blocks(self) -> int:
        """Return the blocks of the inode table of one group."""
        return self.inodes_per_group // INODES_PER_BLOCK

    @property
    def head_blocks(self) -> int:
        """Return the blocks of the superblock and of all group descriptors, where a group has them."""
        return 1 + -(-self.groups * _DESCRIPTOR.size // BLOCK_SIZE)

    def list_heads(self) -> Iterator[int]:
        """Yield the groups that begin with a superblock: 0, 1, and powers of 3, 5 and 7."""
        return (group for group in range(self.groups) if _has_head(group))

    def count_group(self, group: int) -> int:
        """Return the blocks of a group; the last may be smaller."""
        return min(BLOCKS_PER_GROUP, self.blocks - group * BLOCKS_PER_GROUP)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """What the descriptor of one group says; addresses in blocks."""

    block_bitmap: int
    inode_bitmap: int
    inode_table: int
    free_blocks: int
    free_inodes: int
    directories: int
    unused_inodes: int
    block_bits: bytes
    inode_bits: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What tells one file system from another: 16 bytes of UUID, 16 bytes of the directories' hash seed."""

    uuid: bytes
    hash_seed: bytes

    @property
    def checksum_seed(self) -> int:
        """Return what checksums of metadata start from."""
        return fold_crc32c(CRC32C_START, self.uuid)


def plan_geometry(*, content_blocks: int, free_blocks: int, inodes: int) -> Geometry:
    """Return the smallest geometry with this room.

    content_blocks: of directories and files; inodes: all that are wanted, ext4's own among them.
    """
    blocks = content_blocks + free_blocks
    while True:
        groups = -(-blocks // BLOCKS_PER_GROUP)
        wanted = max(inodes, blocks * BLOCK_SIZE // BYTES_PER_INODE)
        per_group = -(-wanted // (groups * INODES_PER_BLOCK)) * INODES_PER_BLOCK
        if per_group > MAX_INODES_PER_GROUP:
            blocks = groups * BLOCKS_PER_GROUP + 1
            continue
        found = Geometry(blocks=blocks, inodes_per_group=per_group)
        heads = sum(1 for _ in found.list_heads()) * found.head_blocks
        need = content_blocks + free_blocks + heads + groups * (2 + found.table_blocks)
        last = blocks - (groups - 1) * BLOCKS_PER_GROUP
        need = max(need, blocks - last + min(found.head_blocks + _LAST_GROUP_ROOM, BLOCKS_PER_GROUP))
        if need <= blocks:
            return found
        blocks = need


def pack_superblock(
    geometry: Geometry, identity: Identity, *, free_blocks: int, free_inodes: int, group: int
) -> bytes:
    """Return the SUPERBLOCK_SIZE bytes of the superblock that lies in a group. Its times are 0."""
    block = bytearray(SUPERBLOCK_SIZE)
    struct.pack_into(
        "<IIIIIIIIIIIIIHHHHHHIIIIHHIHHIII16s", block, 0,
        geometry.inodes, geometry.blocks, 0, free_blocks, free_inodes, 0, 2, 2, BLOCKS_PER_GROUP,
        BLOCKS_PER_GROUP, geometry.inodes_per_group, 0, 0, 0, 0xFFFF, MAGIC, 1, 1, 0, 0, 0, 0, 1, 0, 0,
        FIRST_INODE, INODE_SIZE, group, _COMPAT, _INCOMPAT, _RO_COMPAT, identity.uuid,
    )  # fmt: skip
    block[0xEC:0xFC] = identity.hash_seed
    block[0xFC] = _HALF_MD4
    struct.pack_into("<I", block, 0x100, _USER_XATTR_ACL)
    struct.pack_into("<HHI", block, 0x15C, EXTRA_SIZE, EXTRA_SIZE, _SIGNED_HASH)
    block[0x174] = 4  # groups of 16 are filled together
    block[0x175] = _CRC32C
    struct.pack_into("<I", block, _CHECKSUM_AT, fold_crc32c(CRC32C_START, block[:_CHECKSUM_AT]))
    return bytes(block)


def pack_descriptor(geometry: Geometry, seed: int, number: int, group: Group) -> bytes:
    """Return the descriptor of a group. seed: of checksums."""
    packed = bytearray(
        _DESCRIPTOR.pack(
            group.block_bitmap, group.inode_bitmap, group.inode_table, group.free_blocks, group.free_inodes,
            group.directories, _ZEROED, 0, fold_crc32c(seed, group.block_bits) & 0xFFFF,
            fold_crc32c(seed, group.inode_bits[: geometry.inodes_per_group // 8]) & 0xFFFF,
            group.unused_inodes, 0,
        )
    )  # fmt: skip
    checksum = fold_crc32c(fold_crc32c(seed, struct.pack("<I", number)), packed) & 0xFFFF
    struct.pack_into("<H", packed, _DESCRIPTOR_CHECKSUM_AT, checksum)
    return bytes(packed)


def pack_head(superblock: bytes, descriptors: bytes, group: int) -> bytes:
    """Return whole blocks: a superblock and all descriptors, as they lie at the start of a group."""
    start = SUPERBLOCK_OFFSET if group == 0 else 0
    first = bytes(start) + superblock + bytes(BLOCK_SIZE - start - SUPERBLOCK_SIZE)
    return first + descriptors + bytes(-len(descriptors) % BLOCK_SIZE)


def make_bits(size: int, used: int) -> bytes:
    """Return a block of bits of which the first `used`, and all from `size` on, are set."""
    value = (1 << 8 * BLOCK_SIZE) - (1 << size) | (1 << used) - 1
    return value.to_bytes(BLOCK_SIZE, "little")


def _has_head(group: int) -> bool:
    if group <= 1:
        return True
    for base in (3, 5, 7):
        power = base
        while power < group:
            power *= base
        if power == group:
            return True
    return False
