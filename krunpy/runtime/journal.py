"""What a shim writes down beside its container: when things happened, and why there was no exit status."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from krunpy.core.errors import HostError, KrunpyError
from krunpy.formats.frames import FailReason
from krunpy.runtime.container import AFTERMATH, FAILURE, TIMINGS, write_file

if TYPE_CHECKING:
    from collections.abc import Sequence

_REASONS = {reason.value: reason.name.lower().replace("_", " ") for reason in FailReason}


class Journal:
    """The times of one container's life, by CLOCK_MONOTONIC in nanoseconds, and its failure if any."""

    __slots__ = ("_directory", "_times")

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._times: dict[str, object] = {}

    def note_time(self, name: str) -> None:
        """Remember that `name` happened now."""
        self._times[f"{name}_ns"] = time.monotonic_ns()

    def note_guest_times(self, times: Sequence[int]) -> None:
        """Remember the six times of STARTED, in microseconds since the guest's boot."""
        self._times["guest_us"] = list(times)

    def write_times(self) -> None:
        """Write the times down."""
        self._write(TIMINGS, self._times)

    def write_failure(self, error: KrunpyError, status: int) -> None:
        """Write an error and the exit status it led to."""
        fields: dict[str, object] = {
            "what": error.what,
            "why": error.why,
            "next": error.next,
            "status": status,
        }
        self._write(FAILURE, fields)
        try:
            with open(f"{self._directory}/{AFTERMATH}", encoding="utf-8", errors="surrogateescape") as stream:
                write_file(stream.read(), json.dumps(fields).encode())
        except (OSError, HostError):
            return  # nothing was released, or there is no room for it: the failure was told already

    def _write(self, name: str, fields: dict[str, object]) -> None:
        try:
            write_file(f"{self._directory}/{name}", json.dumps(fields).encode())
        except HostError:
            return  # `delete --force` has removed the directory already: nobody is left to read it


def explain_failure(reason: int, text: str) -> KrunpyError:
    """Return the failure of the guest's agent, by the number of its reason and its own words."""
    return KrunpyError(
        "the guest did not run the workload",
        why=f"{_REASONS.get(reason, f'reason {reason}')}: {text or 'no text'}",
        next="run `krunpy explain` for what was seen and what was wanted",
    )
