"""Bytes of an open file from front to back: as they are, and uncompressed. Both bounded.

No format is known here beyond the magic numbers of compressors.
"""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from krunpy.core.errors import BundleError, FormatError
from krunpy.image.tree import CHUNK_SIZE
from krunpy.oci.document import open_regular_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from krunpy.image.limits import Limits

INPUT_SIZE = 256 * 1024  # bytes read at once
MAGIC_SIZE = 6  # bytes
MAGICS = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ\x00": "xz",
    b"BZh": "bzip2",
}
GZIP_WINDOW = 31  # zlib's wbits: a gzip header, the largest window


@dataclass(frozen=True, slots=True, kw_only=True)
class Region:
    """Part of an open file: `size` bytes from `start`. name: for messages."""

    descriptor: int
    start: int
    size: int
    name: str

    def read(self, offset: int, count: int) -> bytes:
        """Return `count` bytes from an offset, or fewer at the end. Raises BundleError if there are less."""
        wanted = min(count, self.size - offset)
        pieces = []
        while wanted > 0:
            try:
                piece = os.pread(self.descriptor, wanted, self.start + offset)
            except OSError as error:
                raise BundleError(
                    f"cannot read {self.name}", why=(error.strerror or "error").lower()
                ) from error
            if not piece:
                raise BundleError(
                    f"cannot read {self.name}", why="the source changed while it was read: it became shorter"
                )
            pieces.append(piece)
            wanted -= len(piece)
            offset += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def pieces(self, step: int = INPUT_SIZE) -> Iterator[bytes]:
        """Yield all bytes in order."""
        for offset in range(0, self.size, step):
            yield self.read(offset, step)


def open_region(path: str, what: str) -> Region:
    """Return a whole regular file, opened; the caller closes its descriptor. Raises BundleError."""
    descriptor, size = open_regular_file(path, what)
    return Region(descriptor=descriptor, start=0, size=size, name=what)


def find_compression(head: bytes) -> str:
    """Return what the first bytes of a file say: "gzip", "zstd", "xz", "bzip2", or "" for none of them."""
    return next((name for magic, name in MAGICS.items() if head.startswith(magic)), "")


class Meter:
    """Counts what a source has asked for, and refuses when it is too much."""

    def __init__(self, bounds: Limits) -> None:
        self.bounds = bounds
        self._entries = 0
        self._total = 0
        self._given = 0
        self._taken = 0

    def count_entry(self) -> None:
        """Count one name or header. Raises BundleError when there are too many."""
        self._entries += 1
        if self._entries > self.bounds.entries:
            raise BundleError("cannot read the image", why=f"it has more than {self.bounds.entries} entries")

    def count_bytes(self, count: int) -> None:
        """Count uncompressed bytes. Raises BundleError when they are too many."""
        self._total += count
        if self._total > self.bounds.total:
            raise BundleError(
                "cannot read the image", why=f"its files are more than {self.bounds.total} bytes"
            )

    def count_ratio(self, given: int, taken: int) -> None:
        """Count `taken` more compressed bytes that gave `given`. Raises BundleError if no honest layers do that.

        All layers count together: a thousand small bombs are one large one.
        """
        self._given += given
        self._taken += taken
        if self._given > self.bounds.ratio_from and self._given > self._taken * self.bounds.ratio:
            raise BundleError(
                "cannot read the image",
                why=f"{self._taken} bytes of layers unpack to more than {self.bounds.ratio} times as many",
            )


def gunzip(pieces: Iterator[bytes]) -> Iterator[tuple[bytes, int]]:
    """Yield (uncompressed bytes, compressed bytes taken so far) of a gzip file with any number of members.

    Zeros after a member are padding. Raises FormatError if it is damaged, cut off, or something else follows.
    """
    taken = members = 0
    member: zlib._Decompress | None = None
    for piece in pieces:
        taken += len(piece)
        data = piece
        while data:
            if member is None:
                data = data.lstrip(b"\0") if members else data
                if not data:
                    break
                member = zlib.decompressobj(GZIP_WINDOW)
            out = _inflate(member, data)
            if out:
                yield out, taken
            data = member.unconsumed_tail
            if member.eof:
                members += 1
                data = member.unused_data
                member = None
    while member is not None and not member.eof:
        out = _inflate(member, b"")  # what was held back because of CHUNK_SIZE
        if not out:
            raise FormatError("not a gzip file", why="it is cut off")
        yield out, taken
    if not members and member is None:
        raise FormatError("not a gzip file", why="it is empty")


def _inflate(member: zlib._Decompress, data: bytes) -> bytes:
    try:
        return member.decompress(data, CHUNK_SIZE)
    except zlib.error as error:
        reason = str(error).rpartition(": ")[2].lower()
        raise FormatError("not a gzip file", why=reason) from None


class ChunkReader:
    """Chunks of bytes as one stream; `position` counts what was taken and left out."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self.position = 0
        self._chunks = chunks
        self._chunk = b""
        self._used = 0

    def take(self, count: int) -> bytes:
        """Return the next bytes: `count`, or fewer at the end."""
        end = self._used + count
        if end <= len(self._chunk):
            found = self._chunk[self._used : end]
            self._used = end
            self.position += count
            return found
        parts = [self._chunk[self._used :]]
        missing = count - len(parts[0])
        self._used = len(self._chunk)
        while missing and self._advance():
            part = self._chunk[:missing]
            self._used = len(part)
            missing -= len(part)
            parts.append(part)
        self.position += count - missing
        return b"".join(parts)

    def skip(self, count: int) -> None:
        """Leave bytes out. Raises FormatError if the end comes first."""
        self.position += count
        while count > len(self._chunk) - self._used:
            count -= len(self._chunk) - self._used
            if not self._advance():
                raise FormatError("not a tar archive", why=f"it is cut off, {count} bytes are missing")
        self._used += count

    def drain(self) -> None:
        """Read to the end."""
        while self._advance():
            pass

    def _advance(self) -> bool:
        self._chunk = next(self._chunks, b"")
        self._used = 0
        return bool(self._chunk)


class RegionReader:
    """A region as a stream whose skipped bytes are not read."""

    def __init__(self, region: Region) -> None:
        self.position = 0
        self._region = region

    def take(self, count: int) -> bytes:
        """Return the next bytes: `count`, or fewer at the end."""
        found = self._region.read(self.position, count)
        self.position += len(found)
        return found

    def skip(self, count: int) -> None:
        """Leave bytes out. Raises FormatError if the end comes first."""
        self.position += count
        if self.position > self._region.size:
            missing = self.position - self._region.size
            raise FormatError("not a tar archive", why=f"it is cut off, {missing} bytes are missing")
