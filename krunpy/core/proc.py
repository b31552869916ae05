"""The one door for running programs: list argv, no shell, clean environment, bounded output and time."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from krunpy.core.errors import HostError, ToolError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
OUTPUT_LIMIT = 4 * 1024 * 1024  # bytes, each of stdout and stderr


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What a finished program left behind."""

    stdout: bytes
    stderr: bytes
    code: int


def clean_environment() -> dict[str, str]:
    """Return the environment that programs get: PATH, locale and HOME only."""
    return {"PATH": PATH, "LC_ALL": "C.UTF-8", "HOME": os.environ.get("HOME", "/root")}


def find_program(name: str) -> str | None:
    """Return the absolute path of a program on the fixed PATH, or None."""
    for directory in PATH.split(":"):
        path = f"{directory}/{name}"
        if os.access(path, os.X_OK):
            return path
    return None


def run(  # noqa: PLR0913 - the door has every knob, all keyword-only
    argv: Sequence[str],
    *,
    timeout_s: float,
    stdin: bytes | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    pass_fds: Sequence[int] = (),
    codes: Sequence[int] = (0,),
) -> Output:
    """Run a program to its end and return its output.

    timeout_s: seconds until the program and its group are killed.
    codes:     exit codes that are a success.

    Raises HostError if the program is missing, ToolError on another exit code, on a time-out, or when
    it prints more than OUTPUT_LIMIT.
    """
    program = argv[0] if "/" in argv[0] else find_program(argv[0])
    if program is None:
        raise HostError(
            f"cannot run {argv[0]}",
            why="the program is not installed",
            next=f"install the package that holds {argv[0]}",
        )
    try:
        process = subprocess.Popen(
            [program, *argv[1:]],
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**clean_environment(), **(env or {})},
            cwd=cwd,
            pass_fds=pass_fds,
            start_new_session=True,
        )
    except OSError as error:
        raise HostError(f"cannot run {program}", why=error.strerror or "error") from error
    try:
        stdout, stderr = _communicate(process, stdin or b"", time.monotonic() + timeout_s)
    except _StoppedError as stop:
        raise ToolError(f"{_shown(argv)} was stopped", why=stop.args[0].format(timeout_s=timeout_s)) from None
    finally:
        _end(process)
    if process.returncode not in codes:
        tail = b" | ".join(stderr.strip().splitlines()[-4:]).decode(errors="replace")
        raise ToolError(
            f"{_shown(argv)} failed", why=f"exit code {process.returncode}: {tail or 'no message'}"
        )
    return Output(stdout=stdout, stderr=stderr, code=process.returncode)


@contextlib.contextmanager
def start(argv: Sequence[str], *, env: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Give a program that runs beside the block: standard output and error are pipes, standard input is ours.

    env: the whole environment. At the end of the block it is told to stop (SIGTERM) and waited for.

    Raises HostError if it cannot be started.
    """
    try:
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env)
    except OSError as error:
        raise HostError(f"cannot run {argv[0]}", why=error.strerror or "error") from error
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()


class _StoppedError(Exception):
    """The program ran too long or said too much."""


def _communicate(process: subprocess.Popen[bytes], stdin: bytes, deadline: float) -> tuple[bytes, bytes]:
    assert process.stdout is not None
    assert process.stderr is not None
    collected: dict[IO[bytes], bytearray] = {process.stdout: bytearray(), process.stderr: bytearray()}
    pending = memoryview(stdin)
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        selector.register(process.stderr, selectors.EVENT_READ)
        if process.stdin is not None:
            os.set_blocking(process.stdin.fileno(), False)
            selector.register(process.stdin, selectors.EVENT_WRITE)
        while selector.get_map():
            left = deadline - time.monotonic()
            if left <= 0:
                raise _StoppedError("it ran longer than {timeout_s:g} s")
            for key, _ in selector.select(left):
                stream = key.fileobj
                if stream is process.stdin:
                    pending = _feed(process.stdin, pending)
                    if not pending:
                        selector.unregister(process.stdin)
                        process.stdin.close()
                    continue
                chunk = os.read(key.fd, 65536)
                if not chunk:
                    selector.unregister(stream)
                    continue
                buffer = collected[stream]  # type: ignore[index]
                buffer += chunk
                if len(buffer) > OUTPUT_LIMIT:
                    raise _StoppedError(f"it printed more than {OUTPUT_LIMIT} bytes")
    try:
        process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise _StoppedError("it ran longer than {timeout_s:g} s") from None
    return bytes(collected[process.stdout]), bytes(collected[process.stderr])


def _feed(stream: IO[bytes], pending: memoryview) -> memoryview:
    try:
        return pending[os.write(stream.fileno(), pending[:65536]) :]
    except BlockingIOError:
        return pending
    except BrokenPipeError:
        return memoryview(b"")


def _end(process: subprocess.Popen[bytes]) -> None:
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _shown(argv: Sequence[str]) -> str:
    return " ".join(argv)
