"""Event logs in the JSON form of dstack: the firmware's events and those of its guest agent.

An event of the agent is hashed with its name and payload, by a rule of dstack's; one whose digest does
not follow from them is refused, since the digest has no other meaning.

Source: Dstack-TEE/dstack, cc-eventlog/src/tdx.rs and runtime_events.rs (versions 1 and 2 of the digest).
"""

from __future__ import annotations

import json
from hashlib import sha384
from typing import cast

from krunpy.core.errors import FormatError
from krunpy.core.octets import Digest48
from krunpy.formats.eventlog import LARGEST_LOG, MOST_EVENTS, Event, EventType, parse_ccel
from krunpy.formats.narrow import Fields

_LAST_REGISTER = 3
_U32_MAX = 0xFFFFFFFF
_VERSIONS = 2


def _refuse(why: str) -> FormatError:
    return FormatError("cannot read the event log", why=why)


def make_preimage(name: str, payload: bytes, *, version: int = 1) -> bytes:
    """Return the bytes whose SHA-384 the agent extends into RTMR3. version: 1 or 2."""
    if version == 1:
        return EventType.DSTACK_RUNTIME.to_bytes(4, "little") + b":" + name.encode() + b":" + payload
    document = {"name": name, "payload": payload.hex(), "type": int(EventType.DSTACK_RUNTIME)}
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


def _take_hex(fields: Fields, name: str) -> bytes:
    text = fields.take_string(name)
    try:
        value = bytes.fromhex(text)
    except ValueError:
        raise FormatError(f"cannot read {fields.where}.{name}", why="it is not hex") from None
    if len(text) != 2 * len(value):
        raise FormatError(f"cannot read {fields.where}.{name}", why="it is not hex without blanks")
    return value


def _parse_event(fields: Fields) -> Event:
    register = fields.take_integer("imr", maximum=_LAST_REGISTER)
    kind = fields.take_integer("event_type", maximum=_U32_MAX)
    digest = _take_hex(fields, "digest") if fields.has("digest") else b""
    name, payload = fields.take_string("event"), _take_hex(fields, "event_payload")
    version = fields.take_integer("version", minimum=1, maximum=_VERSIONS) if fields.has("version") else 1
    preimage = _take_hex(fields, "preimage") if fields.has("preimage") else None
    fields.require_no_more()
    hashed = payload
    if kind == EventType.DSTACK_RUNTIME:
        try:
            hashed = make_preimage(name, payload, version=version)
        except UnicodeEncodeError:
            raise FormatError(f"cannot read {fields.where}.event", why="it is no Unicode text") from None
        ruled = sha384(hashed).digest()
        if (digest and digest != ruled) or preimage not in {None, hashed}:
            raise FormatError(
                f"cannot read {fields.where}", why="its digest does not follow from its name and payload"
            )
        digest = ruled
    if len(digest) != Digest48.size:
        raise FormatError(
            f"cannot read {fields.where}.digest", why=f"seen {len(digest)} bytes, wanted {Digest48.size}"
        )
    return Event(
        register=register + 1, kind=kind, digest=Digest48(digest), data=payload, hashed=hashed, name=name
    )


def _take_members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _refuse("a member is given twice")
    return members


def _load(text: bytes) -> object:
    try:
        return cast("object", json.loads(text.decode(), object_pairs_hook=_take_members))
    except (ValueError, RecursionError) as error:
        raise _refuse("it is not JSON in UTF-8") from error


def parse_dstack_log(log: bytes) -> tuple[Event, ...]:
    """Return the events of a JSON log.

    log: a list of events; or an object, such as dstack's quote response, whose "event_log" is that list or
    holds it as a string. At most 4 MiB.

    Raises FormatError if it is anything else, or an event of the agent has a digest that is not its own.
    """
    if len(log) > LARGEST_LOG:
        raise _refuse(f"seen {len(log)} bytes, wanted at most {LARGEST_LOG}")
    value = _load(log)
    if isinstance(value, dict):
        value = value.get("event_log")
        if isinstance(value, str):
            value = _load(value.encode("utf-8", "surrogatepass"))
    fields = Fields({"events": value}, "event log")
    return tuple(_parse_event(item) for item in fields.take_objects("events", limit=MOST_EVENTS))


def parse_event_log(log: bytes) -> tuple[Event, ...]:
    """Return the events of a log of either form, told apart by its first byte. Raises FormatError."""
    return parse_dstack_log(log) if log.lstrip()[:1] in {b"[", b"{"} else parse_ccel(log)
