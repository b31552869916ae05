"""A guest with a kernel of our own: KRUNPY_OWN_KERNEL names the folder that `krunpy guest kernel build` made.

The build itself is not here: it takes minutes.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

KERNEL = os.environ.get("KRUNPY_OWN_KERNEL", "")
pytestmark = [
    pytest.mark.vm,
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(not KERNEL, reason="KRUNPY_OWN_KERNEL names no folder of `krunpy guest kernel build`"),
]
# what containers and their tools look for, one line each; the last three must not be there
LOOK = """
cat /proc/sys/kernel/osrelease
grep -c . /proc/net/if_inet6
for name in cgroup ipc mnt net pid time user uts; do test -e /proc/self/ns/$name && echo $name; done
grep -E '^Seccomp:' /proc/self/status
grep -E 'cgroup2|overlay|erofs' /proc/filesystems | sort
for path in /proc/modules /proc/kcore /dev/mem /sys/kernel/debug/x; do test -e $path && echo "there is $path"; done
exit 42
"""


@pytest.fixture(scope="module")
def own_lab(make_lab, workspace):
    lab = make_lab("own-kernel", guest_dir=str(workspace / "own-guest"))
    done = lab.krunpy("guest", "build", "--kernel", KERNEL, "--json")
    assert done.code == 0, done
    return lab, json.loads(done.out)["data"]


def test_the_guest_is_built_without_modules_and_says_whose_kernel_it_has(own_lab):
    _, facts = own_lab

    assert facts["modules"] == []
    assert facts["kernel_origin"] == "own"
    assert facts["parts"]["vmlinux.krun"]["sha256"] == facts_of_kernel()["sha256"]["vmlinux"]


def facts_of_kernel():
    return json.loads((Path(KERNEL) / "kernel.json").read_text())


def test_an_encrypted_attested_workload_runs_on_it_and_finds_what_containers_need(own_lab, rootfs):
    lab, facts = own_lab

    done = lab.krunpy("run", rootfs, "--", "sh", "-c", LOOK)

    assert done.code == 42, done
    lines = done.out.splitlines()
    assert lines[0] == facts["kernel"] == facts_of_kernel()["release"]
    assert int(lines[1]) >= 1  # IPv6 on the loopback
    assert lines[2:10] == ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"]
    assert lines[10].startswith("Seccomp:")
    assert [line.split()[-1] for line in lines[11:14]] == ["erofs", "cgroup2", "overlay"]
    assert lines[14:] == []


def test_another_kernel_is_another_launch_digest(own_lab, rootfs, make_lab):
    lab, _ = own_lab
    other = make_lab("other-kernel")

    digests = [reference(each, rootfs) for each in (lab, other)]

    assert digests[0] != digests[1]


def reference(lab, rootfs):
    done = lab.krunpy("measure", rootfs, "--json", "--", "true")
    assert done.code == 0, done
    return json.loads(done.out)["data"]["reference_values"][0]["launch_digest"]


def test_a_changed_initrd_is_refused_on_it_as_on_any(own_lab):
    lab, _ = own_lab

    done = lab.krunpy("quickstart", "--tamper", "initrd")

    assert done.code not in (0, None), done
    assert "the launch digest is not registered" in done.err
