"""Run OCI hooks: host namespaces, the bundle as directory, only the hook's own environment, state on stdin.

Loaded only when there are hooks. Source: OCI runtime specification, config.md, "POSIX-platform Hooks".
"""

from __future__ import annotations

import os
import select
import time
from typing import TYPE_CHECKING, NoReturn

from krunpy.core.errors import ToolError
from krunpy.runtime.process import SIGKILL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from krunpy.oci.config import Hook

_OUTPUT_LIMIT = 4096  # bytes kept for the message
_DEFAULT_TIMEOUT_S = 60  # of a hook that names none: `create` holds the lock of its engine


def run_hooks(hooks: Sequence[Hook], *, stage: str, state: str, cwd: str) -> None:
    """Run hooks in order, each with the OCI state on stdin. Raises ToolError at the first that fails."""
    for hook in hooks:
        _run_hook(hook, stage=stage, state=state.encode(), cwd=cwd)


def _run_hook(hook: Hook, *, stage: str, state: bytes, cwd: str) -> None:
    what = f"{stage} hook {hook.path} failed"
    timeout_s = hook.timeout_s or _DEFAULT_TIMEOUT_S
    stdin, state_end = os.pipe()
    output_end, output = os.pipe()
    pid = os.fork()
    if pid == 0:
        _become(hook, stdin=stdin, output=output, cwd=cwd)
    os.close(stdin)
    os.close(output)
    try:
        seen, in_time = _converse(state_end, output_end, state, time.monotonic() + timeout_s)
    finally:
        os.close(output_end)
    if not in_time:
        os.kill(pid, SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if not in_time:
        raise ToolError(what, why=f"it ran longer than {timeout_s} s")
    if code:
        said = seen.decode(errors="replace").strip().replace("\n", " | ")
        raise ToolError(what, why=f"exit code {code}: {said or 'no message'}")


def _become(hook: Hook, *, stdin: int, output: int, cwd: str) -> NoReturn:
    try:
        os.dup2(stdin, 0)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(cwd)
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        environment = dict(item.split("=", 1) for item in hook.env if "=" in item)
        os.execve(hook.path, hook.args or [hook.path], {**environment, "PWD": cwd})  # noqa: S606 - hooks are programs, not lines
    except OSError as error:
        os.write(2, f"cannot run it: {(error.strerror or 'error').lower()}".encode())
    finally:
        os._exit(127)


def _converse(state_end: int, output_end: int, state: bytes, deadline: float) -> tuple[bytes, bool]:
    """Feed the state and read the output; return its first bytes and whether the hook ended in time."""
    os.set_blocking(state_end, False)
    poller = select.poll()
    poller.register(state_end, select.POLLOUT)
    poller.register(output_end, select.POLLIN)
    seen = b""
    feeding = True
    try:
        while (left := deadline - time.monotonic()) > 0:
            for descriptor, _ in poller.poll(left * 1000):
                if descriptor == state_end:
                    state = _feed(state_end, state)
                    if not state:
                        poller.unregister(state_end)
                        os.close(state_end)
                        feeding = False
                    continue
                chunk = os.read(output_end, 4096)
                if not chunk:
                    return seen, True
                seen = (seen + chunk)[:_OUTPUT_LIMIT]
        return seen, False
    finally:
        if feeding:
            os.close(state_end)


def _feed(descriptor: int, state: bytes) -> bytes:
    try:
        return state[os.write(descriptor, state) :]
    except BlockingIOError:
        return state
    except BrokenPipeError:
        return b""
