"""What the emulated machine is to do for the tests, one job after the other, and what became of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from krunpy.core.settings import load_settings
from tests.nested.parts import prepare
from tests.nested.rig import NO_SVM, find_cache

HERE = Path(__file__).parents[2]
RUNS = 5
SECONDS = 150  # for one job, emulated
SCRIPT = "echo marker $(uname -r) $(id -u); echo aside >&2; exit 42"
SHARED = "/run/vm-test"  # in the emulated machine
# httpd and not a server of the sample's own: an address in figures, since its busybox cannot ask for others
SHARING = """\
cat /data/in /srv/ro/in
echo from-guest >/data/out
echo changed >/srv/ro/in || echo not-written
echo served >/tmp/index.html
busybox httpd -p 0.0.0.0:80 -h /tmp
for i in $(seq 600); do [ -e /data/end ] && exit 33; sleep 0.1; done
"""
# what the host changes -> a part of the reason
TAMPERS = {
    "disk": "disk",
    "kernel": "launch digest",
    "initrd": "launch digest",
    "cmdline": "launch digest",
}


def prepare_lab(make_lab, rootfs, workspace):
    """Return an installation with libkrun whose guest is built and whose image is converted.

    Both are made here, where they take no minute; the emulated machine sees the same directories.
    """
    parts = prepare(find_cache())
    guest_dir = workspace / "libkrun-guest"
    guest_dir.mkdir()
    (guest_dir / "kernels").symlink_to(Path(load_settings(os.environ).guest_dir) / "kernels")
    lab = make_lab("libkrun", guest_dir=str(guest_dir))
    lab.env |= {"KRUNPY_LIBKRUN": parts.libkrun, "KRUNPY_LIBKRUNFW": parts.libkrunfw}
    built = lab.krunpy("guest", "build", "--kernel", "distribution", timeout=300)
    assert built.code == 0, built.err
    converted = lab.krunpy("image", "convert", rootfs)
    assert converted.code == 0, converted.err
    make_machines(lab, f"dir:{rootfs}")
    return lab


def make_machines(lab, source):
    """Make the two machines that tests/nested/vm.sh starts: the second was changed after it was made."""
    share = ["--volume", f"{SHARED}/rw:/data", "--volume", f"{SHARED}/ro:/srv/ro:ro", "--port", "18080:80"]
    for name in ("first", "former"):
        made = lab.krunpy(
            "vm", "create", source, "--name", name, "--mem", "256", *share, "--", "sh", "-c", SHARING
        )
        assert (made.code, made.out) == (0, f"{name}\n"), made
    words = [
        "--new-name",
        "second",
        "--mem",
        "200",
        "--remove-volumes",
        "--remove-ports",
        "--workdir",
        "/tmp",
    ]
    changed = lab.krunpy("vm", "changevm", "former", *words)
    assert changed.code == 0, changed


def make_jobs(lab, rootfs):
    """Return the jobs in their order."""
    common = {**lab.env, "KRUNPY_BOOT_TIMEOUT_S": "120", "XDG_RUNTIME_DIR": "/run"}
    krun = {**common, "KRUNPY_VMM": "libkrun"}
    program = str(lab.program)

    def job(name, argv, env):
        return {"name": name, "argv": [str(word) for word in argv], "env": env, "seconds": SECONDS}

    run = [program, "run", f"dir:{rootfs}", "--", "sh", "-c"]
    jobs = [job(f"run {number}", [*run, SCRIPT], krun) for number in range(RUNS)]
    for kind in TAMPERS:
        argv = [program, "quickstart", f"dir:{rootfs}", "--tamper", kind, "--", "sh", "-c", SCRIPT]
        jobs.append(job(f"tamper {kind}", argv, krun))
    jobs.append(
        job("term", ["timeout", "60", *run, "trap 'echo caught; exit 5' TERM; echo up; kill -TERM $$"], krun)
    )
    jobs.append(job("podman", [*make_podman(lab, krun), f"{rootfs}", "sh", "-c", SCRIPT], krun))
    jobs.append(job("qemu", [*run, SCRIPT], {**common, "KRUNPY_VMM": "qemu", "KRUNPY_ACCEL": "kvm"}))
    jobs.append(job("vm", ["sh", HERE / "tests/nested/vm.sh", program, SHARED], krun))
    # without what it does not use: each import takes ten times as long there
    lean = ["--noconftest", *("-p", "no:cacheprovider"), *("-p", "no:hypothesispytest")]
    tests = [HERE / "tests/e2e/test_libkrun_binding.py", "-q", *lean]
    jobs.append(job("binding", [sys.executable, "-m", "pytest", *tests], krun))
    left = "ls -A /run/krunpy; ps -eo args | grep -c '[l]ibkrun_child'"
    jobs.append(job("left over", ["sh", "-c", left], krun))
    return jobs


def make_podman(lab, env):
    """Return podman's argv up to the root file system; it hands no environment on to a runtime, hence the wrapper."""
    wrapper = lab.directory / "krunpy-libkrun"
    exports = "".join(f"export {name}='{value}'\n" for name, value in env.items() if name != "PATH")
    wrapper.write_text(f"#!/bin/sh\n{exports}exec '{lab.program}' \"$@\"\n")
    wrapper.chmod(0o755)
    places = ["--root=/run/podman/storage", "--runroot=/run/podman/run", "--tmpdir=/run/podman/tmp"]
    words = ["--cgroup-manager=cgroupfs", "--events-backend=none", f"--runtime={wrapper}"]
    return ["podman", *places, *words, "run", "--rm", "--network", "none", "--rootfs"]


def run_jobs(jobs, workspace):
    """Return what became of every job, by name. Skips where QEMU cannot emulate SVM."""
    listed = workspace / "jobs.json"
    listed.write_text(json.dumps(jobs))
    command = [sys.executable, "-m", "tests.nested.jobs", str(listed)]
    rig = [sys.executable, "-m", "tests.nested.rig", "--timeout", "900", "--memory", "2048", "--"]
    done = subprocess.run(rig + command, cwd=HERE, capture_output=True, text=True, timeout=1000, check=False)
    if done.returncode == NO_SVM:
        pytest.skip("QEMU here cannot emulate SVM, so there is no /dev/kvm for libkrun")
    assert done.returncode == 0, done.stdout + done.stderr
    # a kernel's warning may stand before an object on its line
    lines = [line for line in done.stdout.splitlines() if '{"name"' in line]
    found = [json.loads(line[line.index('{"name"') :]) for line in lines]
    assert len(found) == len(jobs), done.stdout + done.stderr
    return {item["name"]: item for item in found}
