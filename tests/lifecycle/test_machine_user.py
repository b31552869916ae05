"""What a machine's process may do: it is started as the shim starts it, and asked."""

from __future__ import annotations

import os
import select

import pytest

from krunpy.runtime.children import spawn_machine
from krunpy.vmm.machine_user import FIRST_ID

pytestmark = [pytest.mark.root]
BUSYBOX = "/bin/busybox"


def ask(script, descriptors=(), groups=()):
    """Run a script in the machine's place and return what it printed."""
    if not os.path.exists(BUSYBOX):
        pytest.skip("needs busybox-static")
    child = spawn_machine([BUSYBOX, "sh", "-c", script], list(descriptors), list(groups))
    said = b""
    while select.select([child.output], [], [], 30)[0] and (chunk := os.read(child.output, 65536)):
        said += chunk
    os.close(child.output)
    os.waitpid(child.pid, 0)
    return child.pid, said.decode()


def test_a_machine_is_a_user_of_its_own_without_groups_and_capabilities():
    pid, said = ask("cat /proc/self/status")
    _, other = ask("cat /proc/self/status")

    status = dict(line.split(":\t", 1) for line in said.splitlines() if ":\t" in line)
    assert status["Uid"].split() == [str(FIRST_ID + pid)] * 4
    assert status["Gid"].split() == [str(FIRST_ID + pid)] * 4
    assert status["Groups"].split() == []
    assert {int(status[name], 16) for name in ("CapPrm", "CapEff", "CapAmb")} == {0}
    assert status["NoNewPrivs"] == "1"
    assert status["Uid"] not in other


def test_a_machine_reads_what_was_handed_to_it_and_cannot_open_the_same_file(tmp_path):
    disk = tmp_path / "disk"
    disk.write_text("sectors\n")
    disk.chmod(0o600)

    _, said = ask(f"cat <&{{fd0}}; cat {disk}", [os.open(disk, os.O_RDONLY)])

    assert said.startswith("sectors\n")
    assert "Permission denied" in said


def test_a_machine_keeps_the_group_of_a_device_that_it_opens():
    _, said = ask("id -G", groups=[4711])

    assert "4711" in said.split()
    assert "0" not in said.split()


def test_a_machine_ends_with_the_process_that_started_it(tmp_path):
    pid = os.fork()
    if pid == 0:
        child = spawn_machine([BUSYBOX, "sleep", "60"], [], [])
        (tmp_path / "pid").write_text(str(child.pid))
        os.execv(BUSYBOX, ["busybox", "true"])
    os.waitpid(pid, 0)
    machine = int((tmp_path / "pid").read_text())
    handle = _open_process(machine)

    assert handle is None or select.select([handle], [], [], 10)[0]


def _open_process(pid):
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None
