"""JSON from strangers: decoded once, at the door, bounded in size, depth and form."""

from __future__ import annotations

import base64
import binascii
import json
import math
from typing import TYPE_CHECKING, NoReturn, cast

from krunpy.core.errors import FormatError
from krunpy.formats.narrow import Fields

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_DEPTH = 10


def parse_document(body: bytes) -> Fields:
    """Return the members of a JSON object.

    Raises FormatError on anything else: not UTF-8, duplicate keys, NaN, nesting over MAX_DEPTH.
    """
    what = "cannot read the body"
    try:
        value = json.loads(
            body.decode("utf-8"),
            object_pairs_hook=_without_duplicates,
            parse_constant=_refuse_constant,
            parse_float=_parse_float,
        )
    except RecursionError as error:
        raise FormatError(what, why="it is nested too deeply") from error
    except ValueError as error:
        raise FormatError(what, why="it is not JSON in UTF-8") from error
    if _depth(value) > MAX_DEPTH:
        raise FormatError(what, why=f"it is nested more than {MAX_DEPTH} deep")
    return Fields(value, "body")


def take_base64(fields: Fields, name: str, *, limit: int) -> bytes:
    """Return a member that is base64 of at most `limit` bytes; the text is in no message."""
    text = fields.take_string(name)
    try:
        value = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise FormatError(f"cannot read body.{name}", why="it is not base64") from error
    if len(value) > limit:
        raise FormatError(f"cannot read body.{name}", why=f"{len(value)} bytes, at most {limit} are allowed")
    return value


def take_object(fields: Fields, name: str, *, limit: int) -> dict[str, object]:
    """Return a member that is an object whose JSON is at most `limit` characters."""
    value = fields.take(name)
    if not isinstance(value, dict):
        raise FormatError(f"cannot read {name}", why="wanted an object")
    if len(encode_document(value)) > limit:
        raise FormatError(f"cannot read {name}", why=f"it is longer than {limit} characters")
    return cast("dict[str, object]", value)


def encode_document(value: Mapping[str, object] | list[object] | list[dict[str, object]]) -> str:
    """Return compact JSON, ASCII only (half surrogate pairs stay escaped)."""
    return json.dumps(value, separators=(",", ":"), sort_keys=True, allow_nan=False)


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    value = dict(pairs)
    if len(value) != len(pairs):
        msg = "duplicate key"
        raise ValueError(msg)
    return value


def _parse_float(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _refuse_constant(text)  # 1e999 is no constant, and no number


def _refuse_constant(text: str) -> NoReturn:
    msg = f"{text} is not JSON"
    raise ValueError(msg)


def _depth(value: object) -> int:
    deepest, left = 0, [(value, 1)]
    while left:
        item, depth = left.pop()
        deepest = max(deepest, depth)
        if depth > MAX_DEPTH:
            break
        if isinstance(item, dict):
            left.extend((child, depth + 1) for child in item.values())
        elif isinstance(item, list):
            left.extend((child, depth + 1) for child in item)
    return deepest
