"""The shim's children: a machine's process that is started before its machine is known."""

import os
import sys
import time

import pytest

from krunpy.runtime.children import Waiting, machine_environment, reap, spawn_machine

# says its words and what the first file holds, when it is told them; its argv when it is not
SCRIPT = """
import os, socket, sys
if sys.argv[1:] == ["wait"]:
    end = socket.socket(fileno=0)
    data, files, _, _ = socket.recv_fds(end, 65536, 16)
    if not data:
        sys.exit(0)
    print("told", data.decode().split(chr(0)), os.pread(files[0], 9, 0).decode(), sorted(os.environ))
else:
    print("started", sys.argv[1:])
"""
START = [sys.executable, "-I", "-S", "-c", SCRIPT]


@pytest.fixture
def file(tmp_path):
    (tmp_path / "file").write_text("contents")
    return os.open(tmp_path / "file", os.O_RDONLY)


def finish(child):
    """Return what a child said, and its exit code."""
    deadline = time.monotonic() + 20
    while child.exit_code is None and time.monotonic() < deadline:
        for pid, code in reap():
            if pid == child.pid:
                child.exit_code = code
        time.sleep(0.01)
    with open(child.output, "rb") as stream:
        return stream.read().decode(), child.exit_code


def is_open(descriptor):
    return os.path.exists(f"/proc/self/fd/{descriptor}")


def test_a_waiting_process_becomes_the_machine_with_its_words_files_and_empty_environment(file):
    waiting = Waiting(START, ["wait"])

    child = spawn_machine([*START, "kernel={fd0}", "cpus=1"], [file], None, waiting)

    assert child is waiting.child
    shown = sorted(machine_environment())
    assert finish(child) == (f"told ['kernel={{fd0}}', 'cpus=1'] contents {shown}\n", 0)
    assert not is_open(file)


@pytest.mark.parametrize("start", [[sys.executable, "-S", "-c", SCRIPT], [*START, "more"]])
def test_one_that_waits_for_another_machine_is_ended_and_a_new_one_started(file, start):
    waiting = Waiting(start, ["wait"])

    child = spawn_machine([*START, "cpus=1"], [file], None, waiting)

    assert child is not waiting.child
    assert finish(child) == ("started ['cpus=1']\n", 0)
    assert not is_open(waiting.child.output)


def test_one_that_died_while_it_waited_is_replaced(file):
    waiting = Waiting(START, ["wait"])
    waiting.child.kill()
    os.waitpid(waiting.child.pid, 0)
    waiting.child.exit_code = -9  # as the shim notes it

    child = spawn_machine([*START, "cpus=1"], [file], None, waiting)

    assert finish(child) == ("started ['cpus=1']\n", 0)


def test_one_that_nobody_wants_ends(file):
    waiting = Waiting(START, ["wait"])

    waiting.end()

    assert os.waitstatus_to_exitcode(os.waitpid(waiting.child.pid, 0)[1]) == -9
    os.close(file)
