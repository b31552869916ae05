"""The shim's two children: the launcher, which works until the workload runs, and the machine."""

from __future__ import annotations

import _socket
import os
import re
from typing import TYPE_CHECKING

from krunpy.core.errors import FormatError
from krunpy.runtime import control
from krunpy.runtime.process import SIGKILL
from krunpy.runtime.spawn import spawn, spawn_work

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_PLACE = re.compile(r"\{fd(\d{1,2})\}")
_MAX_ARGUMENTS = 512
_PASSED = ("XDG_RUNTIME_DIR", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Child:
    """A child process: its pid, the pipe that holds what it says, and its exit code once it ended."""

    __slots__ = ("exit_code", "output", "pid")

    def __init__(self, pid: int, output: int) -> None:
        self.pid = pid
        self.output = output
        self.exit_code: int | None = None

    def kill(self) -> None:
        """Kill it if it lives; it is reaped later."""
        if self.exit_code is None:
            os.kill(self.pid, SIGKILL)


def launcher_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what the launcher gets of the caller's environment: KRUNPY_ settings and the XDG directories."""
    kept = {
        name: value for name, value in environment.items() if name.startswith("KRUNPY_") or name in _PASSED
    }
    return {**kept, **machine_environment(), "HOME": environment.get("HOME") or "/root"}


def machine_environment() -> dict[str, str]:
    """Return the environment of the machine: nothing of the caller's."""
    return {"PATH": _PATH, "LC_ALL": "C.UTF-8"}


def spawn_launcher(
    work: Callable[[], int],
    environment: Mapping[str, str],
    *,
    control_end: _socket.socket,
    channel: _socket.socket,
    guest_end: _socket.socket,
) -> Child:
    """Start the launcher with its three sockets at the numbers that `control` promises."""
    output, their_output = os.pipe()
    at = {
        control.CONTROL_FD: control_end.fileno(),
        control.CHANNEL_FD: channel.fileno(),
        control.GUEST_FD: guest_end.fileno(),
    }
    pid = spawn_work(work, environment=launcher_environment(environment), output=their_output, at=at)
    os.close(their_output)
    os.set_blocking(output, False)
    return Child(pid, output)


class Waiting:
    """A machine's process that was started before the machine was known, and waits for the rest of its argv."""

    __slots__ = ("_argv", "_end", "child")

    def __init__(self, argv: Sequence[str], words: Sequence[str]) -> None:
        """Start it, with a socket as its standard input. Raises HostError.

        argv: that of the machine as far as it is known. words: say after it that it waits, and what to do meanwhile.
        """
        self._argv = list(argv)
        self._end, theirs = control.make_pair(_socket.SOCK_SEQPACKET)
        output, their_output = os.pipe()
        pid = spawn(
            [*argv, *words], environment=machine_environment(), output=their_output, at={0: theirs.fileno()}
        )
        theirs.close()
        os.close(their_output)
        os.set_blocking(output, False)
        self.child = Child(pid, output)

    def become(self, argv: Sequence[str], descriptors: Sequence[int]) -> bool:
        """Make it the machine of this argv, with these files; return whether it can be that."""
        begin = len(self._argv)
        if self.child.exit_code is not None or list(argv[:begin]) != self._argv:
            return False
        rights = b"".join(number.to_bytes(4, "little") for number in descriptors)
        ancillary = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)]
        try:
            self._end.sendmsg([os.fsencode("\0".join(argv[begin:]))], ancillary, _socket.MSG_NOSIGNAL)
        except OSError:
            return False
        self._end.close()
        return True

    def end(self) -> None:
        """End it: it is not wanted."""
        self.child.kill()
        self._end.close()
        os.close(self.child.output)


def spawn_machine(
    argv: Sequence[str],
    descriptors: Sequence[int],
    groups: Sequence[int] | None,
    waiting: Waiting | None = None,
) -> Child:
    """Start the machine; {fd0}, {fd1}... in argv become the descriptors' numbers. They are closed here.

    It runs as a user of its own, with `groups` for the devices that it opens; None: it becomes that by itself.
    waiting: what becomes the machine if it can be this one, and else is ended.

    Raises FormatError if argv names a descriptor that is not there.
    """
    try:
        if not argv or len(argv) > _MAX_ARGUMENTS or not argv[0].startswith("/"):
            raise FormatError("cannot start the machine", why=f"{len(argv)} arguments, or no absolute path")
        if waiting is not None:
            if groups is None and waiting.become(argv, descriptors):
                return waiting.child
            waiting.end()
        named = [_PLACE.sub(lambda match: _number(match, descriptors), argument) for argument in argv]
        output, their_output = os.pipe()
        pid = spawn(
            named,
            environment=machine_environment(),
            output=their_output,
            at={},
            as_is=descriptors,
            groups=groups,
        )
        os.close(their_output)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    os.set_blocking(output, False)
    return Child(pid, output)


def _number(match: re.Match[str], descriptors: Sequence[int]) -> str:
    index = int(match[1])
    if index >= len(descriptors):
        raise FormatError(
            "cannot start the machine", why=f"{match[0]} is named, {len(descriptors)} descriptors came"
        )
    return str(descriptors[index])


def reap() -> list[tuple[int, int]]:
    """Return (pid, exit code) of every child that has ended; a signal is a negative code.

    As pid 1 of its namespace the shim also inherits, and reaps, orphans it never knew.
    """
    ended: list[tuple[int, int]] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended.append((pid, os.waitstatus_to_exitcode(status)))
