"""The frames of the channel between host and guest. Source: docs/protocol.md section 3.

Bytes in, values out; reading from sockets is the caller's.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from krunpy.core.errors import FormatError
from krunpy.core.octets import Digest32, PublicKey32

HEADER = struct.Struct("<BBHI")  # type, stream, zero, length
MAX_PAYLOAD = 65536  # bytes
MAX_MANIFEST_PAYLOAD = 256 * 1024  # bytes, of MANIFEST alone: what a manifest may have
STDIN_WINDOW = 65536  # bytes that may be unacknowledged
MAX_TEXT = 512  # bytes
_HELLO = struct.Struct("<HBB32s32s")
_STARTED = struct.Struct("<6Q")
_ITEM = struct.Struct("<BBH")


class FrameType(IntEnum):
    """Who says what: 0x01 to 0x09 the guest, 0x81 to 0x89 the host."""

    HELLO = 0x01
    REPORT_REQUEST = 0x02
    EVIDENCE = 0x03
    STARTED = 0x04
    OUTPUT = 0x05
    STDIN_ACK = 0x06
    EXIT = 0x07
    FAIL = 0x08
    NOTE = 0x09
    CHALLENGE = 0x81
    REPORT = 0x82
    RELEASE = 0x83
    REFUSED = 0x84
    RUN = 0x85
    STDIN = 0x86
    STDIN_EOF = 0x87
    SIGNAL = 0x88
    MANIFEST = 0x89


class FailReason(IntEnum):
    """Why the agent gave up."""

    INTERNAL = 1
    MANIFEST = 2
    CHANNEL = 3
    TEE = 4
    SERVER_SIGNATURE = 5
    SEAL = 6
    REFUSED = 7
    DISK_INTEGRITY = 8
    DISK_KEY = 9
    MOUNT = 10
    PROCESS = 11
    HOST_SETTINGS = 12
    HOST_DATA = 13


class Tag(IntEnum):
    """Items of RUN, and of what a release seals (DISK_KEY shares number 1 with HOSTNAME: two documents)."""

    HOSTNAME = 1
    ENV = 2
    ARG = 3
    STDIN_IS_EMPTY = 4
    HOSTS = 5
    RESOLV_CONF = 6
    HOSTNAME_FILE = 7
    VOLUME = 8


RELEASE_DISK_KEY = 1
_GUEST_TYPES = frozenset(kind for kind in FrameType if kind < FrameType.CHALLENGE)


@dataclass(frozen=True, slots=True)
class Hello:
    """What the guest says first."""

    tee: int
    guest_key: PublicKey32
    manifest_hash: Digest32


@dataclass(frozen=True, slots=True, kw_only=True)
class Mounting:
    """A directory of the host: its virtiofs tag, and where the guest is to mount it."""

    tag: str
    path: str
    is_read_only: bool


@dataclass(frozen=True, slots=True)
class Failure:
    """Why the agent gave up; the text is the guest's, and bounded."""

    reason: int
    text: str


def encode_frame(kind: FrameType, payload: bytes = b"", *, stream: int = 0) -> bytes:
    """Return the bytes of one frame.

    Raises ValueError if the payload is over MAX_PAYLOAD, of MANIFEST over MAX_MANIFEST_PAYLOAD.
    """
    most = MAX_MANIFEST_PAYLOAD if kind is FrameType.MANIFEST else MAX_PAYLOAD
    if len(payload) > most:
        msg = f"a frame holds at most {most} bytes, seen {len(payload)}"
        raise ValueError(msg)
    return HEADER.pack(kind, stream, 0, len(payload)) + payload


def parse_guest_header(header: bytes) -> tuple[FrameType, int, int]:
    """Return type, stream and payload length of a guest frame.

    header: 8 bytes. Raises FormatError on a type that is not the guest's, a reserved field, or a length
    over MAX_PAYLOAD.
    """
    if len(header) != HEADER.size:
        raise FormatError("cannot read a frame of the guest", why=f"header of {len(header)} bytes, wanted 8")
    kind, stream, zero, length = HEADER.unpack(header)
    if kind not in _GUEST_TYPES:
        raise FormatError("cannot read a frame of the guest", why=f"unknown type 0x{kind:02x}")
    if zero or length > MAX_PAYLOAD:
        raise FormatError("cannot read a frame of the guest", why=f"reserved field {zero}, length {length}")
    return FrameType(kind), stream, length


def parse_hello(payload: bytes) -> Hello:
    """Return the HELLO of a guest of protocol version 1."""
    what = "cannot read the guest's hello"
    if len(payload) != _HELLO.size:
        raise FormatError(what, why=f"{len(payload)} bytes, wanted {_HELLO.size}")
    version, tee, zero, key, manifest_hash = _HELLO.unpack(payload)
    if version != 1 or zero or tee > 2:  # noqa: PLR2004 - the three TEEs
        raise FormatError(what, why=f"version {version}, TEE {tee}; wanted version 1, TEE 0 to 2")
    return Hello(tee=tee, guest_key=PublicKey32(key), manifest_hash=Digest32(manifest_hash))


