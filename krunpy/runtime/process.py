"""Processes named by pid and start time, so that a reused pid is never taken for ours.

Light: used by every OCI verb. Source: proc(5) "stat", pidfd_open(2).
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # `signal` costs five milliseconds (enum)
import os
import select

from krunpy.core.errors import HostError

SIGKILL = 9
_STAT_LIMIT = 4096  # bytes
_START_TIME = 19  # index behind the name in parentheses: field 22
_DEAD = (b"Z", b"X")


def find_start_time(pid: int) -> int | None:
    """Return when a live process started, in clock ticks since boot; None if it is gone or a zombie."""
    try:
        descriptor = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        contents = os.read(descriptor, _STAT_LIMIT)
    except ProcessLookupError:
        return None
    finally:
        os.close(descriptor)
    fields = contents[contents.rfind(b")") + 1 :].split()
    if len(fields) <= _START_TIME or fields[0] in _DEAD:
        return None
    return int(fields[_START_TIME])


def is_alive(pid: int, start_time: int) -> bool:
    """Return whether the process of this pid and start time runs."""
    return find_start_time(pid) == start_time


def open_process(pid: int, start_time: int) -> int | None:
    """Return a descriptor of exactly that process, for the caller to close; None if it is gone."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    except OSError as error:
        raise HostError(f"cannot watch process {pid}", why=(error.strerror or "error").lower()) from error
    # The descriptor is held now: if the start time is right, it is right for what the descriptor names.
    if find_start_time(pid) != start_time:
        os.close(descriptor)
        return None
    return descriptor


def send_signal(pid: int, start_time: int, number: int) -> bool:
    """Send a signal to exactly that process. Returns whether it was there."""
    descriptor = open_process(pid, start_time)
    if descriptor is None:
        return False
    try:
        _signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


def kill_and_wait(pid: int, start_time: int, *, timeout_s: float) -> None:
    """Return once the process is gone, killed by SIGKILL. Raises HostError after timeout_s seconds."""
    descriptor = open_process(pid, start_time)
    if descriptor is None:
        return
    try:
        _signal.pidfd_send_signal(descriptor, SIGKILL)
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        if not poller.poll(timeout_s * 1000):
            raise HostError(f"cannot end process {pid}", why=f"it was killed {timeout_s:g} s ago and lives")
    except ProcessLookupError:
        return
    finally:
        os.close(descriptor)
