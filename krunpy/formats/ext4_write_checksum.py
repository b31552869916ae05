"""Checksums of many records of an ext4 file system at once: those of inodes and directory blocks.

The sums of all records advance together, a byte of each at a time, with numpy: a root file system has ten thousand
of them. Source: Linux 6.12, fs/ext4/inode.c (ext4_inode_csum) and namei.c (ext4_dirblock_csum).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from krunpy.formats.crc32c import fold_crc32c
from krunpy.formats.ext4_parse_inode import TAIL_SIZE
from krunpy.formats.ext4_write import BLOCK_SIZE, INODE_SIZE

if TYPE_CHECKING:
    from collections.abc import Sequence

    Words = np.ndarray[tuple[int], np.dtype[np.uint32]]
    Rows = np.ndarray[tuple[int, int], np.dtype[np.uint8]]

_LOW_AT, _HIGH_AT = 0x7C, 0x82  # in an inode
# the sum of one byte from 0 is the table's entry
_TABLE = np.array([fold_crc32c(0, bytes([index])) for index in range(256)], dtype="<u4")


def fill_inodes(table: bytearray, numbers: Sequence[int], seed: int) -> None:
    """Write the checksum into each inode. table: INODE_SIZE bytes for each of the numbers; seed: of checksums.

    An inode that is all zeros is not in use and has none.
    """
    rows = np.frombuffer(table, dtype=np.uint8).reshape(-1, INODE_SIZE)
    sums = _fold_rows(_seed_rows(numbers, seed), rows) * rows.any(axis=1)
    packed = sums.astype("<u4").view(np.uint8).reshape(-1, 4)
    rows[:, _LOW_AT : _LOW_AT + 2] = packed[:, :2]
    rows[:, _HIGH_AT : _HIGH_AT + 2] = packed[:, 2:]


def fill_directories(blocks: bytearray, numbers: Sequence[int], seed: int) -> None:
    """Write the checksum into each directory block. blocks: one for each of the numbers of their directories."""
    rows = np.frombuffer(blocks, dtype=np.uint8).reshape(-1, BLOCK_SIZE)
    sums = _fold_rows(_seed_rows(numbers, seed), rows[:, : BLOCK_SIZE - TAIL_SIZE])
    rows[:, BLOCK_SIZE - 4 :] = sums.astype("<u4").view(np.uint8).reshape(-1, 4)


def seed_inode(number: int, seed: int) -> int:
    """Return what checksums of one inode's blocks start from; its generation is 0."""
    return fold_crc32c(seed, number.to_bytes(4, "little") + bytes(4))


def _seed_rows(numbers: Sequence[int], seed: int) -> Words:
    records = np.zeros((len(numbers), 2), dtype="<u4")
    records[:, 0] = numbers
    return _fold_rows(np.full(len(numbers), seed, dtype=np.uint32), records.view(np.uint8))


def _fold_rows(sums: Words, rows: Rows) -> Words:
    for column in np.ascontiguousarray(rows.T):
        sums = _TABLE[(sums ^ column) & np.uint32(0xFF)] ^ (sums >> np.uint32(8))
    return sums
