"""Fork the shim: pid 1 of a new process namespace, so that the kernel ends all below it when it ends.

Until it is told to go, the new process only makes itself presentable; what it then runs is `shim`.
"""

from __future__ import annotations

import _socket
import os
import resource
from typing import TYPE_CHECKING, NoReturn

from krunpy.core.errors import HostError, KrunpyError
from krunpy.core.linux import CLONE_NEWPID, setns, unshare
from krunpy.runtime import control
from krunpy.runtime.container import FIFO, STATUS_FAILED
from krunpy.runtime.outflow import SmallLog
from krunpy.runtime.restore import hold_signals, restore_signals

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_READY = b"R"
_GO = b"G"
_ERROR_LIMIT = 4096  # bytes
SHIM_LOG = "shim.log"


class Newborn:
    """A forked shim that waits for `release`. If its parent goes away without, it ends by itself.

    contained: whether it is pid 1 of a namespace of its own.
    """

    __slots__ = ("_line", "contained", "pid")

    def __init__(self, pid: int, line: _socket.socket, *, contained: bool) -> None:
        self.pid = pid
        self.contained = contained
        self._line = line

    def await_ready(self) -> None:
        """Return when the shim is set up. Raises HostError with its reason if it could not be."""
        answer = b""
        while answer != _READY:
            chunk = self._line.recv(_ERROR_LIMIT)
            if not chunk:
                raise HostError(
                    "cannot set up the shim", why=answer[1:].decode(errors="replace") or "it ended"
                )
            answer += chunk

    def release(self) -> None:
        """Let the shim begin: from now on it lives without the caller."""
        self._line.send(_GO, _socket.MSG_NOSIGNAL)
        self._line.close()


def fork_shim(
    directory: str,
    launcher: Callable[[str], int],
    environment: Mapping[str, str],
    *,
    oom_score_adj: int | None,
) -> Newborn:
    """Return a shim that shares the caller's standard streams and nothing else. Raises HostError."""
    ours, theirs = control.make_pair(_socket.SOCK_STREAM)
    own_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY)
    try:
        unshare(CLONE_NEWPID)
        contained = True
    except HostError:  # a rootless engine: PR_SET_PDEATHSIG and the cgroup must do
        contained = False
    try:
        pid = os.fork()
    except OSError as error:
        raise HostError("cannot start the shim", why=(error.strerror or "error").lower()) from error
    if pid == 0:
        _live(theirs, directory, launcher, environment, oom_score_adj)
    if contained:
        setns(own_namespace, CLONE_NEWPID)  # hooks are not to be born in there
    os.close(own_namespace)
    theirs.close()
    return Newborn(pid, ours, contained=contained)


def _live(
    line: _socket.socket,
    directory: str,
    launcher: Callable[[str], int],
    environment: Mapping[str, str],
    oom_score_adj: int | None,
) -> NoReturn:
    status = STATUS_FAILED
    try:
        _prepare(line, oom_score_adj)
        fifo = os.open(f"{directory}/{FIFO}", os.O_RDONLY | os.O_NONBLOCK)  # `start` must find a reader
        line.send(_READY, _socket.MSG_NOSIGNAL)
        # Heavy, and `create` need not wait for it: signals are held, and the fifo keeps the start byte.
        from krunpy.runtime.shim import Shim

        if line.recv(1) == _GO:
            line.close()
            shim = Shim(directory=directory, launcher=launcher, environment=environment, fifo=fifo)
            status = shim.run()
    except (KrunpyError, OSError) as error:
        _report(line, directory, str(error))
    except BaseException:  # noqa: BLE001 - the last frame of a process: a bug is a log and a status, not a trace
        import traceback

        _report(line, directory, traceback.format_exc())
    finally:
        os._exit(status)


def _prepare(line: _socket.socket, oom_score_adj: int | None) -> None:
    os.setsid()
    restore_signals()
    hold_signals()
    os.umask(0o077)
    os.chdir("/")
    _close_all_but(line.fileno())
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if oom_score_adj is not None:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as stream:
            stream.write(str(oom_score_adj))


def _close_all_but(kept: int) -> None:
    """Keep 0, 1, 2 and one more; what an engine leaked otherwise lives as long as the container."""
    os.closerange(3, kept)
    os.closerange(kept + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.dup2(os.open("/dev/null", os.O_RDWR), number)


def _report(line: _socket.socket, directory: str, text: str) -> None:
    SmallLog(f"{directory}/{SHIM_LOG}").write(text.encode(errors="replace"))
    last = text.strip().rpartition("\n")[2]
    try:
        line.send(f"E{last}".encode(errors="replace")[:_ERROR_LIMIT], _socket.MSG_NOSIGNAL)
    except OSError:  # `create` is gone: the container's standard error is what is left
        message = f"krunpy: the shim failed\n  why:  {last}\n  next: see {directory}/{SHIM_LOG}\n"
        os.write(2, message.encode(errors="replace"))
