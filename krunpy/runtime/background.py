"""Work beside a machine's boot."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from krunpy.core.errors import KrunpyError

if TYPE_CHECKING:
    from collections.abc import Callable


class Background:
    """A thread that does one thing; `join` returns what it returned, or raises what it raised."""

    def __init__(self, work: Callable[[], bool]) -> None:
        self._error: KrunpyError | None = None
        self._result = False
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    def _run(self, work: Callable[[], bool]) -> None:
        try:
            self._result = work()
        except KrunpyError as error:
            self._error = error

    def join(self) -> bool:
        """Return what the work returned. Raises KrunpyError if it did."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._result

    def was_done(self) -> bool:
        """Return what it returned, or False if it raised."""
        self._thread.join()
        return self._result
