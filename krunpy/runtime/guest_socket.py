"""Where a machine of libkrun connects its guest's channel to: a Unix socket that only this machine can reach.

QEMU is handed one end of a socket pair; libkrun wants a path, and connects to it when the guest connects its vsock. The
socket lies in the container's private directory, and the machine reaches it through a descriptor of its inode alone.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket

from krunpy.core.errors import HostError

_NAME = "guest.sock"


class GuestSocket:
    """A listening socket for one connection."""

    def __init__(self, directory: str) -> None:
        """Listen in a private directory. Raises HostError if the directory does not take a socket."""
        self._folder = os.open(directory, os.O_DIRECTORY | os.O_RDONLY | os.O_CLOEXEC)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # by descriptor: the name of a socket has at most 107 bytes
        path = f"/proc/self/fd/{self._folder}/{_NAME}"
        try:
            self._listener.bind(path)
            os.chmod(path, 0o666)  # noqa: S103 - the directory is what keeps others out
            self.inode = os.open(path, os.O_PATH | os.O_CLOEXEC)
            self._listener.listen(1)
        except OSError as error:
            self.close()
            raise HostError("cannot listen for the guest", why=(error.strerror or "error").lower()) from error

    def accept(self, *, machine: socket.socket, timeout_s: float) -> socket.socket:
        """Return the guest's connection, and stop listening.

        machine: hangs up when the machine has ended.

        Raises HostError if the machine ends, or the guest does not connect in time.
        """
        poller = select.poll()
        poller.register(self._listener, select.POLLIN)
        poller.register(machine, select.POLLIN)
        try:
            ready = dict(poller.poll(timeout_s * 1000))
            if self._listener.fileno() in ready:
                return self._listener.accept()[0]
        finally:
            self.close()
        why = "the machine ended before" if ready else f"it did not within {timeout_s:g} s"
        raise HostError("cannot reach the guest: it has to connect to vsock port 27506", why=why)

    def close(self) -> None:
        """Stop listening and remove the name."""
        self._listener.close()
        if self._folder >= 0:
            with contextlib.suppress(OSError):
                os.unlink(_NAME, dir_fd=self._folder)
            os.close(self._folder)
            self._folder = -1
