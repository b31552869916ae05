"""The host's end of the guest channel once the workload runs: frames in, frames out, all of it bounded.

No sockets and no processes: bytes in, events out. Everything that breaks a rule raises FormatError, and the
machine ends. What came before RUN was the launcher's.
Source: docs/protocol.md section 3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from krunpy.core.errors import FormatError
from krunpy.formats.frames import (
    HEADER,
    STDIN_WINDOW,
    FrameType,
    encode_frame,
    parse_exit,
    parse_failure,
    parse_guest_header,
    parse_started,
    parse_stdin_ack,
    parse_text,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from krunpy.formats.frames import Failure

MAX_OUTGOING = 128 * 1024  # bytes that may wait for the guest before stdin is left alone
_STREAMS = (1, 2)


class Output(NamedTuple):
    """Bytes that the workload wrote; stream 1 is standard output, 2 standard error."""

    stream: int
    data: bytes


class Started(NamedTuple):
    """The workload is about to be executed; six times in microseconds since the guest's boot."""

    times: tuple[int, ...]


class Note(NamedTuple):
    """Something that the guest wants said."""

    text: str


class Exited(NamedTuple):
    """The workload ended with this status, 128 + signal included."""

    status: int


class Failed(NamedTuple):
    """The agent gave up."""

    failure: Failure


Event = Output | Started | Note | Exited | Failed


class GuestLink:
    """Both directions of the channel: what of a frame has come so far, and what waits to be sent."""

    __slots__ = ("_has_started", "_incoming", "_is_over", "_signals", "_unacknowledged", "outgoing")

    def __init__(self) -> None:
        self._incoming = bytearray()
        self.outgoing = bytearray()
        self._unacknowledged = 0
        self._signals: list[int] = []
        self._has_started = False
        self._is_over = False

    def feed(self, data: bytes) -> Iterator[Event]:
        """Yield the events in the bytes that came; those behind the last one of a workload are dropped.

        Raises FormatError on a frame that breaks a rule.
        """
        self._incoming += data
        while not self._is_over and len(self._incoming) >= HEADER.size:
            kind, stream, length = parse_guest_header(bytes(self._incoming[: HEADER.size]))
            end = HEADER.size + length
            if len(self._incoming) < end:
                return
            payload = bytes(self._incoming[HEADER.size : end])
            del self._incoming[:end]
            event = self._take(kind, stream, payload)
            if event is not None:
                yield event

    def stdin_room(self) -> int:
        """Return how many bytes of standard input may be sent now."""
        if len(self.outgoing) >= MAX_OUTGOING:
            return 0
        return STDIN_WINDOW - self._unacknowledged

    def send_stdin(self, data: bytes) -> None:
        """Queue 1 to `stdin_room()` bytes of standard input; none at all means its end."""
        self._unacknowledged += len(data)
        self.outgoing += encode_frame(FrameType.STDIN if data else FrameType.STDIN_EOF, data)

    def send_signal(self, number: int) -> None:
        """Queue a signal. One that waits already is not queued twice, as a kernel does it."""
        if len(self.outgoing) < MAX_OUTGOING:
            self.outgoing += encode_frame(FrameType.SIGNAL, bytes([number]))
        elif number not in self._signals:
            self._signals.append(number)

    def sent(self, count: int) -> None:
        """Take note that the first `count` waiting bytes are on their way."""
        del self.outgoing[:count]
        while self._signals and len(self.outgoing) < MAX_OUTGOING:
            self.outgoing += encode_frame(FrameType.SIGNAL, bytes([self._signals.pop(0)]))

    def _take(self, kind: FrameType, stream: int, payload: bytes) -> Event | None:
        if stream and kind is not FrameType.OUTPUT:
            raise FormatError("cannot read a frame of the guest", why=f"{kind.name} on stream {stream}")
        match kind:
            case FrameType.OUTPUT:
                return _read_output(stream, payload)
            case FrameType.STDIN_ACK:
                self._acknowledge(parse_stdin_ack(payload))
                return None
            case FrameType.NOTE:
                return Note(parse_text(payload))
            case FrameType.STARTED:
                return self._start(parse_started(payload))
            case FrameType.EXIT:
                self._is_over = True
                return Exited(parse_exit(payload))
            case FrameType.FAIL:
                self._is_over = True
                return Failed(parse_failure(payload))
            case _:
                raise FormatError("cannot read a frame of the guest", why=f"{kind.name} after RUN")

    def _acknowledge(self, count: int) -> None:
        if count > self._unacknowledged:
            raise FormatError(
                "cannot read the guest's acknowledgement",
                why=f"{count} bytes, but only {self._unacknowledged} were sent",
            )
        self._unacknowledged -= count

    def _start(self, times: tuple[int, ...]) -> Started:
        if self._has_started:
            raise FormatError("cannot read a frame of the guest", why="STARTED came twice")
        self._has_started = True
        return Started(times)


def _read_output(stream: int, payload: bytes) -> Output | None:
    if stream not in _STREAMS:
        raise FormatError("cannot read the workload's output", why=f"stream {stream}, wanted 1 or 2")
    return Output(stream, payload) if payload else None
