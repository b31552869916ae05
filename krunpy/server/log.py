"""The server's log: one line of JSON for each event, on stderr or in a file that does not grow for ever.

Several servers may write to one file; the one that fills it moves it aside, and the others follow.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from krunpy.core.errors import HostError
from krunpy.core.files import lock
from krunpy.server.documents import encode_document

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_LOG = 8 * 1024 * 1024  # bytes; one file of this size is kept beside the current one
_STDERR = 2


class EventLog:
    """Takes events. A full disk or a closed stderr loses events and never ends the server."""

    def __init__(self, path: str, *, limit: int = MAX_LOG) -> None:
        """Open the log. path: empty for stderr; limit: bytes. Raises HostError if it cannot be opened."""
        self._path, self._limit = path, limit
        try:
            self._descriptor = _open(path) if path else _STDERR
        except OSError as error:
            raise HostError(f"cannot open the log {path}", why=error.strerror or "error") from error

    def note(self, event: Mapping[str, object]) -> None:
        """Write one event."""
        line = encode_document(event).encode() + b"\n"
        with contextlib.suppress(OSError, HostError):
            if self._path and self._is_full():
                self._turn_over()
        with contextlib.suppress(OSError):
            os.write(self._descriptor, line)

    def _is_full(self) -> bool:
        return os.fstat(self._descriptor).st_size >= self._limit

    def _turn_over(self) -> None:
        with lock(self._path + ".lock"):
            if not self._is_full():  # another thread was faster
                return
            if os.path.exists(self._path) and os.path.samestat(
                os.stat(self._path), os.fstat(self._descriptor)
            ):  # else another server was faster
                os.rename(self._path, self._path + ".1")
            fresh = _open(self._path)
        os.dup2(fresh, self._descriptor, inheritable=False)  # other threads go on with the same number
        os.close(fresh)


def _open(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
