"""What the commands about evidence read: files, folders of configfs-tsm, standard input, and their options."""

from __future__ import annotations

import base64
import binascii
import os
import re
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from krunpy.core.errors import FormatError, HostError, UsageError
from krunpy.core.files import load_bounded
from krunpy.formats.eventlog import LARGEST_LOG, is_ccel
from krunpy.formats.evidence_encodings import LARGEST_EVIDENCE

if TYPE_CHECKING:
    from krunpy.formats.eventlog import Event

_LARGEST_OPTION = 1 << 20  # bytes of a file that an option names
_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----([A-Za-z0-9+/=\s]+)-----END \1-----")
_SEQUENCE = b"\x30"  # what DER starts with
_TSM_PARTS = ("outblob", "auxblob")  # a report, and the certificates that came with it


def load_evidence(path: str) -> bytes:
    """Return the bytes of evidence.

    path: a file, "-" for standard input, or a folder of configfs-tsm that holds an outblob.

    Raises UsageError if it cannot be read, FormatError if it is over 4 MiB.
    """
    if path == "-":
        contents = sys.stdin.buffer.read(LARGEST_EVIDENCE + 1)
        if len(contents) > LARGEST_EVIDENCE:
            raise FormatError("cannot read standard input", why=f"it is longer than {LARGEST_EVIDENCE} bytes")
        return contents
    if os.path.isdir(path):
        return b"".join(
            _load(f"{path}/{name}", LARGEST_EVIDENCE)
            for name in _TSM_PARTS
            if name == _TSM_PARTS[0] or os.path.exists(f"{path}/{name}")
        )
    return _load(path, LARGEST_EVIDENCE)


def _load(path: str, limit: int) -> bytes:
    try:
        return load_bounded(path, limit)
    except HostError as error:
        raise UsageError(error.what, why=error.why) from error


def load_option(path: str) -> bytes:
    """Return the contents of a file that an option names, at most 1 MiB. Raises UsageError or FormatError."""
    return _load(path, _LARGEST_OPTION)


def load_event_log(path: str) -> tuple[Event, ...]:
    """Return the events of a log in either form, at most 4 MiB. Raises UsageError or FormatError."""
    from krunpy.formats.eventlog_dstack import parse_event_log  # not at the top: few command lines name a log

    return parse_event_log(_load(path, LARGEST_LOG))


def is_event_log(data: bytes) -> bool:
    """Return whether a file is an event log in one of its forms, and no evidence."""
    return is_ccel(data) or data.lstrip()[:1] == b"["


def load_ders(path: str) -> tuple[bytes, ...]:
    """Return what is in a file of DER or PEM, in order: certificates or revocation lists.

    Raises UsageError or FormatError.
    """
    contents = load_option(path)
    if contents.startswith(_SEQUENCE):
        return (contents,)
    try:
        ders = tuple(
            base64.b64decode(b"".join(match[1].split()), validate=True) for match in _PEM.findall(contents)
        )
    except binascii.Error as error:
        raise FormatError(f"cannot read {path}", why="what is between its PEM lines is not base64") from error
    if not ders:
        raise FormatError(f"cannot read {path}", why="it is neither DER nor PEM")
    return ders


def parse_hex(text: str, option: str, *, smallest: int, largest: int) -> bytes:
    """Return the bytes that an option gives in hex; smallest, largest: in bytes. Raises UsageError."""
    try:
        octets = bytes.fromhex(text)
    except ValueError:
        octets = b""
    if not smallest <= len(octets) <= largest or len(octets) * 2 != len(text):
        size = f"{smallest}" if smallest == largest else f"{smallest} to {largest}"
        raise UsageError(
            f"cannot read {option}",
            why=f'seen "{text[:40]}" ({len(text)} characters), wanted {size} bytes in hex',
        )
    return octets


def parse_time(text: str) -> datetime:
    """Return a time in ISO 8601; one without a zone is UTC. Raises UsageError."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            "cannot read --at", why=f'seen "{text[:40]}", wanted a time as in 2026-06-01T12:00:00Z'
        ) from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)
