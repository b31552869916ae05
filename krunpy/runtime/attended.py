"""Run a generated bundle in the foreground and remove it: a lean process that `krunpy run` becomes.

Usage: python -I -m krunpy.runtime.attended STATE_ROOT ID BUNDLE [--keep]
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

from krunpy.core.errors import HostError, KrunpyError, format_error
from krunpy.runtime.container import remove_directory
from krunpy.runtime.foreground import run_attached
from krunpy.runtime.intake import Request
from krunpy.runtime.launcher import run_launcher

if TYPE_CHECKING:
    from types import FrameType

REFUSED = 125
INTERRUPTED = 130


def main(argv: list[str]) -> int:
    """Return the workload's exit status; errors of ours are printed, and 125; 130 if interrupted before it ran."""
    signal.signal(signal.SIGTERM, interrupt)  # until they are the workload's
    root, container_id, bundle = argv[:3]
    request = Request(
        container_id=container_id,
        bundle=bundle,
        root=root,
        launcher=run_launcher,
        environment=os.environ,
        is_own_bundle=True,
    )
    try:
        status, warnings = run_attached(request, keep="--keep" in argv[3:])
    except KrunpyError as error:
        print(format_error(error), file=sys.stderr)  # noqa: T201 - a process of its own
        return REFUSED
    except OSError as error:
        print(format_error(HostError.of_system(error)), file=sys.stderr)  # noqa: T201
        return REFUSED
    except KeyboardInterrupt:
        print("krunpy: interrupted", file=sys.stderr)  # noqa: T201
        return INTERRUPTED
    finally:
        remove_directory(bundle)
    for warning in warnings:
        print(f"krunpy: warning: {warning}", file=sys.stderr)  # noqa: T201
    return status


def interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    """Handle a signal as Ctrl-C: what is half done is undone."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))
