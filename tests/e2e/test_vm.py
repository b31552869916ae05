"""`krunpy vm` with the real libkrun; the machines run in the emulated one, see tests/nested/vm.sh."""

from __future__ import annotations

import json
import re

import pytest

pytestmark = [pytest.mark.vm, pytest.mark.root]


def test_a_machine_reads_and_writes_its_directories_and_answers_at_its_port(nested):
    said = nested["vm"]["out"]

    assert "from-host\nfor-reading\n" in said, nested["vm"]
    assert "port: served\n" in said
    assert "first: 33\n" in said  # the workload's own status
    assert "written: from-guest, " in said


def test_a_directory_shared_for_reading_cannot_be_written(nested):
    said = nested["vm"]["out"]

    assert "Read-only file system" in said, nested["vm"]
    assert "not-written\n" in said
    assert "read: for-reading, " in said


def test_what_a_machine_writes_belongs_to_the_owner_of_the_directory(nested):
    assert "owner 1000:1000\n" in nested["vm"]["out"], nested["vm"]


def test_a_changed_machine_has_the_new_memory_and_directory_and_shares_nothing(nested):
    said = nested["vm"]["out"]
    memory = re.search(r"MemTotal: +(\d+) kB", said)

    assert "second: 34\n" in said, nested["vm"]
    assert "\n/tmp\n" in said
    assert "ls: /data: No such file" in said
    assert memory
    assert 128 << 10 < int(memory[1]) < 200 << 10


def test_a_deleted_machine_leaves_nothing(nested):
    said = nested["vm"]["out"]
    left = said.partition("delete: 0\n")[2].split()

    assert "first" not in "".join(left), nested["vm"]
    assert "second.json" in left
    assert not [name for name in left if name.startswith("vm-")]


def test_machines_are_listed_inspected_renamed_and_deleted_without_running(krun_lab, rootfs):
    source = f"dir:{rootfs}"
    made = krun_lab.krunpy("vm", "create", source, "--name", "third", "--cpus", "2", "--", "echo", "here")
    again = krun_lab.krunpy("vm", "create", source, "--name", "third", "--cpus", "2", "--", "echo", "here")
    other = krun_lab.krunpy("vm", "create", source, "--name", "third", "--cpus", "1", "--", "echo", "here")
    renamed = krun_lab.krunpy("vm", "changevm", "third", "--new-name", "fourth", "--port", "18081:80")
    shown = json.loads(krun_lab.krunpy("vm", "inspect", "fourth", "--json").out)["data"]
    deleted = krun_lab.krunpy("vm", "delete", "fourth")
    listed = krun_lab.krunpy("vm", "list").out

    assert (made.code, again.code, renamed.code, deleted.code) == (0, 0, 0, 0), (made, again, renamed)
    assert other.code == 1
    assert "cpus 2, wanted 1" in other.err
    assert (shown["cpus"], shown["ports"], shown["network"], shown["running"]) == (
        2,
        ["18081:80"],
        True,
        False,
    )
    assert [line.split()[0] for line in listed.splitlines()] == ["name", "first", "second"]
