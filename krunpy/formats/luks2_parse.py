"""Read a LUKS2 header of the kind we write: which segment lies where, under which cipher.

It accepts headers of other makers if they have one crypt segment. It does not unlock keyslots, and a
secondary header is read only when it is handed in as the data. Source: as `krunpy.formats.luks2`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from krunpy.core.errors import FormatError
from krunpy.formats.luks2 import (
    BINARY_HEADER,
    BINARY_SIZE,
    CHECKSUM_OFFSET,
    CHECKSUM_SIZE,
    PRIMARY_MAGIC,
    SECONDARY_MAGIC,
)
from krunpy.formats.narrow import Fields

HEADER_SIZES = tuple(1 << shift for shift in range(14, 23))  # 16 KiB to 4 MiB
WHOLE_DEVICE = 0
_DIGITS = 20
_WHAT = "cannot read the LUKS2 header"


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a header says about its one crypt segment.

    offset, size: bytes; size is WHOLE_DEVICE if the segment reaches to the end of the device.
    first_sector: number of the segment's first 512-byte sector in the cipher's count.
    keyslots:     their names.
    """

    uuid: str
    header_size: int
    offset: int
    size: int
    cipher: str
    sector_size: int
    first_sector: int
    keyslots: tuple[str, ...]


def parse_header(data: bytes) -> Header:
    """Return what a header at the start of `data` says.

    data: at least the header's own size, which is 16 KiB to 4 MiB; more is ignored.

    Raises FormatError on a wrong magic, version or checksum, and on anything but one crypt segment.
    """
    if len(data) < BINARY_SIZE:
        raise FormatError(_WHAT, why=f"seen {len(data)} bytes, wanted {BINARY_SIZE}")
    magic, version, size, _, _, algorithm, _, name, _, _, checksum = BINARY_HEADER.unpack_from(data)
    if magic not in (PRIMARY_MAGIC, SECONDARY_MAGIC) or version != 2:  # noqa: PLR2004 - LUKS2
        raise FormatError(_WHAT, why="it does not begin as one")
    if size not in HEADER_SIZES or len(data) < size:
        raise FormatError(_WHAT, why=f"it says that it has {size} bytes, seen {len(data)}")
    if algorithm.rstrip(b"\0") != b"sha256":
        raise FormatError(_WHAT, why="its checksum is not SHA-256")
    cleared = data[:CHECKSUM_OFFSET] + bytes(CHECKSUM_SIZE) + data[CHECKSUM_OFFSET + CHECKSUM_SIZE : size]
    if hashlib.sha256(cleared).digest().ljust(CHECKSUM_SIZE, b"\0") != checksum:
        raise FormatError(_WHAT, why="its checksum is wrong")
    try:
        uuid = name.rstrip(b"\0").decode("ascii")
    except UnicodeDecodeError as error:
        raise FormatError(_WHAT, why="its UUID is not ASCII") from error
    return _parse_metadata(data[BINARY_SIZE:size], uuid, size)


def _parse_metadata(area: bytes, uuid: str, header_size: int) -> Header:
    try:
        value = json.loads(area.split(b"\0", 1)[0].decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise FormatError(_WHAT, why="its JSON area is not JSON") from error
    top = Fields(value, "the LUKS2 header")
    keyslots, segments = top.take("keyslots"), top.take("segments")
    if not isinstance(keyslots, dict) or not isinstance(segments, dict) or len(segments) != 1:
        raise FormatError(_WHAT, why="it does not have keyslots and exactly one segment")
    segment = Fields(next(iter(segments.values())), "the LUKS2 segment")
    if segment.take_string("type") != "crypt":
        raise FormatError(_WHAT, why="its segment is not of the type crypt")
    extent = segment.take_string("size")
    return Header(
        uuid=uuid,
        header_size=header_size,
        offset=_parse_decimal(segment.take_string("offset")),
        size=WHOLE_DEVICE if extent == "dynamic" else _parse_decimal(extent),
        cipher=segment.take_string("encryption"),
        sector_size=segment.take_integer("sector_size", minimum=512, maximum=4096),
        first_sector=_parse_decimal(segment.take_string("iv_tweak")),
        keyslots=tuple(sorted(keyslots)),
    )


def _parse_decimal(text: str) -> int:
    if not 1 <= len(text) <= _DIGITS or not (text.isascii() and text.isdigit()):
        raise FormatError(_WHAT, why=f'"{text[:40]}" is not a decimal number')
    return int(text)
