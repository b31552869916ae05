"""Identifiers that sort by time (the ULID layout: 48 bits of milliseconds, 80 random bits)."""

from __future__ import annotations

import re
import secrets

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's base 32
_LENGTH = 26  # characters for 130 bits, the top two are zero
_PATTERN = re.compile(f"[{_ALPHABET}]{{{_LENGTH}}}")


def make_id(now_s: float) -> str:
    """Return a new identifier, 26 characters. now_s: seconds since 1970."""
    value = (int(now_s * 1000) & (2**48 - 1)) << 80 | secrets.randbits(80)
    return "".join(_ALPHABET[value >> shift & 31] for shift in range(5 * (_LENGTH - 1), -1, -5))


def is_id(text: str) -> bool:
    """Return whether a text has the form of an identifier."""
    return _PATTERN.fullmatch(text) is not None
