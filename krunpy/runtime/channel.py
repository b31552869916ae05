"""How the launcher and the machine that it starts come by the two ends of the guest's channel.

QEMU is handed an end that is already connected. libkrun connects to a socket when its guest does; the launcher then
gives that connection to the shim, which has the channel from there.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

from krunpy.guest.payload import VmmKind
from krunpy.runtime import control
from krunpy.runtime.guest_socket import GuestSocket

if TYPE_CHECKING:
    import socket


class Channel(Protocol):
    """The two ends."""

    @property
    def machine_end(self) -> int:
        """Return the descriptor that the machine is given."""

    @property
    def kept(self) -> tuple[int, ...]:
        """Return the descriptors that it is to hold besides."""

    def handed_over(self) -> None:
        """Give up the machine's end here: the machine has it."""

    def meet(self, timeout_s: float) -> socket.socket:
        """Return our end, connected to the guest. Raises HostError if the guest does not come in time."""

    def close(self) -> None:
        """Give up what is still waiting for the guest."""


class _Connected:
    """Both ends were made by the shim."""

    machine_end = control.GUEST_FD
    kept: tuple[int, ...] = ()

    def __init__(self, given: socket.socket) -> None:
        self._given = given

    def handed_over(self) -> None:
        os.close(control.GUEST_FD)

    def meet(self, timeout_s: float) -> socket.socket:
        del timeout_s  # the conversation has it
        return self._given

    def close(self) -> None:
        return


class _Listening:
    """The guest connects. The shim's pair of ends only tells when the machine has ended."""

    kept = (control.GUEST_FD,)

    def __init__(self, given: socket.socket, directory: str, shim: socket.socket) -> None:
        self._given, self._shim = given, shim
        self._socket = GuestSocket(directory)
        self.machine_end = self._socket.inode

    def handed_over(self) -> None:
        os.close(control.GUEST_FD)
        os.close(self.machine_end)

    def meet(self, timeout_s: float) -> socket.socket:
        end = self._socket.accept(machine=self._given, timeout_s=timeout_s)
        control.send_message(self._shim, {"kind": "channel"}, [end.fileno()])
        return end

    def close(self) -> None:
        self._socket.close()


def open_channel(vmm: VmmKind, *, given: socket.socket, directory: str, shim: socket.socket) -> Channel:
    """Return the channel of a machine that a VMM is to start.

    given: the host's end of the shim's pair. directory: the container's. shim: the launcher's conversation with it.

    Raises HostError if the directory does not take a socket.
    """
    return _Connected(given) if vmm is VmmKind.QEMU else _Listening(given, directory, shim)
