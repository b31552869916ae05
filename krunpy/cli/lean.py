"""How a command that is read without typer ends: its status, or one error."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from krunpy.core.errors import HostError, KrunpyError, format_error

if TYPE_CHECKING:
    from collections.abc import Callable

INTERRUPTED = 130  # exit status


def run_lean(work: Callable[[], int | None]) -> int | None:
    """Return what `work` returns, all output written; the exit status of what it raises, which is printed."""
    try:
        status = work()
        sys.stdout.flush()
    except KrunpyError as error:
        print(format_error(error), file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        discard_output()
        return 1
    except OSError as error:
        print(format_error(HostError.of_system(error)), file=sys.stderr)
        return HostError.exit_code
    except KeyboardInterrupt:
        print("krunpy: interrupted", file=sys.stderr)
        return INTERRUPTED
    return status


def discard_output() -> None:
    """Forget what is not written yet: the end of the process would try again, and fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
