"""Read DER, the one encoding that certificates are signed in.

Only what X.509 needs: definite minimal lengths, one-byte tags, no recursion. It does not write DER
and does not know what a certificate is.

Source: ITU-T X.690 (2021), sections 8 and 10.
"""

from __future__ import annotations

from datetime import UTC, datetime

from krunpy.core.errors import FormatError

BOOLEAN, INTEGER, BIT_STRING, OCTET_STRING = 0x01, 0x02, 0x03, 0x04
OBJECT_IDENTIFIER, IA5_STRING, UTC_TIME, GENERALIZED_TIME = 0x06, 0x16, 0x17, 0x18
SEQUENCE, SET = 0x30, 0x31

_TEXT_TAGS = {0x0C: "utf-8", 0x13: "ascii", 0x16: "ascii"}  # UTF8String, PrintableString, IA5String
_TIME_DIGITS = {UTC_TIME: 12, GENERALIZED_TIME: 14}
_FIRST_YEAR_OF_1900S = 50  # RFC 5280 4.1.2.5.1: two digits 50 to 99 are 1950 to 1999
_SHORT_FORM = 0x80  # lengths below this are one byte
_LONGEST_LENGTH = 3  # bytes of a length: 16 MiB is more than any certificate here
_LARGEST_INTEGER = 32  # bytes; serial numbers have at most 20
_MANY_TAGS = 0x1F  # low bits of a tag that goes on in the next byte


def _refuse(why: str) -> FormatError:
    return FormatError("cannot read DER", why=why)


class DerReader:
    """A position in DER bytes; every read moves it past one element."""

    __slots__ = ("_at", "_data", "_end")

    def __init__(self, data: bytes, start: int = 0, end: int | None = None) -> None:
        self._data = data
        self._at = start
        self._end = len(data) if end is None else end

    def next_tag(self) -> int:
        """Return the tag of the next element, 0 at the end."""
        return self._data[self._at] if self._at < self._end else 0

    def _header(self, tag: int) -> tuple[int, int]:
        """Return where the contents of the next element start and end. Raises FormatError."""
        data, at, end = self._data, self._at, self._end
        if at + 2 > end:
            raise _refuse("seen the end, wanted an element")
        if data[at] != tag or tag & _MANY_TAGS == _MANY_TAGS:
            raise _refuse(f"seen tag {data[at]:#04x}, wanted {tag:#04x}")
        length = data[at + 1]
        start = at + 2
        if length >= _SHORT_FORM:
            count = length - _SHORT_FORM
            if not 1 <= count <= _LONGEST_LENGTH or start + count > end:
                raise _refuse(f"seen a length of {count} bytes, wanted 1 to {_LONGEST_LENGTH}")
            length = int.from_bytes(data[start : start + count], "big")
            if length < _SHORT_FORM or length >> (8 * (count - 1)) == 0:
                raise _refuse("seen a length that is not minimal")
            start += count
        if start + length > end:
            raise _refuse(f"seen {end - start} bytes, wanted {length}")
        return start, start + length

    def read(self, tag: int) -> bytes:
        """Return the contents of the next element, whose tag is `tag`. Raises FormatError."""
        start, self._at = self._header(tag)
        return self._data[start : self._at]

    def read_whole(self, tag: int) -> bytes:
        """Return the next element with its header. Raises FormatError."""
        at = self._at
        _, self._at = self._header(tag)
        return self._data[at : self._at]

    def enter(self, tag: int) -> DerReader:
        """Return a reader of the next element's contents, and move past it. Raises FormatError."""
        start, self._at = self._header(tag)
        return DerReader(self._data, start, self._at)

    def read_integer(self) -> int:
        """Return a non-negative INTEGER of at most 32 bytes, in its shortest form. Raises FormatError."""
        value = self.read(INTEGER)
        if not 1 <= len(value) <= _LARGEST_INTEGER or value[0] & 0x80:
            raise _refuse(f"seen INTEGER {value[:8].hex()}, wanted 0 to 2^255 - 1")
        if len(value) > 1 and value[0] == 0 and value[1] < _SHORT_FORM:
            raise _refuse(f"seen INTEGER {value[:8].hex()}, wanted its shortest form")
        return int.from_bytes(value, "big")

    def read_boolean(self) -> bool:
        """Return a BOOLEAN. Raises FormatError."""
        value = self.read(BOOLEAN)
        if value not in {b"\x00", b"\xff"}:
            raise _refuse(f"seen BOOLEAN {value[:8].hex()}, wanted 00 or ff")
        return value == b"\xff"

    def read_bits(self) -> bytes:
        """Return the bytes of a BIT STRING without unused bits. Raises FormatError."""
        value = self.read(BIT_STRING)
        if value[:1] != b"\x00":
            raise _refuse("seen a BIT STRING with unused bits, wanted whole bytes")
        return value[1:]

    def read_text(self) -> str:
        """Return a UTF8String, PrintableString or IA5String. Raises FormatError."""
        tag = self.next_tag()
        if tag not in _TEXT_TAGS:
            raise _refuse(f"seen tag {tag:#04x}, wanted a string")
        try:
            return self.read(tag).decode(_TEXT_TAGS[tag])
        except UnicodeDecodeError as error:
            raise _refuse("seen a string with bytes outside its character set") from error

    def read_time(self) -> datetime:
        """Return a UTCTime or GeneralizedTime in seconds and UTC, as RFC 5280 4.1.2.5 restricts them."""
        tag = self.next_tag()
        if tag not in _TIME_DIGITS:
            raise _refuse(f"seen tag {tag:#04x}, wanted a time")
        value = self.read(tag)
        digits = value[:-1]
        if len(digits) != _TIME_DIGITS[tag] or value[-1:] != b"Z" or not digits.isdigit():
            raise _refuse("seen a time that is not digits and Z")
        year = int(digits[:-10])
        if tag == UTC_TIME:
            year += 1900 if year >= _FIRST_YEAR_OF_1900S else 2000
        month, day, hour, minute, second = (int(digits[at : at + 2 or None]) for at in range(-10, 0, 2))
        try:
            return datetime(year, month, day, hour, minute, second, tzinfo=UTC)
        except ValueError as error:
            raise _refuse("seen a time that is not a date") from error

    def require_end(self) -> None:
        """Return nothing; raises FormatError if bytes are left."""
        if self._at != self._end:
            raise _refuse(f"seen {self._end - self._at} bytes after the last element")


def encode_oid(dotted: str) -> bytes:
    """Return the contents bytes of an OBJECT IDENTIFIER; dotted: "1.3.6.1", at least two arcs."""
    first, second, *rest = (int(arc) for arc in dotted.split("."))
    encoded = bytearray()
    for arc in (first * 40 + second, *rest):
        septets = [arc & 0x7F]
        while arc := arc >> 7:
            septets.append(arc & 0x7F | 0x80)
        encoded += bytes(reversed(septets))
    return bytes(encoded)
