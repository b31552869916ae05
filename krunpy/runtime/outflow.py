"""What leaves the shim: standard output and error without ever blocking, and logs that stay small."""

from __future__ import annotations

import os
import stat

_STEP = 65536  # bytes at once where writing cannot block
_SAFE_STEP = 4096  # PIPE_BUF: what fits when poll(2) says a pipe is writable
_HALF = 32 * 1024  # bytes; a log is two halves


class Outlet:
    """One output stream: what is written waits in memory until the reader takes it.

    The writer stops at its own limit, by `pending`. A stream whose reader is gone swallows everything.
    """

    __slots__ = ("_buffer", "_step", "descriptor", "is_broken")

    def __init__(self, descriptor: int) -> None:
        self.descriptor, self._step = _open_unblocking(descriptor)
        self._buffer = bytearray()
        self.is_broken = False

    def pending(self) -> int:
        """Return how many bytes wait."""
        return len(self._buffer)

    def write(self, data: bytes) -> None:
        """Queue bytes."""
        if not self.is_broken:
            self._buffer += data

    def flush(self, _: int = 0) -> None:
        """Write once what the reader takes now. Call it when poll(2) says the descriptor is writable."""
        try:
            count = os.write(self.descriptor, bytes(self._buffer[: self._step]))
        except BlockingIOError:
            return
        except OSError:
            self.is_broken = True
            self._buffer.clear()
            return
        del self._buffer[:count]


def _open_unblocking(descriptor: int) -> tuple[int, int]:
    """Return a descriptor for the same stream, and how much may be written at once.

    O_NONBLOCK belongs to the open file, which the caller shares with others: a pipe is opened anew. Anything
    else is written in steps that fit once poll(2) has called it writable.
    """
    if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        return descriptor, _SAFE_STEP
    try:
        return os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK), _STEP
    except OSError:
        return descriptor, _SAFE_STEP


class SmallLog:
    """A log file of at most 64 KiB: NAME holds the newest half, NAME.1 the half before."""

    __slots__ = ("_path", "_size", "_tail")

    def __init__(self, path: str) -> None:
        self._path = path
        self._size = 0
        self._tail = b""

    def write(self, data: bytes) -> None:
        """Append bytes; a full disk loses them."""
        self._tail = (self._tail + data)[-2048:]
        data = data[-_HALF:]
        try:
            if self._size + len(data) > _HALF:
                os.rename(self._path, f"{self._path}.1")
                self._size = 0
            with open(self._path, "ab", buffering=0) as stream:
                self._size += stream.write(data) or 0
        except OSError:
            return

    def holds(self, words: bytes) -> bool:
        """Say whether words are in the last 2 KiB."""
        return words in self._tail

    def last_lines(self, count: int) -> str:
        """Return the last lines that are not blank, safe to print, joined by " | "."""
        text = self._tail.decode("utf-8", "replace")
        lines = (
            "".join(char if char.isprintable() else "?" for char in line.strip())
            for line in text.splitlines()
        )
        return " | ".join([line for line in lines if line][-count:])
