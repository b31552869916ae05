"""Messages between shim and launcher: one JSON object per packet, descriptors beside it. Both ends use this.

The launcher asks for the machine; the shim, which outlives it, makes the machine its own child.

    launcher -> shim: {"kind": "prepare", "argv": [...], "words": [...]}   before "vm", whose argv begins so; a process
                      that waits for the rest of it is given these words
                      {"kind": "vm", "argv": [..., "{fd0}", ...], "fds": N, "groups": [...], "fatal": ...}
                      with N descriptors; "fatal": words after which a machine that said them is ended, empty for none
                      {"kind": "channel"}   with 1 descriptor, in place of the channel that the launcher was given
                      {"kind": "note", "text": ...}
                      {"kind": "failed", "what": ..., "why": ..., "next": ..., "status": 1 to 255}
    shim -> launcher: {"kind": "start", "stdin_is_empty": true | false}
                      {"kind": "stop"}
"""

from __future__ import annotations

import _socket
import json
import os
import struct
from typing import cast

from krunpy.core.errors import FormatError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_MESSAGE = 256 * 1024  # bytes
MAX_DESCRIPTORS = 16
CONTROL_FD = 3  # the launcher's end of this conversation
CHANNEL_FD = 4  # the host's end of the guest channel
GUEST_FD = 5  # the guest's end of the guest channel, to be given to the machine
_INT = struct.Struct("i")
_CLOEXEC = 0x40000000  # MSG_CMSG_CLOEXEC, recvmsg(2)


class Message:
    """One received message and its descriptors, which the receiver owns."""

    __slots__ = ("descriptors", "fields", "kind")

    def __init__(self, kind: str, fields: dict[str, object], descriptors: list[int]) -> None:
        self.kind = kind
        self.fields = fields
        self.descriptors = descriptors

    def text(self, name: str) -> str:
        """Return a member that is a string, empty if it is missing. Raises FormatError."""
        value = self.fields.get(name, "")
        if not isinstance(value, str):
            raise FormatError(f"cannot read a {self.kind} message", why=f'"{name}" is no string')
        return value

    def number(self, name: str, *, default: int) -> int:
        """Return a member that is a number. Raises FormatError."""
        value = self.fields.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise FormatError(f"cannot read a {self.kind} message", why=f'"{name}" is no number')
        return value

    def texts(self, name: str) -> list[str]:
        """Return a member that is a list of strings without zero bytes. Raises FormatError."""
        value = self.fields.get(name)
        if not isinstance(value, list) or not all(
            isinstance(item, str) and "\0" not in item for item in value
        ):
            raise FormatError(f"cannot read a {self.kind} message", why=f'"{name}" is no list of strings')
        return cast("list[str]", value)

    def numbers(self, name: str) -> list[int]:
        """Return a member that is a list of numbers from 0 to 2^32-1. Raises FormatError."""
        value = self.fields.get(name)
        if not isinstance(value, list) or not all(
            type(item) is int and 0 <= item < 1 << 32 for item in value
        ):
            raise FormatError(f"cannot read a {self.kind} message", why=f'"{name}" is no list of numbers')
        return cast("list[int]", value)


def make_pair(kind: int) -> tuple[_socket.socket, _socket.socket]:
    """Return two connected local sockets of a kind (SOCK_SEQPACKET, SOCK_STREAM), closed on exec."""
    ends = _socket.socketpair(_socket.AF_UNIX, kind | _socket.SOCK_CLOEXEC)
    for end in ends:
        end.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDBUF, 2 * MAX_MESSAGE)
    return ends


def send_message(end: _socket.socket, fields: dict[str, object], descriptors: Sequence[int] = ()) -> None:
    """Send one message. Raises ValueError if it is over MAX_MESSAGE, OSError if nobody listens."""
    packet = json.dumps(fields).encode()
    if len(packet) > MAX_MESSAGE or len(descriptors) > MAX_DESCRIPTORS:
        msg = f"a message holds {MAX_MESSAGE} bytes and {MAX_DESCRIPTORS} descriptors, seen {len(packet)}"
        raise ValueError(msg)
    rights = b"".join(_INT.pack(descriptor) for descriptor in descriptors)
    ancillary = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)] if rights else []
    end.sendmsg([packet], ancillary, _socket.MSG_NOSIGNAL)


def receive_message(end: _socket.socket) -> Message | None:
    """Return the next message, or None when the other end is closed.

    Raises FormatError if it is not one of ours; BlockingIOError if the socket does not block and is empty.
    """
    space = _socket.CMSG_SPACE(MAX_DESCRIPTORS * _INT.size)
    try:
        packet, ancillary, flags, _ = end.recvmsg(MAX_MESSAGE + 1, space, _CLOEXEC)
    except ConnectionResetError:
        # The other end closed with something of ours unread: the kernel says so once, then goes on.
        packet, ancillary, flags, _ = end.recvmsg(MAX_MESSAGE + 1, space, _CLOEXEC)
    descriptors = _take_descriptors(ancillary)
    if not packet:
        return None
    try:
        return _parse(packet, flags, descriptors)
    except FormatError:
        for descriptor in descriptors:
            os.close(descriptor)
        raise


def _take_descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    found: list[int] = []
    for level, kind, data in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            whole = len(data) - len(data) % _INT.size
            found += [value for (value,) in _INT.iter_unpack(data[:whole])]
    return found


def _parse(packet: bytes, flags: int, descriptors: list[int]) -> Message:
    what = "cannot read a control message"
    if flags & (_socket.MSG_TRUNC | _socket.MSG_CTRUNC) or len(packet) > MAX_MESSAGE:
        raise FormatError(what, why=f"it is longer than {MAX_MESSAGE} bytes or has too many descriptors")
    try:
        fields = json.loads(packet)
    except (ValueError, RecursionError) as error:
        raise FormatError(what, why="it is not JSON") from error
    if not isinstance(fields, dict) or not isinstance(fields.get("kind"), str):
        raise FormatError(what, why='it has no "kind"')
    return Message(str(fields["kind"]), cast("dict[str, object]", fields), descriptors)
