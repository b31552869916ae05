"""Canonical JSON: one byte form for one value, so that a hash names a document.

The form is docs/protocol.md section 1: sorted keys, no whitespace, integers only, bounded nesting.
"""

from __future__ import annotations

import json
from typing import TypeAlias

from krunpy.core.errors import FormatError

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | bool"

MAX_DEPTH = 8
MAX_INTEGER = 2**64 - 1


def encode_canonical(value: Json) -> bytes:
    """Return the one canonical byte form of a value.

    Raises FormatError on floats, null, negative or too large integers, surrogates, or deep nesting.
    """
    _require_canonical(value, MAX_DEPTH)
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    try:
        # json leaves DEL as it is and writes other control characters as the protocol says
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise FormatError(
            "cannot encode the document", why="a string holds half of a surrogate pair"
        ) from error


def parse_canonical(data: bytes, *, limit: int) -> Json:
    """Return the value that canonical bytes stand for.

    limit: bytes. Raises FormatError if the bytes are longer, are not JSON, or are not the canonical form.
    """
    what = "cannot read the document"
    if len(data) > limit:
        raise FormatError(what, why=f"it is {len(data)} bytes long, at most {limit} are allowed")
    if data.count(b"[") + data.count(b"{") > limit // 2:
        raise FormatError(what, why="it is nested too deeply")
    try:
        value: Json = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise FormatError(what, why="it is not JSON in UTF-8") from error
    if encode_canonical(value) != data:
        raise FormatError(what, why="its bytes are not the canonical form of its contents")
    return value


def _require_canonical(value: object, depth: int) -> None:
    what = "cannot encode the document"
    if depth < 0:
        raise FormatError(what, why=f"it is nested more than {MAX_DEPTH} deep")
    match value:
        case bool() | str():
            return
        case int():
            if not 0 <= value <= MAX_INTEGER:
                raise FormatError(what, why=f"the integer {value} is not in 0 to 2^64-1")
        case list():
            for item in value:
                _require_canonical(item, depth - 1)
        case dict():
            for key, item in value.items():
                if not isinstance(key, str):
                    raise FormatError(what, why="a key is not a string")
                _require_canonical(item, depth - 1)
        case _:
            raise FormatError(what, why=f"a {type(value).__name__} is not allowed")
