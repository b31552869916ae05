"""Run a command where libkrun works: `python -m tests.nested.rig [options] -- COMMAND...`, as root.

Libkrun needs KVM, and many machines have none. This one emulates a whole machine that has, some ten times slower, and
runs the command in it: same files, same path, KRUNPY_NESTED=1, settings that name a real libkrun and libkrunfw.
Exit status: the command's; 124 after a time-out, 125 if the machine failed, 122 if QEMU here cannot emulate SVM.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO

from tests.nested import machine
from tests.nested.parts import MissingError, Parts, prepare

NO_SVM, TIMED_OUT, FAILED = 122, 124, 125
GRACE_S = 30  # to boot, and to end
SOCKET_S = 10


def main() -> int:
    """Return the exit status of the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.nested.rig", description=__doc__)
    parser.add_argument("--setup", action="store_true", help="fetch what is missing, run nothing")
    parser.add_argument("--memory", type=int, default=1536, metavar="MIB")
    parser.add_argument("--timeout", type=int, default=300, metavar="S")
    parser.add_argument("--cache", type=Path, default=find_cache(), metavar="DIR")
    parser.add_argument("command", nargs="*")
    options = parser.parse_args()
    if not options.setup and not options.command:
        parser.error("give a command or --setup")
    try:
        parts = prepare(options.cache.absolute())
    except MissingError as error:
        print(f"rig: {error}", file=sys.stderr)
        return FAILED
    if options.setup:
        return 0
    return run_nested(parts, options.command, memory_mib=options.memory, timeout_s=options.timeout)


def find_cache() -> Path:
    """Return where the parts are kept."""
    if given := os.environ.get("KRUNPY_NESTED_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "krunpy-nested"


def run_nested(parts: Parts, command: list[str], *, memory_mib: int, timeout_s: int) -> int:
    """Return the exit status of a command in the machine. What the machine said is kept if that is not 0."""
    folder = Path(tempfile.mkdtemp(prefix="krunpy-nested."))
    machine.write_scripts(folder, parts, command, directory=os.getcwd(), timeout_s=timeout_s)
    socket = folder / "root.sock"
    with open(folder / "virtiofsd.log", "wb") as log:
        server = subprocess.Popen(
            machine.build_virtiofsd_argv(parts.virtiofsd, socket),
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
        )
    try:
        status = _run_machine(parts, folder, server, memory_mib=memory_mib, timeout_s=timeout_s)
    finally:
        server.kill()
        server.wait()
    if status == 0:
        shutil.rmtree(folder)
    else:
        print(f"rig: exit status {status}; what the machine said is in {folder}", file=sys.stderr)
    return status


def _run_machine(
    parts: Parts, folder: Path, server: subprocess.Popen[bytes], *, memory_mib: int, timeout_s: int
) -> int:
    deadline = time.monotonic() + SOCKET_S
    while not (folder / "root.sock").exists():
        if server.poll() is not None or time.monotonic() > deadline:
            print(f"rig: virtiofsd does not start, see {folder}/virtiofsd.log", file=sys.stderr)
            return FAILED
        time.sleep(0.02)
    argv = machine.build_qemu_argv(parts, folder, memory_mib=memory_mib, cpu_khz=machine.find_cpu_khz())
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as qemu:
        timer = threading.Timer(timeout_s + GRACE_S, qemu.kill)
        timer.start()
        try:
            with open(folder / "output", "wb") as kept:
                _show_output(qemu.stdout, kept)
            code = qemu.wait()
        finally:
            timer.cancel()
            qemu.kill()
    return _find_status(folder, code)


def _show_output(source: IO[bytes], kept: IO[bytes]) -> None:
    """Show what the command says as it comes, and keep it."""
    while chunk := os.read(source.fileno(), 65536):
        kept.write(chunk)
        sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()


def _find_status(folder: Path, qemu_code: int) -> int:
    status = folder / "status"
    said = status.read_text().strip() if status.exists() else ""
    if said == machine.NO_SVM:
        print("rig: QEMU here does not emulate AMD SVM: there is no KVM in its machine", file=sys.stderr)
        return NO_SVM
    if said.isdecimal():
        return int(said)
    if qemu_code == -signal.SIGKILL:
        print("rig: the machine did not end in time", file=sys.stderr)
        return TIMED_OUT
    print(f"rig: the machine ended without a status (qemu: {qemu_code})", file=sys.stderr)
    return FAILED


if __name__ == "__main__":
    sys.exit(main())
