"""A machine's process that is started before its machine is known."""

import os
import re
import socket
import subprocess
import time
from pathlib import Path

from krunpy.vmm.libkrun import build_argv, build_start
from krunpy.vmm.libkrun_child import STATUS, WAIT


def test_one_that_waits_for_its_words_becomes_the_same_machine_with_the_files_that_came(lab):
    lab.compile()
    file = os.open(lab.library, os.O_RDONLY)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    argv = build_argv(lab.spec())
    start = len(build_start())
    process = subprocess.Popen([*argv[:start], WAIT], stdin=theirs, stderr=subprocess.PIPE, text=True)
    theirs.close()

    socket.send_fds(ours, ["\0".join(argv[start:]).encode()], [file] * 4)
    said = process.communicate(timeout=30)[1]
    ours.close()
    os.close(file)

    assert [call.split()[0] for call in lab.calls[-3:]] == [
        "krun_add_vsock",
        "krun_add_vsock_port",
        "krun_start_enter",
    ]
    named = [int(number) for number in re.findall(r"/proc/self/fd/(\d+)", "\n".join(lab.calls))]
    assert len(set(named)) == 4, said
    assert min(named) > 2


def test_one_that_waits_has_loaded_libkrun_before_it_is_told_anything(lab):
    lab.compile()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with subprocess.Popen([*build_start(), WAIT, lab.library], stdin=theirs) as process:
        theirs.close()
        maps = Path(f"/proc/{process.pid}/maps")
        deadline = time.monotonic() + 30
        while lab.library not in maps.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        ours.close()

    assert process.returncode == 0
    assert not lab.calls


def test_one_that_cannot_load_what_it_should_says_so_and_ends():
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    done = subprocess.run(
        [*build_start(), WAIT, "/nowhere/libkrun.so.1"],
        stdin=theirs,
        capture_output=True,
        text=True,
        check=False,
    )
    ours.close()
    theirs.close()

    assert done.returncode == STATUS
    assert done.stderr.startswith("krunpy: cannot load /nowhere/libkrun.so.1\n")


def test_one_that_waits_ends_when_nobody_wants_a_machine_any_more(lab):
    lab.compile()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = subprocess.Popen([*build_start(), WAIT], stdin=theirs, stderr=subprocess.PIPE)
    theirs.close()
    ours.close()

    assert process.communicate(timeout=30)[1] == b""
    assert process.returncode == 0
    assert not lab.calls
