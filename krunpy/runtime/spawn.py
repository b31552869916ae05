"""Start a program as a child of the shim: by absolute path, with the descriptors and environment given.

`krunpy.core.proc` runs programs to their end; the launcher and the machine are not waited for.
"""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING, NoReturn

from krunpy.core.errors import HostError
from krunpy.core.linux import set_parent_death_signal
from krunpy.runtime.machine_user import leave_root
from krunpy.runtime.process import SIGKILL
from krunpy.runtime.restore import restore_signals

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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
    try:
        pid = os.fork()
    except OSError as error:
        raise HostError(f"cannot start {argv[0]}", why=(error.strerror or "error").lower()) from error
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


def _die_with(parent: int) -> None:
    """Have the kernel kill us when our parent dies, and end at once if it did before we could ask."""
    set_parent_death_signal(SIGKILL)
    if os.getppid() != parent:
        os._exit(127)
