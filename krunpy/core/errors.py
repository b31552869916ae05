"""The one tree of expected failures. The library raises these; only `cli` prints and exits."""

from __future__ import annotations

import os

TYPE_CHECKING = False  # typing itself costs two milliseconds
if TYPE_CHECKING:
    from typing import Self


class KrunpyError(Exception):
    """An expected failure.

    what: the failed action, lower case, no full stop: "cannot open bundle /b".
    why:  the cause, with the value seen and the value wanted.
    next: one command or edit that gets the user further; empty if there is none.

    None of the three may hold a secret: they reach logs and other people.
    """

    exit_code = 1

    def __init__(self, what: str, *, why: str, next: str = "") -> None:
        super().__init__(f"{what}: {why}")
        self.what = what
        self.why = why
        self.next = next


_SHOWN_LIMIT = 2000  # characters of one of the three sentences


def format_error(error: KrunpyError) -> str:
    """Return an error for people, three lines and its notes: what failed, why, what to do next.

    What a stranger put into it, control characters or too much of anything, stays on its line and is cut.
    """
    lines = [f"krunpy: {make_plain(error.what)}", f"  why:  {make_plain(error.why)}"]
    lines += [f"  next: {make_plain(error.next)}"] if error.next else []
    return "\n".join([*lines, *(f"  note: {make_plain(note)}" for note in getattr(error, "__notes__", []))])


def make_plain(text: str) -> str:
    """Return a text for one line of a terminal: control characters as escapes, at most 2000 characters."""
    cut = text if len(text) <= _SHOWN_LIMIT else f"{text[:_SHOWN_LIMIT]}..."
    if cut.isprintable():
        return cut
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in cut)


class UsageError(KrunpyError):
    """The command line is wrong."""

    exit_code = 2


class FormatError(KrunpyError):
    """Bytes from outside are not what their specification says."""

    exit_code = 2


class BundleError(KrunpyError):
    """The bundle or image is not one we can run."""

    exit_code = 2


class StateError(KrunpyError):
    """The container's status does not allow this verb, or there is no such container."""


class HostError(KrunpyError):
    """A device, program, kernel feature or privilege is missing."""

    exit_code = 4

    @classmethod
    def of_system(cls, error: OSError) -> Self:
        """Return what the system said, where no caller knew better."""
        what = f"cannot use {os.fsdecode(error.filename)}" if error.filename else "cannot go on"
        return cls(what, why=(error.strerror or str(error) or "error").lower())


class ToolError(HostError):
    """A program failed: its argv, exit code and the last lines of its stderr are in `why`."""


class BrokerError(KrunpyError):
    """The attestation server is unreachable or talks nonsense."""

    exit_code = 5


class EvidenceError(KrunpyError):
    """Evidence is refused: signature, freshness, or a claim."""

    exit_code = 3
