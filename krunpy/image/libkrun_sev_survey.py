"""Read all files of a source once, to learn what a reproducible file system needs before it is laid out.

That is which parts of each file are only zeros, and one digest of the rest. Both depend on the contents alone: a file
with holes and the same file with zeros written out give the same. Nothing is kept of the contents.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from krunpy.formats.ext4_write import BLOCK_SIZE
from krunpy.image.place import WHAT
from krunpy.image.tree import refuse

if TYPE_CHECKING:
    from krunpy.image.tree import Node

UNIT_SIZE = (
    65536  # bytes: a hole is whole aligned units of zeros; a smaller one would only cut files to pieces
)
_UNIT_BLOCKS = UNIT_SIZE // BLOCK_SIZE
_ZEROS = bytes(UNIT_SIZE)


@dataclass(frozen=True, slots=True)
class Shape:
    """What a file holds. runs: (first block, blocks) that are not a hole, ascending; digest: of them, 32 bytes."""

    runs: tuple[tuple[int, int], ...]
    digest: bytes


EMPTY = Shape((), bytes(32))


class Survey:
    """The shapes of all files of a source, filled piece by piece."""

    def __init__(self) -> None:
        self._shapes: dict[int, Shape] = {}
        self._open: dict[int, _Reader] = {}

    def take(self, node: Node, offset: int, piece: bytes | memoryview) -> None:
        """Take a piece of a file; offsets of one file ascend. Raises BundleError if it reaches past the size."""
        reader = self._open.get(id(node))
        if reader is None:
            if id(node) in self._shapes:
                raise _changed()
            reader = self._open[id(node)] = _Reader(node.size)
        end = offset + len(piece)
        if offset < reader.given or end > node.size:
            raise _changed()
        reader.take(offset, memoryview(piece))
        if end == node.size:
            self._shapes[id(node)] = reader.finish()
            del self._open[id(node)]

    def finish(self) -> dict[int, Shape]:
        """Return the shapes by id of the node; a file that is all zeros may be missing."""
        self._shapes.update((key, reader.finish()) for key, reader in self._open.items())
        self._open = {}
        return self._shapes


class _Reader:
    """One file under way. given: bytes so far, zeros that were left out among them."""

    def __init__(self, size: int) -> None:
        self.given = 0
        self._blocks = -(-size // BLOCK_SIZE)
        self._digest = hashlib.sha256()
        self._runs: list[tuple[int, int]] = []
        self._unit = bytearray()  # what was given of the unit that `given` lies in

    def take(self, offset: int, piece: memoryview) -> None:
        if offset // UNIT_SIZE != self.given // UNIT_SIZE:
            self._close_unit()
            self.given = offset - offset % UNIT_SIZE
        self._unit += bytes(offset - self.given)
        self.given = offset
        while piece:
            part = piece[: UNIT_SIZE - self.given % UNIT_SIZE]
            self._unit += part
            self.given += len(part)
            piece = piece[len(part) :]
            if self.given % UNIT_SIZE == 0:
                self._close_unit()

    def finish(self) -> Shape:
        self._close_unit()
        return Shape(tuple(self._runs), self._digest.digest()) if self._runs else EMPTY

    def _close_unit(self) -> None:
        if self._unit and self._unit != _ZEROS[: len(self._unit)]:
            self._add((self.given - 1) // UNIT_SIZE)
        self._unit = bytearray()

    def _add(self, number: int) -> None:
        first = number * _UNIT_BLOCKS
        blocks = min(_UNIT_BLOCKS, self._blocks - first)
        data = self._unit.rstrip(b"\0")  # zeros at the end may be given or left out
        self._digest.update(number.to_bytes(8, "little") + len(data).to_bytes(4, "little"))
        self._digest.update(data)
        add_run(self._runs, first, blocks)


def add_run(runs: list[tuple[int, int]], first: int, blocks: int) -> None:
    """Add blocks to runs of (first, blocks), to the last run if they follow it."""
    if runs and sum(runs[-1]) == first:
        runs[-1] = (runs[-1][0], runs[-1][1] + blocks)
    else:
        runs.append((first, blocks))


def _changed() -> Exception:
    return refuse(WHAT, b"", "changed while it was read")
