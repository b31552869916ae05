"""Write the encrypted payload of a LUKS1 disk, in any order, each block once; and find files' blocks in it.

What is given here is encrypted in memory before it reaches the file. This module knows no header.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

from krunpy.core.files import write_all
from krunpy.formats.ext4_write import BLOCK_SIZE
from krunpy.image.libkrun_sev_survey import add_run
from krunpy.image.place import WHAT
from krunpy.image.tree import refuse
from krunpy.image.xts import SMALL_SECTOR_SIZE, SectorCipher

if TYPE_CHECKING:
    from krunpy.core.octets import Secret
    from krunpy.image.libkrun_sev_ext4 import Layout

BATCH_BLOCKS = 256  # encrypted at once
_ZEROS = bytes(BATCH_BLOCKS * BLOCK_SIZE)


class PayloadWriter:
    """Encrypts blocks into an open file. written: blocks so far."""

    def __init__(self, descriptor: int, offset: int, key: Secret) -> None:
        """Make a writer. offset: of the payload in the file, in bytes; key: 64 bytes."""
        self.written = 0
        self._descriptor = descriptor
        self._offset = offset
        self._cipher = SectorCipher(key, BATCH_BLOCKS * BLOCK_SIZE, sector_size=SMALL_SECTOR_SIZE)
        self._batch = bytearray()
        self._numbers: list[int] = []
        self._runs: list[tuple[int, int]] = []

    def put(self, block: int, data: bytes | bytearray | memoryview) -> None:
        """Take whole blocks from `block` on. Raises OSError of this or an earlier write."""
        view = memoryview(data)
        while view:
            part = view[: (BATCH_BLOCKS - len(self._numbers)) * BLOCK_SIZE]
            count = len(part) // BLOCK_SIZE
            self._batch += part
            self._numbers += range(block, block + count)
            add_run(self._runs, block, count)
            if len(self._numbers) == BATCH_BLOCKS:
                self.flush()
            block += count
            view = view[len(part) :]

    def fill(self, block: int, count: int) -> None:
        """Take zeros."""
        while count:
            taken = min(count, BATCH_BLOCKS)
            self.put(block, _ZEROS[: taken * BLOCK_SIZE])
            block += taken
            count -= taken

    def flush(self) -> None:
        """Write what was taken."""
        cipher = self._cipher.encrypt_blocks(self._batch, self._numbers)
        start = 0
        for block, count in self._runs:
            size = count * BLOCK_SIZE
            write_all(self._descriptor, cipher[start : start + size], self._offset + block * BLOCK_SIZE)
            start += size
        self.written += len(self._numbers)
        self._batch, self._numbers, self._runs = bytearray(), [], []


class FileBlocks:
    """The blocks of all files one after the other, holes too, as `krunpy.image.contents` writes them."""

    def __init__(self, layout: Layout, writer: PayloadWriter) -> None:
        found = [
            (place.block + each.logical, each.blocks, each.physical)
            for place in layout.list_files()
            for each in place.extents
        ]
        self._starts = [start for start, _, _ in found]
        self._extents = found
        self._writer = writer

    def write(self, position: int, data: bytes | bytearray | memoryview) -> None:
        """Take whole blocks. Raises BundleError if they are no zeros, and lie where the survey saw only those."""
        view = memoryview(data)
        while view:
            size, physical = self._find(position // BLOCK_SIZE, len(view) // BLOCK_SIZE)
            part = view[: size * BLOCK_SIZE]
            if physical is not None:
                self._writer.put(physical, part)
            elif bytes(part) != _ZEROS[: len(part)]:
                raise refuse(WHAT, b"", "changed while it was read")
            view = view[len(part) :]
            position += len(part)

    def fill(self, position: int, size: int) -> None:
        """Take zeros: position and size in whole blocks."""
        block, left = position // BLOCK_SIZE, size // BLOCK_SIZE
        while left:
            count, physical = self._find(block, left)
            if physical is not None:
                self._writer.fill(physical, count)
            block += count
            left -= count

    def _find(self, block: int, most: int) -> tuple[int, int | None]:
        """Return how many blocks lie together from one on, and where; None for a hole."""
        index = bisect_right(self._starts, block)
        if index:
            start, blocks, physical = self._extents[index - 1]
            if block < start + blocks:
                return min(most, start + blocks - block), physical + block - start
        if index < len(self._starts):
            most = min(most, self._starts[index] - block)
        return most, None
