"""Nothing is left behind: fifty lives of a container, and a shim that is killed at any moment."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import wait_until

pytestmark = [pytest.mark.vm, pytest.mark.root, pytest.mark.slow]
CONTAINER = "e2e-cycle"


@pytest.fixture(scope="module")
def bundle(make_lab, rootfs, tmp_path_factory):
    """A bundle, in an installation whose cache already has its image; lab.bundle is its path."""
    lab = make_lab("cycles")
    path = tmp_path_factory.mktemp("bundle")
    assert lab.krunpy("spec", "--bundle", path).code == 0
    config = json.loads((path / "config.json").read_text())
    config["process"]["args"] = ["sleep", "1000"]
    config["process"]["terminal"] = False
    config["root"] = {"path": str(rootfs)}
    config["linux"]["cgroupsPath"] = f"/krunpy-e2e-{os.getpid()}/{CONTAINER}"
    (path / "config.json").write_text(json.dumps(config))
    lab.bundle = path
    assert lab.krunpy("run", "--workload", "warm", rootfs, "--", "true").code == 0
    yield lab
    lab.krunpy("delete", "--force", CONTAINER)


def sockets(lab):
    """Return the Unix sockets with a name below the installation's directory."""
    return [line for line in Path("/proc/net/unix").read_text().splitlines() if str(lab.directory) in line]


def cgroups():
    return sorted(str(path) for path in Path("/sys/fs/cgroup").rglob(f"krunpy-e2e-{os.getpid()}*"))


def list_files(lab):
    """Return all files of the installation but those that grow with every launch, by design."""
    kept = ("data/launches", "data/failures", "data/server")
    found = []
    for directory, _, names in os.walk(lab.directory):
        relative = os.path.relpath(directory, lab.directory)
        if not relative.startswith(kept):
            found.extend(os.path.join(relative, name) for name in names)
    return sorted(found)


def leftovers(lab):
    """Return all that a container could leave behind."""
    mounts = [
        line for line in Path("/proc/self/mounts").read_text().splitlines() if str(lab.directory) in line
    ]
    return {
        "processes": lab.processes(),
        "mounts": mounts,
        "files": list_files(lab),
        "cgroups": cgroups(),
        "sockets": sockets(lab),
        "children": Path(f"/proc/self/task/{os.getpid()}/children").read_text(),
    }


def create(lab):
    """Create the container and return its shim's pid. Its streams are the container's, so they are no pipes."""
    words = [lab.program, "create", "--bundle", lab.bundle, "--pid-file", lab.directory / "pid", CONTAINER]
    with (lab.directory / "output").open("wb") as output:
        subprocess.run(words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=lab.env, check=True)
    return int((lab.directory / "pid").read_text())


def settle(lab):
    """Return what is left once the processes have gone."""
    wait_until(lambda: not lab.processes(), seconds=20, what="the end of all processes")
    return leftovers(lab)


def test_fifty_lives_leave_no_process_mount_file_cgroup_or_socket(bundle):
    create(bundle)
    assert bundle.krunpy("delete", "--force", CONTAINER).code == 0
    before = settle(bundle)
    assert before["processes"] == []

    for number in range(50):
        create(bundle)
        assert bundle.krunpy("start", CONTAINER).code == 0
        time.sleep(number % 5 * 0.08)
        assert bundle.krunpy("kill", CONTAINER, "KILL").code == 0
        wait_until(lambda: '"stopped"' in bundle.krunpy("state", CONTAINER).out.replace(" ", ""), seconds=20)
        assert bundle.krunpy("delete", CONTAINER).code == 0, number

    assert settle(bundle) == before
    assert bundle.krunpy("list", "--quiet").out == ""


def test_a_shim_killed_at_any_moment_is_cleaned_up_by_delete(bundle):
    create(bundle)
    assert bundle.krunpy("delete", "--force", CONTAINER).code == 0
    before = settle(bundle)
    dice = random.Random("moments")

    for number in range(20):
        pid = create(bundle)
        if number % 4:
            assert bundle.krunpy("start", CONTAINER).code == 0
            time.sleep(dice.random() * 3.5 if number % 4 == 1 else dice.random())
        else:
            time.sleep(dice.random() * 0.3)
        os.kill(pid, signal.SIGKILL)
        assert bundle.krunpy("delete", "--force", CONTAINER).code == 0, number
        assert not (bundle.state / CONTAINER).exists()

    assert settle(bundle) == before


def test_the_search_for_processes_does_find_a_running_machine(bundle):
    create(bundle)
    assert bundle.krunpy("start", CONTAINER).code == 0
    machine = wait_until(
        lambda: [pid for pid in bundle.processes() if "qemu" in os.readlink(f"/proc/{pid}/exe")],
        what="a machine",
    )
    assert len(machine) == 1
    assert cgroups()
    assert bundle.krunpy("delete", "--force", CONTAINER).code == 0
    assert settle(bundle)["processes"] == []
