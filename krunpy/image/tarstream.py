"""The entries of a tar archive, read once from front to back in constant memory.

Every header counts against the limits, whatever kind it is. Data is not read here: an entry says where in the
archive it lies.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from krunpy.image.tarheader import (
    BLOCK_SIZE,
    EXTENSION_LIMIT,
    HEADER_ONLY,
    SPARSE_LIMIT,
    Header,
    Records,
    cut,
    malformed,
    parse_decimal,
    parse_header,
    parse_number,
    parse_records,
    parse_time,
    require_ranges,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FILE, LINK, SYMLINK, CHAR, BLOCK, DIRECTORY, FIFO = b"0123456"
OLD_FILE, CONTIGUOUS, GNU_SPARSE = b"\x007S"
PAX, PAX_GLOBAL, LONG_NAME, LONG_LINK = b"xgLK"
KNOWN = frozenset((FILE, LINK, SYMLINK, CHAR, BLOCK, DIRECTORY, FIFO, OLD_FILE, CONTIGUOUS, GNU_SPARSE))


class Reader(Protocol):
    """Bytes from front to back."""

    position: int

    def take(self, count: int) -> bytes:
        """Return the next bytes: `count`, or fewer at the end."""

    def skip(self, count: int) -> None:
        """Leave bytes out. Raises FormatError if the end comes first."""


@dataclass(slots=True)
class Entry:
    """One name in an archive.

    kind:   FILE, LINK, SYMLINK, CHAR, BLOCK, DIRECTORY or FIFO.
    size:   bytes of a FILE's content.
    start:  where its data begins in the archive, bytes.
    ranges: of a sparse file: (offset in the file, bytes), one after the other from `start`; else None.
    """

    name: bytes
    kind: int
    mode: int
    uid: int
    gid: int
    mtime: int
    size: int
    link: bytes
    major: int
    minor: int
    xattrs: dict[bytes, bytes]
    start: int
    ranges: tuple[tuple[int, int], ...] | None


@dataclass(slots=True)
class _Extension:
    """What the headers before the next entry said about it."""

    records: Records = field(default_factory=Records)
    name: bytes | None = None
    link: bytes | None = None


def read_entries(reader: Reader, count: Callable[[], None]) -> Iterator[Entry]:
    """Yield the entries of an archive.

    count: called for every header; it raises when there are too many.

    Raises FormatError if the archive is malformed or cut off. Bytes after its end mark are not read.
    """
    extension = _Extension()
    while True:
        block = reader.take(BLOCK_SIZE)
        if not block:
            break
        header = parse_header(block)
        if header is None:
            break  # one block of zeros is enough: some writers stop there
        count()
        if header.kind in (PAX, PAX_GLOBAL, LONG_NAME, LONG_LINK):
            _extend(extension, header, _take_extension(reader, header))
            continue
        entry, left = _make_entry(reader, header, extension)
        extension = _Extension()
        yield entry
        reader.skip(left)
    if extension != _Extension():
        raise malformed("it ends after an extended header, wanted the entry it belongs to")


def _take_extension(reader: Reader, header: Header) -> bytes:
    if not 0 <= header.size <= EXTENSION_LIMIT:
        raise malformed(f"an extended header is {header.size} bytes, at most {EXTENSION_LIMIT} are allowed")
    return _take(reader, header.size)


def _take(reader: Reader, size: int) -> bytes:
    """Return data and leave out its padding."""
    padded = -(-size // BLOCK_SIZE) * BLOCK_SIZE
    data = reader.take(padded)
    if len(data) != padded:
        raise malformed(f"it is cut off at byte {reader.position}")
    return data[:size]


def _extend(extension: _Extension, header: Header, data: bytes) -> None:
    if header.kind == LONG_NAME:
        extension.name = cut(data)
    elif header.kind == LONG_LINK:
        extension.link = cut(data)
    elif header.kind == PAX:
        extension.records = parse_records(data)
    # A global header changes nothing, as in Go's reader, which the container engines use.


def _make_entry(reader: Reader, header: Header, extension: _Extension) -> tuple[Entry, int]:
    """Return the entry, and how many bytes of data and padding lie between here and the next header."""
    if header.kind not in KNOWN:
        raise malformed(
            f"entry type: seen {bytes([header.kind])!r}, wanted a file, link, directory, device or fifo"
        )
    values = extension.records.values
    name = values.get(b"path") or extension.name or header.name
    stored = parse_decimal(values[b"size"], "pax size") if values.get(b"size") else header.size
    kind = header.kind
    if kind in (OLD_FILE, CONTIGUOUS, GNU_SPARSE):
        kind = DIRECTORY if kind == OLD_FILE and name.endswith(b"/") else FILE
    if kind in HEADER_ONLY:
        stored = 0
    if stored < 0:
        raise malformed(f"size: seen {stored}, wanted 0 or more")
    entry = Entry(
        name=name,
        kind=kind,
        mode=header.mode & 0o7777,
        uid=_identity(values, b"uid", header.uid),
        gid=_identity(values, b"gid", header.gid),
        mtime=parse_time(values[b"mtime"]) if values.get(b"mtime") else header.mtime,
        size=stored,
        link=values.get(b"linkpath") or extension.link or header.link,
        major=header.major,
        minor=header.minor,
        xattrs=extension.records.xattrs,
        start=reader.position,
        ranges=None,
    )
    left = -(-stored // BLOCK_SIZE) * BLOCK_SIZE
    if header.kind == GNU_SPARSE:
        _add_old_sparse(reader, header, entry)
    elif extension.records.sparse and kind == FILE:
        left -= _add_pax_sparse(reader, extension.records, entry)
    return entry, left


def _identity(values: dict[bytes, bytes], key: bytes, default: int) -> int:
    return parse_decimal(values[key], key.decode()) if values.get(key) else default


def _add_old_sparse(reader: Reader, header: Header, entry: Entry) -> None:
    """Read the map in a GNU header (4 pairs at 386) and in the blocks after it (21 pairs each)."""
    stored = entry.size
    entry.size = parse_number(header.block[483:495], "sparse size")
    ranges: list[tuple[int, int]] = []
    _add_pairs(ranges, header.block[386:482])
    is_extended = header.block[482]
    while is_extended:
        block = reader.take(BLOCK_SIZE)
        if len(block) != BLOCK_SIZE or len(ranges) > SPARSE_LIMIT:
            raise malformed(f"a sparse map is cut off, or has more than {SPARSE_LIMIT} ranges")
        _add_pairs(ranges, block[:504])
        is_extended = block[504]
    entry.start = reader.position
    entry.ranges = require_ranges(ranges, entry.size, stored)


def _add_pairs(ranges: list[tuple[int, int]], octets: bytes) -> None:
    for start in range(0, len(octets), 24):
        if octets[start] == 0:
            return
        pair = octets[start : start + 12], octets[start + 12 : start + 24]
        ranges.append((parse_number(pair[0], "sparse offset"), parse_number(pair[1], "sparse length")))


def _add_pax_sparse(reader: Reader, records: Records, entry: Entry) -> int:
    """Read the map of formats 0.0, 0.1 and 1.0; return how many bytes of data it took."""
    last = dict(records.sparse)
    size = last.get(b"realsize") or last.get(b"size")
    if size is None:
        raise malformed("a sparse file does not say its size")
    stored, entry.size = entry.size, parse_decimal(size, "sparse size")
    entry.name = last.get(b"name") or entry.name
    used = 0
    if last.get(b"major") == b"1":
        numbers, used = _take_map(reader, stored)
    elif b"map" in last:
        numbers = [parse_decimal(each, "sparse map") for each in last[b"map"].split(b",") if last[b"map"]]
    else:
        numbers = [
            parse_decimal(value, "sparse map")
            for key, value in records.sparse
            if key in (b"offset", b"numbytes")
        ]
    if len(numbers) % 2:
        raise malformed("sparse map: it has an offset without a length")
    entry.start = reader.position
    pairs = list(zip(numbers[::2], numbers[1::2], strict=True))
    entry.ranges = require_ranges(pairs, entry.size, stored - used)
    return used


def _take_map(reader: Reader, stored: int) -> tuple[list[int], int]:
    """Read the map at the front of the data: decimal lines, the first is their number of pairs."""
    text = bytearray()
    used = 0
    wanted = lines = 0
    while wanted == 0 or lines < wanted:
        block = reader.take(BLOCK_SIZE) if used + BLOCK_SIZE <= stored else b""
        if len(block) != BLOCK_SIZE:
            raise malformed("a sparse map is cut off")
        used += BLOCK_SIZE
        text += block
        lines += block.count(b"\n")
        if not wanted and lines:
            pairs = parse_decimal(bytes(text[: text.index(b"\n")]), "sparse map")
            if pairs > SPARSE_LIMIT:
                raise malformed(f"a sparse map has {pairs} ranges, at most {SPARSE_LIMIT} are allowed")
            wanted = 1 + 2 * pairs
        elif not wanted:
            raise malformed("a sparse map has no number of ranges in its first block")
    fields = bytes(text).split(b"\n")[1:wanted]
    return [parse_decimal(each, "sparse map") for each in fields], used
