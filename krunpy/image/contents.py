"""Turn the pieces of files that a source streams into whole blocks at the right place of the payload.

Pieces need not start or end at a block; what a source leaves out is zeros. At most one unfinished block per
file that is under way is kept. This module reads no source and knows no cipher.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from krunpy.formats.erofs import BLOCK_SIZE
from krunpy.image.place import WHAT
from krunpy.image.tree import refuse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from krunpy.image.tree import Node


class Place(Protocol):
    """Where a file lies: `size` bytes from block `block` on. given: bytes so far."""

    block: int
    given: int
    size: int

    def find_path(self) -> bytes:
        """Return a name of the file, for messages."""


class Layout(Protocol):
    """A file system that is planned, with a place for every file."""

    def find_place(self, node: Node) -> Place:
        """Return where a node of the tree lies."""

    def list_files(self) -> Iterator[Place]:
        """Yield the places of regular files that have contents."""


class Payload(Protocol):
    """What whole blocks are written to, each once; positions and sizes in bytes."""

    def write(self, position: int, data: bytes | bytearray | memoryview) -> None:
        """Take blocks."""

    def fill(self, position: int, size: int) -> None:
        """Take zeros."""


class ContentWriter:
    """Writes the files of one layout to one disk."""

    def __init__(self, layout: Layout, writer: Payload) -> None:
        self._layout = layout
        self._writer = writer
        self._tails: dict[int, bytes] = {}  # of each file under way, what does not fill a block yet

    def take(self, node: Node, offset: int, piece: bytes | memoryview) -> None:
        """Write a piece of a file. Offsets of one file ascend; skipped bytes are zeros.

        Raises BundleError if the piece overlaps an earlier one or reaches past the file's size.
        """
        place = self._layout.find_place(node)
        if offset < place.given or offset + len(piece) > place.size:
            raise refuse(WHAT, place.find_path(), "changed while it was read")
        if offset > place.given:
            self._skip(place, offset)
        self._append(place, piece)

    def finish(self) -> None:
        """Write zeros for everything that was not given."""
        for place in self._layout.list_files():
            if place.given < place.size:
                self._skip(place, place.size)

    def _append(self, place: Place, piece: bytes | memoryview) -> None:
        if not piece:
            return
        tail = self._tails.pop(id(place), b"")
        start = place.given - len(tail)
        place.given += len(piece)
        data = memoryview(tail + piece if tail else piece)
        whole = len(data) - len(data) % BLOCK_SIZE
        if whole:
            self._writer.write(place.block * BLOCK_SIZE + start, data[:whole])
        rest = bytes(data[whole:])
        if rest and place.given == place.size:
            self._writer.write(place.block * BLOCK_SIZE + start + whole, rest.ljust(BLOCK_SIZE, b"\0"))
        elif rest:
            self._tails[id(place)] = rest

    def _skip(self, place: Place, offset: int) -> None:
        self._append(place, bytes(min(-place.given % BLOCK_SIZE, offset - place.given)))
        whole = (offset - place.given) // BLOCK_SIZE * BLOCK_SIZE
        if whole:
            self._writer.fill(place.block * BLOCK_SIZE + place.given, whole)
            place.given += whole
        self._append(place, bytes(offset - place.given))
