"""Read the JSON that Intel signs: strictly, and beside the signed bytes, which are kept as they came.

Members that are not known are left: Intel adds some without a new version. A member given twice is not.

Source: Intel API for the Provisioning Certification Service, version 4: TCB Info and QE identity.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import NoReturn

from krunpy.core.errors import FormatError
from krunpy.formats.narrow import Fields

LARGEST_DOCUMENT = 1 << 18  # bytes


def _take_pairs(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise FormatError("cannot read JSON", why="a member is given twice")
    return members


def _refuse_number(text: str) -> NoReturn:
    raise FormatError("cannot read JSON", why=f"seen {text[:40]}, wanted an integer")


def parse_signed_json(raw: bytes, where: str, *, limit: int = LARGEST_DOCUMENT) -> Fields:
    """Return the members of one JSON object.

    raw: UTF-8, at most `limit` bytes; where: what it is, for messages.

    Raises FormatError if it is anything else, names a member twice, or holds a number that is no integer.
    """
    if len(raw) > limit:
        raise FormatError(f"cannot read {where}", why=f"seen {len(raw)} bytes, wanted at most {limit}")
    try:
        value: object = json.loads(
            raw.decode(),
            object_pairs_hook=_take_pairs,
            parse_float=_refuse_number,
            parse_constant=_refuse_number,
        )
    except (ValueError, RecursionError) as error:
        raise FormatError(f"cannot read {where}", why="it is not JSON in UTF-8") from error
    return Fields(value, where)


def take_octets(fields: Fields, name: str, size: int) -> bytes:
    """Return a member that is `size` bytes in hex, of either case: Intel uses both."""
    text = fields.take_string(name)
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if len(value) != size or len(text) != 2 * size:
        raise FormatError(
            f"cannot read {fields.where}.{name}", why=f'seen "{text[:80]}", wanted {size} bytes in hex'
        )
    return value


def take_time(fields: Fields, name: str) -> datetime:
    """Return a member that is a time in seconds and UTC: "2026-06-01T00:00:00Z"."""
    text = fields.take_string(name)
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        time = None
    # fromisoformat reads other forms as well: one way to write a time is enough
    if time is None or time.tzinfo is not UTC or f"{time.isoformat()[:-6]}Z" != text:
        raise FormatError(
            f"cannot read {fields.where}.{name}", why=f'seen "{text[:40]}", wanted a time in UTC'
        )
    return time