def encode_hello(hello: Hello) -> bytes:
    """Return the payload of a HELLO (for tests and tools that play the guest)."""
    return _HELLO.pack(1, hello.tee, 0, hello.guest_key, hello.manifest_hash)


def parse_started(payload: bytes) -> tuple[int, ...]:
    """Return six times in microseconds since the guest's boot, in the order of docs/protocol.md."""
    if len(payload) != _STARTED.size:
        raise FormatError(
            "cannot read the guest's start", why=f"{len(payload)} bytes, wanted {_STARTED.size}"
        )
    return _STARTED.unpack(payload)


def parse_exit(payload: bytes) -> int:
    """Return the exit status as engines count it: the code, or 128 + signal."""
    if len(payload) != 2 or payload[0] > 1:  # noqa: PLR2004
        raise FormatError(
            "cannot read the guest's exit", why=f"seen {payload[:8].hex()}, wanted kind 0 or 1 and a code"
        )
    return payload[1] if payload[0] == 0 else min(128 + payload[1], 255)


def parse_failure(payload: bytes) -> Failure:
    """Return the reason and the text of a FAIL."""
    if not 2 <= len(payload) <= 2 + MAX_TEXT:  # noqa: PLR2004
        raise FormatError("cannot read the guest's failure", why=f"{len(payload)} bytes")
    return Failure(int.from_bytes(payload[:2], "little"), parse_text(payload[2:]))


def parse_text(payload: bytes) -> str:
    """Return text from the guest, made safe to print: at most MAX_TEXT bytes, no control characters."""
    if len(payload) > MAX_TEXT:
        raise FormatError("cannot read a text of the guest", why=f"{len(payload)} bytes, at most {MAX_TEXT}")
    text = payload.decode("utf-8", errors="replace")
    return "".join(char if char.isprintable() else "?" for char in text)


def parse_stdin_ack(payload: bytes) -> int:
    """Return how many bytes of standard input the guest has handed on."""
    if len(payload) != 4:  # noqa: PLR2004
        raise FormatError("cannot read the guest's acknowledgement", why=f"{len(payload)} bytes, wanted 4")
    return int.from_bytes(payload, "little")


def encode_items(items: list[tuple[int, bytes]]) -> bytes:
    """Return the items of a RUN or of a release, each (tag, value of at most 65535 bytes)."""
    return b"".join(_ITEM.pack(tag, 0, len(value)) + value for tag, value in items)


def encode_mounting(mounting: Mounting) -> bytes:
    """Return the value of an item VOLUME."""
    mode = "ro" if mounting.is_read_only else "rw"
    return f"{mounting.tag}:{mode}:{mounting.path}".encode()


def parse_items(payload: bytes) -> list[tuple[int, bytes]]:
    """Return the items that `encode_items` wrote; FormatError if they do not fill the payload."""
    items: list[tuple[int, bytes]] = []
    at = 0
    while at < len(payload):
        if at + _ITEM.size > len(payload):
            raise FormatError("cannot read the items", why="the last one is cut off")
        tag, zero, length = _ITEM.unpack_from(payload, at)
        at += _ITEM.size
        if zero or at + length > len(payload):
            raise FormatError(
                "cannot read the items", why=f"item {len(items)} of {length} bytes does not fit"
            )
        items.append((tag, payload[at : at + length]))
        at += length
    return items


def encode_evidence(report: bytes, certificates: bytes) -> bytes:
    """Return the EVIDENCE payload: report and certificate table, each behind its length as u32."""
    return struct.pack("<I", len(report)) + report + struct.pack("<I", len(certificates)) + certificates


def parse_evidence(payload: bytes) -> tuple[bytes, bytes]:
    """Return report and certificate table of an EVIDENCE payload of at most MAX_PAYLOAD bytes."""
    what = "cannot read the evidence"
    if not 8 <= len(payload) <= MAX_PAYLOAD:  # noqa: PLR2004
        raise FormatError(what, why=f"{len(payload)} bytes, wanted 8 to {MAX_PAYLOAD}")
    (length,) = struct.unpack_from("<I", payload)
    if 8 + length > len(payload):
        raise FormatError(what, why=f"a report of {length} bytes does not fit into {len(payload)}")
    (rest,) = struct.unpack_from("<I", payload, 4 + length)
    if 8 + length + rest != len(payload):
        raise FormatError(what, why=f"certificates of {rest} bytes do not fill the {len(payload)}")
    return payload[4 : 4 + length], payload[8 + length :]
