"""Event logs of a TD: the CCEL table, which is a crypto-agile TCG2 log. Nothing in a log is trusted here.

`formats.eventlog_dstack` reads the JSON form; both give the same events.

Source: TCG PC Client Platform Firmware Profile 1.06, section 10; UEFI 2.10, section 38.4 (EFI CC measurement).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha384

from krunpy.core.errors import FormatError
from krunpy.core.octets import Digest48

LARGEST_LOG = 4 << 20  # bytes
MOST_EVENTS = 16384
ALGORITHM_SHA384 = 0x000C

_SIGNATURE = b"Spec ID Event03\0"
_SIGNATURE_AT = 32  # bytes: after register, type, SHA-1 digest and size
_FIRST = struct.Struct("<II20sI")  # register, type, SHA-1, size: the shape of the header record
_SPECIFICATION = struct.Struct("<IBBBBI")  # after the signature
_PAIR = struct.Struct("<HH")  # algorithm, size of its digest
_RECORD = struct.Struct("<III")  # register, type, number of digests
_U16, _U32 = struct.Struct("<H"), struct.Struct("<I")
_MOST_ALGORITHMS = 8
_LARGEST_DIGEST = 64  # bytes
_END = 0xFFFFFFFF
_LAST_REGISTER = 4


class EventType(IntEnum):
    """The event types that replay or prediction names."""

    NO_ACTION = 0x3
    SEPARATOR = 0x4
    EVENT_TAG = 0x6
    EFI_VARIABLE_DRIVER_CONFIG = 0x80000001
    EFI_VARIABLE_BOOT = 0x80000002
    EFI_BOOT_SERVICES_APPLICATION = 0x80000003
    EFI_ACTION = 0x80000007
    DSTACK_RUNTIME = 0x08000001


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One record of a log.

    register: MrIndex: 0 for MRTD, 1 to 4 for RTMR0 to RTMR3.
    kind:     the event type, one of EventType or another number.
    digest:   the SHA-384 that is extended.
    data:     what the record says happened; only `is_vouched` data was hashed.
    hashed:   the bytes that the digest is over if data is to be believed; data itself but for dstack.
    name:     dstack's name of the event; empty in binary logs.
    """

    register: int
    kind: int
    digest: Digest48
    data: bytes
    hashed: bytes
    name: str = ""

    @property
    def is_vouched(self) -> bool:
        """Whether the digest is that of the event's data, so that a replay proves the data too."""
        return sha384(self.hashed).digest() == self.digest


def _refuse(why: str) -> FormatError:
    return FormatError("cannot read the event log", why=why)


class _Cursor:
    """A position in a log; every `take` raises FormatError past its end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self.at

    def take(self, size: int) -> bytes:
        if size > self.left:
            raise _refuse(f"seen {self.left} bytes at {self.at}, wanted {size}")
        self.at += size
        return self._data[self.at - size : self.at]

    def unpack(self, kind: struct.Struct) -> tuple[int, ...]:
        return kind.unpack(self.take(kind.size))

    def peek(self, size: int) -> bytes:
        return self._data[self.at : self.at + size]


def _parse_algorithms(specification: bytes) -> dict[int, int]:
    """Return the digest size of each algorithm that the header record names."""
    cursor = _Cursor(specification)
    if cursor.take(len(_SIGNATURE)) != _SIGNATURE:
        raise _refuse("its first record is no Spec ID Event03")
    _class, _minor, _major, _errata, _word, count = cursor.unpack(_SPECIFICATION)
    if not 0 < count <= _MOST_ALGORITHMS:
        raise _refuse(f"seen {count} algorithms, wanted 1 to {_MOST_ALGORITHMS}")
    sizes: dict[int, int] = {}
    for _ in range(count):
        algorithm, size = cursor.unpack(_PAIR)
        if algorithm in sizes or not 0 < size <= _LARGEST_DIGEST:
            raise _refuse(f"seen algorithm {algorithm:#x} with {size} bytes, twice or out of range")
        sizes[algorithm] = size
    (vendor_size,) = cursor.take(1)
    cursor.take(vendor_size)
    if cursor.left:
        raise _refuse(f"seen {cursor.left} bytes after the header record's contents")
    if sizes.get(ALGORITHM_SHA384) != Digest48.size:
        raise _refuse("its algorithms do not have SHA-384")
    return sizes


def _parse_digests(cursor: _Cursor, count: int, sizes: dict[int, int]) -> Digest48:
    seen: dict[int, bytes] = {}
    if count > len(sizes):
        raise _refuse(f"seen {count} digests in one event, wanted at most {len(sizes)}")
    for _ in range(count):
        (algorithm,) = cursor.unpack(_U16)
        if algorithm not in sizes or algorithm in seen:
            raise _refuse(f"seen algorithm {algorithm:#x} twice, or not in the header record")
        seen[algorithm] = cursor.take(sizes[algorithm])
    if ALGORITHM_SHA384 not in seen:
        raise _refuse("seen an event without a SHA-384 digest")
    return Digest48(seen[ALGORITHM_SHA384])


def _is_end(cursor: _Cursor) -> bool:
    """Return whether no record follows: bytes that firmware never wrote are 0xFF, or zero."""
    head = cursor.peek(_RECORD.size)
    return not head or head[:4] == _U32.pack(_END) or not head.strip(b"\0")


def is_ccel(data: bytes) -> bool:
    """Return whether bytes begin as a log of a firmware does: its first record says which specification it follows."""
    return data[_SIGNATURE_AT:].startswith(_SIGNATURE)


def parse_ccel(log: bytes) -> tuple[Event, ...]:
    """Return the events of a CCEL table, without its header record.

    log: at most 4 MiB; what follows the last record is not read.

    Raises FormatError if it is longer, is cut, or a record has no SHA-384 digest or an unknown register.
    """
    if len(log) > LARGEST_LOG:
        raise _refuse(f"seen {len(log)} bytes, wanted at most {LARGEST_LOG}")
    cursor = _Cursor(log)
    _register, kind, _digest, size = cursor.unpack(_FIRST)
    if kind != EventType.NO_ACTION:
        raise _refuse(f"seen event type {kind:#x} first, wanted EV_NO_ACTION")
    sizes = _parse_algorithms(cursor.take(size))
    events: list[Event] = []
    while not _is_end(cursor):
        register, kind, count = cursor.unpack(_RECORD)
        if register > _LAST_REGISTER:
            raise _refuse(f"seen register {register}, wanted 0 to {_LAST_REGISTER}")
        digest = _parse_digests(cursor, count, sizes)
        (size,) = cursor.unpack(_U32)
        data = cursor.take(size)
        events.append(Event(register=register, kind=kind, digest=digest, data=data, hashed=data))
        if len(events) > MOST_EVENTS:
            raise _refuse(f"seen more than {MOST_EVENTS} events")
    return tuple(events)


def pack_ccel(events: tuple[Event, ...]) -> bytes:
    """Return a log of these events with SHA-384 alone, ended as firmware ends it."""
    specification = _SIGNATURE + _SPECIFICATION.pack(0, 0, 2, 0, 2, 1)
    specification += _PAIR.pack(ALGORITHM_SHA384, Digest48.size) + b"\0"
    parts = [_FIRST.pack(1, EventType.NO_ACTION, bytes(20), len(specification)), specification]
    for event in events:
        parts.append(_RECORD.pack(event.register, event.kind, 1))
        parts.append(_U16.pack(ALGORITHM_SHA384) + event.digest)
        parts.append(_U32.pack(len(event.data)) + event.data)
    return b"".join([*parts, _U32.pack(_END)])
