"""How much of a confidential image's file system stays free for the workload, in the words of `buildah mkcw --slop`.

Source: buildah, internal/mkcw/archive.go (slop) and go-units (sizes count in 1024). Unlike there, no percentage is
too large, and the contents always count.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from krunpy.core.errors import UsageError

DEFAULT_SLOP = "25%"
MINIMUM_SIZE = 10 * 1024 * 1024  # bytes of contents and free space together, as in buildah
_PERCENT = re.compile(r"[0-9]{1,6}%")
_SIZE = re.compile(r"([0-9]{1,15})(?:([kmgt])(?:i?b)?|b)?", re.IGNORECASE)
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


@dataclass(frozen=True, slots=True, kw_only=True)
class Slop:
    """Free space. percent: of the contents; size: bytes beside."""

    percent: int
    size: int

    def count_free(self, content: int) -> int:
        """Return the bytes to leave free, whole blocks of 4096. content: bytes."""
        free = max(content * self.percent // 100 + self.size, MINIMUM_SIZE - content)
        return -(-free // 4096) * 4096

    def count_free_inodes(self, inodes: int) -> int:
        """Return the inodes to leave free at least."""
        return inodes * self.percent // 100


def parse_slop(text: str) -> Slop:
    """Return the free space that percentages and sizes, joined by "+", stand for. Raises UsageError."""
    percent = size = 0
    for part in text.split("+"):
        word = part.strip()
        found = _SIZE.fullmatch(word)
        if _PERCENT.fullmatch(word):
            percent += int(word[:-1])
        elif found:
            size += int(found[1]) * _UNITS[(found[2] or "").lower()]
        else:
            raise UsageError(
                f"cannot read the slop {text!r}",
                why=f"seen {word!r}, wanted a size as 64MB or a share as 25%",
            )
    return Slop(percent=percent, size=size)
