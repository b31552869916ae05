"""Run a generated bundle in the foreground and remove it: a lean process that `krunpy run` becomes.

Usage: python -I -m krunpy.runtime.attended STATE_ROOT ID BUNDLE [--keep]
"""

from __future__ import annotations

import os
import sys

from krunpy.core.errors import KrunpyError
from krunpy.runtime.container import remove_directory
from krunpy.runtime.foreground import run_attached
from krunpy.runtime.intake import Request


def main(argv: list[str]) -> int:
    """Return the workload's exit status; errors of ours are printed, and 125."""
    root, container_id, bundle = argv[:3]
    request = Request(
        container_id=container_id,
        bundle=bundle,
        root=root,
        launcher=[sys.executable, "-I", "-m", "krunpy.runtime.launch"],
        environment=os.environ,
    )
    try:
        status, warnings = run_attached(request, keep="--keep" in argv[3:])
    except KrunpyError as error:
        hint = f"\n  next: {error.next}" if error.next else ""
        print(f"krunpy: {error.what}\n  why:  {error.why}{hint}", file=sys.stderr)  # noqa: T201 - a process of its own
        return 125
    finally:
        remove_directory(bundle)
    for warning in warnings:
        print(f"krunpy: warning: {warning}", file=sys.stderr)  # noqa: T201
    return status


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))
