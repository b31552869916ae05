"""Bytes written as text: hex and base64, as people paste them and as JSON carries them."""

from __future__ import annotations

import base64
import binascii
import string
from typing import TYPE_CHECKING

from krunpy.core.errors import FormatError

if TYPE_CHECKING:
    from krunpy.formats.narrow import Fields

_HEX = frozenset(string.hexdigits.encode())
_URL_SAFE = bytes.maketrans(b"-_", b"+/")


def decode_hex(text: str, what: str) -> bytes:
    """Return the bytes of hex in either case. Raises FormatError; what: its name, for the message."""
    try:
        octets = bytes.fromhex(text)
    except ValueError:
        octets = b""
    if len(octets) * 2 != len(text):  # fromhex skips blanks
        raise FormatError(f"cannot read {what}", why=f'seen "{text[:40]}", wanted hex')
    return octets


def decode_base64(text: bytes, what: str) -> bytes:
    """Return the bytes of base64, of either alphabet, padded or not. Raises FormatError."""
    plain = text.translate(_URL_SAFE).rstrip(b"=")
    try:
        return base64.b64decode(plain + b"=" * (-len(plain) % 4), validate=True)
    except binascii.Error as error:
        raise FormatError(f"cannot read {what}", why="it is not base64") from error


def take_hex(fields: Fields, name: str, limit: int) -> bytes:
    """Return a member that is hex of at most `limit` bytes. Raises FormatError."""
    where = f"{fields.where}.{name}"
    octets = decode_hex(_take_text(fields, name, 2 * limit), where)
    return _require_at_most(octets, limit, where)


def take_base64(fields: Fields, name: str, limit: int) -> bytes:
    """Return a member that is base64 of at most `limit` bytes. Raises FormatError."""
    where = f"{fields.where}.{name}"
    octets = decode_base64(_take_text(fields, name, 2 * limit).encode(), where)
    return _require_at_most(octets, limit, where)


def _take_text(fields: Fields, name: str, limit: int) -> str:
    text = fields.take_string(name)
    if len(text) > limit or not text.isascii():
        raise FormatError(
            f"cannot read {fields.where}.{name}", why=f"it is no ASCII of at most {limit} characters"
        )
    return text


def _require_at_most(octets: bytes, limit: int, where: str) -> bytes:
    if len(octets) > limit:
        raise FormatError(f"cannot read {where}", why=f"seen {len(octets)} bytes, wanted at most {limit}")
    return octets


def find_text(data: bytes) -> tuple[str, bytes] | None:
    """Return which text the bytes are, "hex" or "base64", and what it stands for; None if they are neither."""
    text = b"".join(data.split())
    digits = text.removeprefix(b"0x")
    if not text:
        return None
    if len(digits) % 2 == 0 and not frozenset(digits) - _HEX:
        return "hex", bytes.fromhex(digits.decode("ascii"))
    try:
        return "base64", decode_base64(text, "the evidence")
    except FormatError:
        return None
