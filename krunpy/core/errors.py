"""The one tree of expected failures. The library raises these; only `cli` prints and exits."""

from __future__ import annotations


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


class ToolError(HostError):
    """A program failed: its argv, exit code and the last lines of its stderr are in `why`."""


class BrokerError(KrunpyError):
    """The attestation server is unreachable or talks nonsense."""

    exit_code = 5


class EvidenceError(KrunpyError):
    """Evidence is refused: signature, freshness, or a claim."""

    exit_code = 3
