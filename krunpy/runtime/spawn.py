"""Start a child of the shim, a program or work of our own, with the descriptors and environment given.

`krunpy.core.proc` runs programs to their end; the launcher and the machine are not waited for.
"""

from __future__ import annotations

import fcntl
import os
import resource
from typing import TYPE_CHECKING, NoReturn

from krunpy.core.errors import HostError
from krunpy.core.linux import set_parent_death_signal
from krunpy.runtime.process import SIGKILL
from krunpy.runtime.restore import restore_signals
from krunpy.vmm.machine_user import leave_root

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_HIGH = 100  # above every number that a child is promised


def spawn(
    argv: Sequence[str],
    *,
    environment: Mapping[str, str],
    output: int,
    at: Mapping[int, int],
    as_is: Sequence[int] = (),
    groups: Sequence[int] | None = None,
) -> int:
    """Return the pid of a new child that dies with the caller.

    argv:   absolute path and arguments.
    output: descriptor for its standard output and error; standard input is empty.
    at:     number in the child -> descriptor here.
    as_is:  descriptors that keep their number.
    groups: if given, the child is no longer root and has these groups, see `leave_root`.

    A program that cannot be executed, or only with rights that it is not to have, says so on `output` and exits
    with 127. Raises HostError if there can be no further process.
    """
    parent = os.getpid()
    pid = _fork(argv[0])
    if pid == 0:
        _become(
            argv,
            environment=environment,
            output=output,
            at=at,
            as_is=as_is,
            groups=groups,
            parent=parent,
        )
    return pid


def spawn_work(
    work: Callable[[], int], *, environment: Mapping[str, str], output: int, at: Mapping[int, int]
) -> int:
    """Return the pid of a new child that dies with the caller and exits with what `work` returns.

    It has what the caller has imported, and nothing else of it: descriptors, environment and signals are those
    that `spawn` gives a program. What `work` raises goes to `output`, and is exit status 1. Raises HostError.
    """
    parent = os.getpid()
    pid = _fork("the launcher")
    if pid == 0:
        _work(work, environment, output, at, parent)
    return pid


def _fork(what: str) -> int:
    try:
        return os.fork()
    except OSError as error:
        raise HostError(f"cannot start {what}", why=(error.strerror or "error").lower()) from error


def _become(  # noqa: PLR0913 - all but one keyword-only
    argv: Sequence[str],
    *,
    environment: Mapping[str, str],
    output: int,
    at: Mapping[int, int],
    as_is: Sequence[int],
    groups: Sequence[int] | None,
    parent: int,
) -> NoReturn:
    try:
        _arrange(output, at, parent)
        for descriptor in as_is:
            os.set_inheritable(descriptor, True)
        if groups is not None:
            leave_root(groups)
            _die_with(parent)  # a change of user takes that away
        os.execve(argv[0], list(argv), dict(environment))  # noqa: S606 - a program, not a line
    except HostError as error:
        os.write(2, f"cannot execute {argv[0]}: {error}\n".encode())
    except OSError as error:
        os.write(2, f"cannot execute {argv[0]}: {(error.strerror or 'error').lower()}\n".encode())
    finally:
        os._exit(127)


def _work(
    work: Callable[[], int], environment: Mapping[str, str], output: int, at: Mapping[int, int], parent: int
) -> NoReturn:
    status = 1
    try:
        _arrange(output, at, parent)
        os.closerange(max(at) + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        os.environ.clear()
        os.environ.update(environment)
        status = work()
    except BaseException:  # noqa: BLE001 - the last frame of a process: a bug is a log and a status
        import traceback

        os.write(2, traceback.format_exc().encode(errors="replace"))
    finally:
        os._exit(status)  # 20 ms faster than winding down, and the workload's output waits for it


def _arrange(output: int, at: Mapping[int, int], parent: int) -> None:
    """Make this process a child as promised: signals, standard streams, numbers."""
    _die_with(parent)
    restore_signals()
    output = fcntl.fcntl(output, fcntl.F_DUPFD_CLOEXEC, _HIGH)
    high = {number: fcntl.fcntl(here, fcntl.F_DUPFD_CLOEXEC, _HIGH) for number, here in at.items()}
    null = os.open("/dev/null", os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    for number, here in high.items():
        os.dup2(here, number)


def _die_with(parent: int) -> None:
    """Have the kernel kill us when our parent dies, and end at once if it did before we could ask."""
    set_parent_death_signal(SIGKILL)
    if os.getppid() != parent:
        os._exit(127)
