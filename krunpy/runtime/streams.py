"""What passes between engine and guest once the workload runs: standard streams one way, the channel the other.

Nothing is read that there is no room for. Who waits for what is said by `interests`; the loop is the shim's.
"""

from __future__ import annotations

import _socket
import os
import select
from typing import TYPE_CHECKING

from krunpy.runtime.guest_link import GuestLink
from krunpy.runtime.outflow import Outlet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from krunpy.runtime.guest_link import Event

    Handler = Callable[[int], object]  # is told which events happened
    Interests = dict[int, tuple[int, Handler]]  # descriptor -> events to poll for, and who deals with them

_MAX_PENDING = 256 * 1024  # bytes of output that may wait for the reader
_CHUNK = 65536


class Streams:
    """The container's standard streams and, from `join` on, the guest's channel."""

    def __init__(self) -> None:
        self._outlets = {1: Outlet(1), 2: Outlet(2)}
        self._link = GuestLink()
        self._channel: _socket.socket | None = None
        self._stdin_is_open = True

    @property
    def are_joined(self) -> bool:
        """Whether the channel is here."""
        return self._channel is not None

    def join(self, channel: _socket.socket) -> None:
        """Take over the channel: the guest was told to run."""
        channel.setblocking(False)
        self._channel = channel

    def interests(self, on_channel: Handler) -> Interests:
        """Return what to poll for now. on_channel: is to call `carry`."""
        wanted: Interests = {
            descriptor: (select.POLLOUT, outlet.flush)
            for descriptor, outlet in self.waiting_outlets().items()
        }
        if self._channel is None:
            return wanted
        events = select.POLLOUT if self._link.outgoing else 0
        if self.has_room():
            events |= select.POLLIN
        if events:
            wanted[self._channel.fileno()] = (events, on_channel)
        if self._stdin_is_open and self._link.stdin_room():
            wanted[0] = (select.POLLIN, self._on_stdin)
        return wanted

    def has_room(self) -> bool:
        """Say whether more output may be read from the guest."""
        return sum(outlet.pending() for outlet in self._outlets.values()) < _MAX_PENDING

    def waiting_outlets(self) -> dict[int, Outlet]:
        """Return descriptor -> outlet of those whose reader has not taken everything."""
        return {outlet.descriptor: outlet for outlet in self._outlets.values() if outlet.pending()}

    def write(self, stream: int, data: bytes) -> None:
        """Write to standard output (1) or standard error (2); what does not fit waits."""
        self._outlets[stream].write(data)

    def send_signal(self, number: int) -> None:
        """Have the guest send its workload a signal."""
        self._link.send_signal(number)

    def carry(self, happened: int) -> Iterator[Event] | None:
        """Send and receive on the channel; return what the guest said, or None if its end is closed.

        The events raise FormatError on a frame that breaks a rule.
        """
        assert self._channel is not None
        if happened & select.POLLOUT and self._link.outgoing:
            try:
                self._link.sent(self._channel.send(bytes(self._link.outgoing[:_CHUNK]), _socket.MSG_NOSIGNAL))
            except BlockingIOError:
                pass
            except OSError:
                # nobody reads any more; what was said is read below
                self._link.sent(len(self._link.outgoing))
        if not happened & (select.POLLIN | select.POLLHUP | select.POLLERR):
            return iter(())
        try:
            data = self._channel.recv(_CHUNK)
        except BlockingIOError:
            return iter(())
        except OSError:
            data = b""
        return self._link.feed(data) if data else None

    def _on_stdin(self, _: int) -> None:
        try:
            data = os.read(0, min(self._link.stdin_room(), _CHUNK))
        except OSError:
            data = b""
        self._stdin_is_open = bool(data)
        self._link.send_stdin(data)
