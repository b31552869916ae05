"""One setting of config.json and what becomes of it."""

from __future__ import annotations

from typing import NamedTuple

GUEST = "in the guest"
HOST = "on the host"
NOWHERE = "not at all"
REFUSED = "refused"
_SHOWN = 120  # characters of a value


class Setting(NamedTuple):
    """A setting's name and value as shown, where it holds (one of the four words above), and why."""

    name: str
    value: str
    where: str
    reason: str


def shorten(text: str) -> str:
    """Return text on one line, printable, at most 120 characters."""
    line = "".join(char if char.isprintable() else "?" for char in text[: _SHOWN + 1])
    return line if len(line) <= _SHOWN else f"{line[: _SHOWN - 3]}..."
