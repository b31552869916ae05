"""One header block of a tar archive, and the records that extend it: bytes in, values out.

Reads what POSIX (ustar, pax), GNU tar, star and Go write. Nothing here reads a file.

Source: POSIX.1-2017 pax, "ustar Interchange Format" and "pax Extended Header"; GNU tar manual, "Basic Tar
Format" and "Storing Sparse Files".
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from krunpy.core.errors import FormatError

BLOCK_SIZE = 512  # bytes
ZERO_BLOCK = bytes(BLOCK_SIZE)
EXTENSION_LIMIT = 1024 * 1024  # bytes of one pax header or long name, as in Go
SPARSE_LIMIT = 1_000_000  # data ranges of one sparse file
LAYOUT = struct.Struct("100s8s8s8s12s12s8sc100s6s2s32s32s8s8s155s12s")
XATTR_PREFIX = b"SCHILY.xattr."
HEADER_ONLY = frozenset(
    b"123456"
)  # links, devices, directories and fifos have no data, whatever their size says
KEPT_RECORDS = frozenset((b"path", b"linkpath", b"size", b"uid", b"gid", b"mtime"))
SPARSE_PREFIX = b"GNU.sparse."


@dataclass(slots=True)
class Header:
    """One header. kind: the type flag; size: bytes of data that follow, before padding."""

    name: bytes
    kind: int
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    link: bytes
    major: int
    minor: int
    block: bytes


@dataclass(slots=True)
class Records:
    """A pax extended header. sparse: the GNU.sparse records in order, their prefix removed."""

    values: dict[bytes, bytes] = field(default_factory=dict)
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    sparse: list[tuple[bytes, bytes]] = field(default_factory=list)


def malformed(why: str) -> FormatError:
    """Return the error for bytes that are no tar archive."""
    return FormatError("not a tar archive", why=why)


def parse_header(block: bytes) -> Header | None:
    """Return the header in a block of 512 bytes, or None if the block is all zeros. Raises FormatError."""
    if block == ZERO_BLOCK:
        return None
    if len(block) != BLOCK_SIZE:
        raise malformed(f"a header is cut off after {len(block)} bytes, wanted {BLOCK_SIZE}")
    (name, mode, uid, gid, size, mtime, checksum, kind, link, magic, _, _, _, major, minor, prefix, rest) = (
        LAYOUT.unpack(block)
    )
    _require_checksum(block, parse_number(checksum, "checksum"))
    name = cut(name)
    if magic == b"ustar\0":
        is_star = rest.endswith(b"tar\0")
        before = cut(prefix[:131] if is_star else prefix)
        name = before + b"/" + name if before else name
    is_device = kind in b"34"
    return Header(
        name=name,
        kind=kind[0],
        mode=parse_number(mode, "mode"),
        uid=parse_number(uid, "uid"),
        gid=parse_number(gid, "gid"),
        size=parse_number(size, "size"),
        mtime=parse_number(mtime, "mtime"),
        link=cut(link),
        major=parse_number(major, "device major") if is_device else 0,
        minor=parse_number(minor, "device minor") if is_device else 0,
        block=block,
    )


def cut(field_: bytes) -> bytes:
    """Return a field up to its first zero byte."""
    return field_.partition(b"\0")[0]


def parse_number(octets: bytes, what: str) -> int:
    """Return a number field: octal digits, or base 256 if its first bit is set. Raises FormatError."""
    if octets[0] & 0x80:
        if octets[0] == 0xFF:  # noqa: PLR2004 - two's complement, as GNU tar writes negative times
            return int.from_bytes(octets, "big", signed=True)
        return int.from_bytes(bytes([octets[0] & 0x7F]) + octets[1:], "big")
    digits = octets.strip(b" \0")
    digits = cut(digits).rstrip(b" ")
    if not digits:
        return 0
    if not digits.isdigit() or b"8" in digits or b"9" in digits:
        raise malformed(f"{what}: seen {octets!r}, wanted octal digits")
    return int(digits, 8)


def _require_checksum(block: bytes, wanted: int) -> None:
    """Old tars summed signed bytes: both sums are accepted, as everywhere."""
    field_ = block[148:156]
    seen = sum(block) - sum(field_) + 8 * 32
    if seen == wanted:
        return
    signed = seen - 256 * sum(1 for octet in block[:148] + block[156:] if octet & 0x80)
    if signed != wanted:
        raise malformed(f"header checksum: seen {seen}, wanted {wanted}")


def parse_decimal(octets: bytes, what: str) -> int:
    """Return an unsigned decimal of at most 19 digits. Raises FormatError."""
    if not octets.isdigit() or len(octets) > 19:  # noqa: PLR2004 - what fits 64 bits
        raise malformed(f"{what}: seen {octets[:40]!r}, wanted decimal digits")
    return int(octets)


def parse_time(octets: bytes) -> int:
    """Return the whole seconds, rounded down, of a pax time: [-]digits[.digits]. Raises FormatError."""
    whole, point, fraction = octets.partition(b".")
    sign = whole[:1] == b"-"
    if (point and fraction and not fraction.isdigit()) or len(octets) > 64:  # noqa: PLR2004 - no clock has more digits
        raise malformed(f"mtime: seen {octets[:40]!r}, wanted seconds")
    seconds = parse_decimal(whole[1:] if sign else whole, "mtime")
    if not sign:
        return seconds
    return -seconds - (1 if fraction.strip(b"0") else 0)


def parse_records(data: bytes) -> Records:
    """Return the records of a pax header, each "LENGTH KEY=VALUE" and a line feed. Raises FormatError."""
    found = Records()
    start = 0
    while start < len(data):
        space = data.find(b" ", start, start + 20)
        if space < 0:
            raise malformed(f"a pax record has no length, seen {data[start : start + 20]!r}")
        length = parse_decimal(data[start:space], "pax record length")
        end = start + length
        if end > len(data) or end <= space + 1 or data[end - 1] != 0x0A:  # noqa: PLR2004 - line feed
            raise malformed(f"a pax record of {length} bytes does not end with a line feed inside its header")
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not equals or not key:
            raise malformed(f"a pax record has no key, seen {key[:20]!r}")
        _add_record(found, key, value)
        start = end
    return found


def _add_record(found: Records, key: bytes, value: bytes) -> None:
    if key.startswith(XATTR_PREFIX):
        found.xattrs[key[len(XATTR_PREFIX) :]] = value
    elif key.startswith(SPARSE_PREFIX):
        found.sparse.append((key[len(SPARSE_PREFIX) :], value))
    elif key in KEPT_RECORDS:
        if b"\0" in value:
            raise malformed(f"pax record {key.decode()} holds a zero byte")
        found.values[key] = value


def require_ranges(ranges: list[tuple[int, int]], size: int, stored: int) -> tuple[tuple[int, int], ...]:
    """Return the data ranges (offset, length) of a sparse file, without empty ones.

    size: bytes of the whole file. stored: bytes of data in the archive.
    Raises FormatError unless they ascend, do not overlap, lie inside the file and add up to what is stored.
    """
    end = total = 0
    for offset, length in ranges:
        if offset < end or length < 0 or offset + length > size:
            raise malformed(
                f"sparse map: seen a range at {offset} of {length} bytes, wanted one of {end} to {size}"
            )
        end = offset + length
        total += length
    if total != stored:
        raise malformed(f"sparse map: its ranges hold {total} bytes, the archive {stored}")
    return tuple((offset, length) for offset, length in ranges if length)
