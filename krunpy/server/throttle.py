"""How often a stranger may guess: wrong tokens are counted by address, in a bounded table."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_FAILURES = 20  # of one address in one window
WINDOW_S = 60
MAX_ADDRESSES = 1024


class Throttle:
    """Counts failures. A right token always passes: the count only silences the wrong ones."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._lock = threading.Lock()
        self._failures: dict[str, tuple[int, float]] = {}

    def count_failure(self, address: str) -> bool:
        """Count one failure; return whether the address is over its limit."""
        now_s = self._now_s()
        with self._lock:
            count, begin = self._failures.pop(address, (0, now_s))
            if not 0 <= now_s - begin < WINDOW_S:
                count, begin = 0, now_s
            if len(self._failures) >= MAX_ADDRESSES:
                self._failures.pop(next(iter(self._failures)))  # the one that failed longest ago
            self._failures[address] = (count + 1, begin)
            return count >= MAX_FAILURES
