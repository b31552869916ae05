"""The real libkrun, in an emulated machine that has a working /dev/kvm: tests/nested. One machine runs all jobs."""

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

pytestmark = [pytest.mark.vm, pytest.mark.root]
HERE = Path(__file__).parents[2]
RUNS = 5
SECONDS = 150  # for one job, emulated
SCRIPT = "echo marker $(uname -r) $(id -u); echo aside >&2; exit 42"
TAMPERS = {"disk": "disk", "initrd": "launch digest", "cmdline": "launch digest"}


@pytest.fixture(scope="module")
def parts():
    return prepare(find_cache())


@pytest.fixture(scope="module")
def results(parts, make_lab, rootfs, workspace):
    """Return what became of every job, by name."""
    guest_dir = workspace / "libkrun-guest"
    guest_dir.mkdir()
    (guest_dir / "kernels").symlink_to(Path(load_settings(os.environ).guest_dir) / "kernels")
    lab = make_lab("libkrun", guest_dir=str(guest_dir))
    libraries = {"KRUNPY_LIBKRUN": parts.libkrun, "KRUNPY_LIBKRUNFW": parts.libkrunfw}
    lab.env |= libraries
    built = lab.krunpy("guest", "build", "--kernel", "distribution", timeout=300)
    assert built.code == 0, built.err
    # converted here, where it takes no minute; the emulated machine sees the same cache
    converted = lab.krunpy("image", "convert", rootfs)
    assert converted.code == 0, converted.err
    jobs = workspace / "jobs.json"
    jobs.write_text(json.dumps(make_jobs(lab, rootfs, libraries)))
    command = [sys.executable, "-m", "tests.nested.jobs", str(jobs)]
    rig = [sys.executable, "-m", "tests.nested.rig", "--timeout", "900", "--memory", "2048", "--"]
    done = subprocess.run(rig + command, cwd=HERE, capture_output=True, text=True, timeout=1000, check=False)
    if done.returncode == NO_SVM:
        pytest.skip("QEMU here cannot emulate SVM, so there is no /dev/kvm for libkrun")
    assert done.returncode == 0, done.stdout + done.stderr
    # a kernel's warning may stand before an object on its line
    found = [
        json.loads(line[line.index('{"name"') :]) for line in done.stdout.splitlines() if '{"name"' in line
    ]
    assert len(found) == len(json.loads(jobs.read_text())), done.stdout + done.stderr
    return {item["name"]: item for item in found}


def make_jobs(lab, rootfs, libraries):
    common = {**lab.env, **libraries, "KRUNPY_BOOT_TIMEOUT_S": "120", "XDG_RUNTIME_DIR": "/run"}
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
    jobs.append(
        job("left over", ["sh", "-c", "ls -A /run/krunpy; ps -eo args | grep -c '[l]ibkrun_child'"], krun)
    )
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


def test_an_encrypted_attested_workload_runs_five_times_alike(results):
    runs = [results[f"run {number}"] for number in range(RUNS)]

    assert [run["code"] for run in runs] == [42] * RUNS, runs
    assert {run["out"] for run in runs} == {runs[0]["out"]}
    assert runs[0]["out"].startswith("marker 6."), runs[0]
    assert all("aside" in run["err"] for run in runs)


@pytest.mark.parametrize("kind", TAMPERS)
def test_what_the_host_changed_runs_nothing_and_gets_its_own_reason(results, kind):
    done = results[f"tamper {kind}"]

    assert done["code"] not in (0, 42), done
    assert "marker" not in done["out"]
    assert TAMPERS[kind] in done["err"], done["err"]


def test_a_signal_is_the_workloads_own_business(results):
    assert (results["term"]["code"], results["term"]["out"]) == (5, "up\ncaught\n"), results["term"]


def test_podman_runs_it_with_output_and_status(results):
    done = results["podman"]

    assert done["code"] == 42, done
    assert done["out"].startswith("marker 6."), done


def test_the_same_runs_in_qemu_under_kvm(results):
    done = results["qemu"]

    assert done["code"] == 42, done
    assert done["out"].startswith("marker ")
    assert done["out"] != results["run 0"]["out"]  # another kernel


def test_nothing_is_left(results):
    assert results["left over"]["out"].split() == ["0"], results["left over"]
