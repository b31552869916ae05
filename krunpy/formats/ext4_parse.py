"""Read the superblock and the group descriptors of an ext4 file system.

What would make the rest unreadable, or readable in two ways, is refused by name: a journal that was not replayed,
encryption, inline data, clusters. Checksums are verified where the file system has them (metadata_csum).
This module reads no device. Source: Linux 6.12, fs/ext4/ext4.h; Documentation/filesystems/ext4.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from krunpy.core.errors import FormatError
from krunpy.formats.crc32c import CRC32C_START, fold_crc32c

SUPERBLOCK_OFFSET = 1024  # bytes from the start of the volume
SUPERBLOCK_SIZE = 1024  # bytes
MAGIC = 0xEF53
ROOT_INODE = 2
WHAT = "cannot read the ext4 file system"

_MAGIC_AT, _CHECKSUM_AT = 0x38, 0x3FC
_FEATURE_FILETYPE, _FEATURE_EXTENTS, _FEATURE_64BIT = 0x2, 0x40, 0x80
_FEATURE_FLEX_BG, _FEATURE_CSUM_SEED, _FEATURE_LARGEDIR = 0x200, 0x2000, 0x4000
_READABLE = (
    _FEATURE_FILETYPE
    | _FEATURE_EXTENTS
    | _FEATURE_64BIT
    | _FEATURE_FLEX_BG
    | _FEATURE_CSUM_SEED
    | _FEATURE_LARGEDIR
)
_REFUSED = {
    0x1: "compression",
    0x4: "journal_recovery: it was not unmounted, and its journal is to be replayed first (e2fsck does)",
    0x8: "journal_dev: it is a journal, not a file system",
    0x10: "meta_bg",
    0x100: "mmp",
    0x400: "ea_inode",
    0x1000: "dirdata",
    0x8000: "inline_data",
    0x10000: "encrypt",
    0x20000: "casefold",
}
_RO_BIGALLOC, _RO_METADATA_CSUM, _RO_ORPHANS = 0x200, 0x400, 0x10000
_CLEAN, _WITH_ERRORS = 1, 2
_CRC32C = 1
_SMALLEST_INODE = 128  # bytes
_GROUPS_LIMIT = 1 << 20  # 128 TiB in groups of 128 MiB; the descriptors are 64 MiB


@dataclass(frozen=True, slots=True, kw_only=True)
class Superblock:
    """What the superblock says. Sizes in bytes, addresses in blocks.

    checksum_seed: what checksums of metadata start from; None if there are none.
    """

    label: str
    uuid: bytes
    block_size: int
    blocks: int
    first_block: int
    blocks_per_group: int
    inodes: int
    inodes_per_group: int
    first_inode: int
    inode_size: int
    descriptor_size: int
    free_blocks: int
    free_inodes: int
    checksum_seed: int | None

    @property
    def groups(self) -> int:
        """Return the number of block groups."""
        return -(-(self.blocks - self.first_block) // self.blocks_per_group)

    @property
    def size(self) -> int:
        """Return the bytes of the file system."""
        return self.blocks * self.block_size


def is_ext4(data: bytes) -> bool:
    """Say whether a volume begins as ext2, ext3 or ext4. data: its first 2 KiB."""
    at = SUPERBLOCK_OFFSET + _MAGIC_AT
    return len(data) >= SUPERBLOCK_OFFSET + SUPERBLOCK_SIZE and _u16(data, at) == MAGIC


def parse_superblock(data: bytes) -> Superblock:
    """Return the superblock. data: the SUPERBLOCK_SIZE bytes at SUPERBLOCK_OFFSET.

    Raises FormatError if it is damaged, contradicts itself, or has a feature that is not read.
    """
    if len(data) != SUPERBLOCK_SIZE or _u16(data, _MAGIC_AT) != MAGIC:
        raise FormatError(WHAT, why="it does not begin as one")
    incompatible = _require_features(data)
    log_size = _u32(data, 0x18)
    if log_size > 2:  # noqa: PLR2004 - 4 KiB
        raise FormatError(WHAT, why=f"block size: seen 1024 << {log_size}, wanted 1024, 2048 or 4096 bytes")
    is_old = _u32(data, 0x4C) == 0
    has_64bit = bool(incompatible & _FEATURE_64BIT)
    superblock = Superblock(
        label=data[0x78:0x88].split(b"\0")[0].decode("ascii", "backslashreplace"),
        uuid=data[0x68:0x78],
        block_size=1024 << log_size,
        blocks=_u32(data, 0x4) | (_u32(data, 0x150) << 32 if has_64bit else 0),
        first_block=_u32(data, 0x14),
        blocks_per_group=_u32(data, 0x20),
        inodes=_u32(data, 0x0),
        inodes_per_group=_u32(data, 0x28),
        first_inode=11 if is_old else _u32(data, 0x54),
        inode_size=128 if is_old else _u16(data, 0x58),
        descriptor_size=_u16(data, 0xFE) if has_64bit else 32,
        free_blocks=_u32(data, 0xC) | (_u32(data, 0x158) << 32 if has_64bit else 0),
        free_inodes=_u32(data, 0x10),
        checksum_seed=_find_seed(data, incompatible),
    )
    _require_sizes(superblock)
    return superblock


def _require_features(data: bytes) -> int:
    incompatible = _u32(data, 0x60)
    for bit, name in _REFUSED.items():
        if incompatible & bit:
            raise FormatError(WHAT, why=f"it has the feature {name}; it is not read")
    if incompatible & ~_READABLE:
        raise FormatError(WHAT, why=f"it has unknown features {incompatible & ~_READABLE:#x}")
    compatible = _u32(data, 0x64)
    if compatible & _RO_BIGALLOC:
        raise FormatError(WHAT, why="it has the feature bigalloc; it is not read")
    state = _u16(data, 0x3A)
    if not state & _CLEAN or state & _WITH_ERRORS or compatible & _RO_ORPHANS or _u32(data, 0xE8):
        raise FormatError(
            WHAT, why=f"it was not unmounted cleanly: state {state:#x}", next="mend it with e2fsck first"
        )
    return incompatible


def _find_seed(data: bytes, incompatible: int) -> int | None:
    if not _u32(data, 0x64) & _RO_METADATA_CSUM:
        return None
    if data[0x175] != _CRC32C:
        raise FormatError(WHAT, why=f"checksum type: seen {data[0x175]}, wanted {_CRC32C}, crc32c")
    seen, wanted = _u32(data, _CHECKSUM_AT), fold_crc32c(CRC32C_START, data[:_CHECKSUM_AT])
    if seen != wanted:
        raise FormatError(WHAT, why=f"checksum of the superblock: seen {seen:#x}, wanted {wanted:#x}")
    if incompatible & _FEATURE_CSUM_SEED:
        return _u32(data, 0x270)
    return fold_crc32c(CRC32C_START, data[0x68:0x78])


def _require_sizes(block: Superblock) -> None:
    bits = 8 * block.block_size
    reasons = {
        f"inode size {block.inode_size} is not a power of 2 of 128 bytes to a block": not (
            _SMALLEST_INODE <= block.inode_size <= block.block_size and block.inode_size.bit_count() == 1
        ),
        f"descriptor size {block.descriptor_size} is not 32 or 64 bytes": block.descriptor_size
        not in (32, 64),
        f"{block.blocks_per_group} blocks a group are not 1 to {bits}": not 1
        <= block.blocks_per_group
        <= bits,
        f"{block.inodes_per_group} inodes a group are not 1 to {bits}": not 1
        <= block.inodes_per_group
        <= bits,
        f"the first block is {block.first_block}": block.first_block != (block.block_size == 1024),  # noqa: PLR2004
        f"it has {block.blocks} blocks": not block.first_block < block.blocks < 1 << 48,
    }
    for why, is_wrong in reasons.items():
        if is_wrong:
            raise FormatError(WHAT, why=why)
    if block.groups > _GROUPS_LIMIT or block.inodes != block.groups * block.inodes_per_group:
        raise FormatError(WHAT, why=f"{block.inodes} inodes do not fit {block.groups} groups")


def parse_inode_table(superblock: Superblock, group: int, data: bytes) -> int:
    """Return the first block of a group's inode table. data: the group's descriptor, descriptor_size bytes.

    Raises FormatError if it is damaged or leads out of the file system.
    """
    if len(data) != superblock.descriptor_size:
        raise FormatError(WHAT, why=f"the descriptor of group {group} is cut off")
    if superblock.checksum_seed is not None:
        crc = fold_crc32c(superblock.checksum_seed, struct.pack("<I", group))
        crc = fold_crc32c(crc, data[:0x1E] + b"\0\0" + data[0x20:]) & 0xFFFF
        if crc != _u16(data, 0x1E):
            raise FormatError(
                WHAT, why=f"checksum of group {group}: seen {_u16(data, 0x1E):#x}, wanted {crc:#x}"
            )
    table = _u32(data, 0x8)
    if superblock.descriptor_size > 32:  # noqa: PLR2004
        table |= _u32(data, 0x28) << 32
    size = -(-superblock.inodes_per_group * superblock.inode_size // superblock.block_size)
    if not superblock.first_block < table <= superblock.blocks - size:
        raise FormatError(WHAT, why=f"the inode table of group {group} is at block {table}, outside")
    return table


def _u16(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 2], "little")


def _u32(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 4], "little")
