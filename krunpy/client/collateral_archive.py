"""Everything that a cache holds as one file, for a host without a network.

Taken in whole or not at all, and by the same checks as what comes over a network: who carries the file
cannot slip in another chip's certificate, nor set a CRL back to an older one.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from krunpy.client.collateral_item import name_item, parse_item
from krunpy.core.errors import FormatError
from krunpy.formats.tdx_json import parse_signed_json

if TYPE_CHECKING:
    from collections.abc import Iterable

    from krunpy.client.collateral_cache import Cached, CollateralCache
    from krunpy.client.collateral_item import Item
    from krunpy.formats.narrow import Fields

LARGEST_ARCHIVE = 64 << 20  # bytes
_SCHEMA = "krunpy.collateral.v1"
_MOST_ITEMS = 10000
_HOLD_S = 60.0
_NEXT = "export it again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """What became of one item of an archive. is_new: the cache holds this one now, and did not before."""

    cached: Cached
    is_new: bool


def pack_archive(items: Iterable[Cached]) -> bytes:
    """Return the archive of some items: the same for the same items in the same order."""
    members = [
        {
            "name": name_item(cached.item),
            "sha256": sha256(cached.contents).hexdigest(),
            "contents": base64.b64encode(cached.contents).decode(),
        }
        for cached in items
    ]
    return json.dumps({"schema": _SCHEMA, "items": members}, indent=1).encode() + b"\n"


def parse_archive(raw: bytes) -> tuple[tuple[Item, bytes], ...]:
    """Return the items of an archive, at most 64 MiB, with their contents, not checked yet.

    Raises FormatError if a part is not what an export wrote, or an item is there twice.
    """
    try:
        fields = parse_signed_json(raw, "the archive", limit=LARGEST_ARCHIVE)
        schema = fields.take_string("schema")
        if schema != _SCHEMA:
            raise FormatError(
                "cannot read the archive", why=f'seen schema "{schema[:80]}", wanted "{_SCHEMA}"'
            )
        items = tuple(_read_member(member) for member in fields.take_objects("items", limit=_MOST_ITEMS))
        fields.require_no_more()
    except FormatError as error:
        error.next = error.next or _NEXT
        raise
    if len({item for item, _ in items}) != len(items):
        raise FormatError("cannot read the archive", why="an item is there twice", next=_NEXT)
    return items


def _read_member(member: Fields) -> tuple[Item, bytes]:
    item = parse_item(member.take_string("name"))
    digest = member.take_hex("sha256", 32)
    try:
        contents = base64.b64decode(member.take_string("contents"), validate=True)
    except (binascii.Error, ValueError) as error:
        raise FormatError(f"cannot read {member.where}.contents", why="it is not base64") from error
    member.require_no_more()
    if sha256(contents).digest() != digest:
        raise FormatError(
            f"cannot read {member.where}",
            why=f"seen contents of SHA-256 {sha256(contents).hexdigest()}, wanted {digest.hex()}",
        )
    return item, contents


def import_archive(cache: CollateralCache, raw: bytes) -> tuple[Imported, ...]:
    """Keep the items of an archive, and return what became of each. Items we hold in a newer issue stay.

    Raises FormatError, before anything is kept, if the archive or one of its items is not what it should be.
    """
    items = parse_archive(raw)
    for item, contents in items:
        try:
            cache.check(item, contents)
        except FormatError as error:
            what = f"cannot import {name_item(item)}"
            raise FormatError(
                what, why=f"{error.why}; nothing was imported", next=error.next or _NEXT
            ) from error
    return tuple(_keep(cache, item, contents) for item, contents in items)


def _keep(cache: CollateralCache, item: Item, contents: bytes) -> Imported:
    with cache.hold(item, patience_s=_HOLD_S):
        before = cache.find(item)
        if before is not None and before.contents == contents:
            return Imported(cached=before, is_new=False)
        after = cache.keep(item, contents)
        return Imported(cached=after, is_new=after.contents == contents)
