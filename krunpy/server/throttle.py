"""How often a stranger may fail: counted by address and in all, in a bounded table, in this process.

Who succeeds is never counted and always passes.
"""

from __future__ import annotations

import ipaddress
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

WINDOW_S = 60
MAX_ADDRESSES = 1024
_LONGEST_NAME = 64  # characters
_NETWORK_BITS = 64  # what one customer gets of IPv6, RFC 6177


@dataclass(frozen=True, slots=True, kw_only=True)
class ThrottleLimits:
    """Failures in one window, of one address (of IPv6: of one /64) and of all together."""

    of_address: int
    of_all: int


WRONG_TOKENS = ThrottleLimits(of_address=20, of_all=1000)
REFUSED_ATTEMPTS = ThrottleLimits(of_address=300, of_all=1500)


class Throttle:
    """Counts failures."""

    def __init__(self, now_s: Callable[[], float], limits: ThrottleLimits) -> None:
        self._now_s = now_s
        self._limits = limits
        self._lock = threading.Lock()
        self._all = (0, 0.0)
        self._failures: dict[str, tuple[int, float]] = {}

    def count_failure(self, address: str) -> bool:
        """Count one failure; return whether the address, or all together, are over the limit."""
        now_s, name = self._now_s(), find_network(address)
        with self._lock:
            of_address, begin = _count(self._failures.pop(name, (0, now_s)), now_s)
            if len(self._failures) >= MAX_ADDRESSES:
                self._failures.pop(next(iter(self._failures)))  # the one that failed longest ago
            self._failures[name] = (of_address, begin)
            if of_address > self._limits.of_address:
                return True  # one loud address does not use up what all have together
            self._all = _count(self._all, now_s)
            return self._all[0] > self._limits.of_all


def _count(seen: tuple[int, float], now_s: float) -> tuple[int, float]:
    count, begin = seen
    return (count + 1, begin) if 0 <= now_s - begin < WINDOW_S else (1, now_s)


def find_network(address: str) -> str:
    """Return what is counted for an address: itself, or the /64 of an IPv6 address."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:_LONGEST_NAME]  # a Unix socket has none
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(parsed) >> _NETWORK_BITS << _NETWORK_BITS, _NETWORK_BITS)))
