"""Create, start, wait and delete in one call: the OCI form of `run`, and what attended runs build on."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

from krunpy.runtime.create import create_container
from krunpy.runtime.lifecycle import delete_container, start_container
from krunpy.runtime.restore import restore_signals
from krunpy.runtime.signals import FORWARDED

if TYPE_CHECKING:
    from krunpy.runtime.intake import Request


def run_detached(request: Request) -> list[str]:
    """Create and start a container; it outlives the caller. Returns warnings of hooks."""
    create_container(request)
    try:
        return start_container(request.root, request.container_id)
    except BaseException:
        delete_container(request.root, request.container_id, force=True)
        raise


def run_attached(request: Request, *, keep: bool) -> tuple[int, list[str]]:
    """Return the exit status of a container that ran to its end, and warnings of hooks.

    Signals that reach the caller go to the workload. keep: do not delete the container afterwards.
    """
    pid = create_container(request)
    warnings: list[str] = []
    try:
        for number in FORWARDED:
            signal.signal(number, lambda received, _: os.kill(pid, received))
        warnings = start_container(request.root, request.container_id)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except BaseException:
        delete_container(request.root, request.container_id, force=True)
        raise
    finally:
        restore_signals()
    if not keep:
        warnings += delete_container(request.root, request.container_id, force=True)
    return (status if status >= 0 else 128 - status), warnings
