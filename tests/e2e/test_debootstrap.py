"""A whole Debian from debootstrap under podman: the user sees what crun shows of the same image."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from pathlib import Path

import pytest

from tests.e2e.conftest import run

pytestmark = [pytest.mark.vm, pytest.mark.root, pytest.mark.slow, pytest.mark.usefixtures("debian")]
DEBIAN = "localhost/e2e-debian:1"
TREE = "KRUNPY_E2E_ROOTFS"


@pytest.fixture(scope="module")
def debian(podman, workspace):
    """Import a minbase tree: the one that KRUNPY_E2E_ROOTFS names, or a new one."""
    tree = Path(os.environ.get(TREE) or workspace / "debian")
    if not tree.exists():
        if shutil.which("debootstrap") is None:
            pytest.skip("needs debootstrap: apt-get install debootstrap")
        done = run(["debootstrap", "--variant=minbase", "bookworm", tree], timeout=600)
        if done.code != 0:
            pytest.skip(f"debootstrap failed, is there a mirror? {done.out[-300:]}")
    archive = workspace / "debian.tar"
    assert run(["tar", "-C", tree, "--numeric-owner", "-cf", archive, "."]).code == 0
    done = podman("import", archive, DEBIAN)
    assert done.code == 0, done
    archive.unlink()
    return tree


def both(podman, script):
    """Run a script in crun's container and in krunpy's machine, under one name; return what each left behind."""
    words = ("--rm", "--name", "e2e-same", DEBIAN, "bash", "-c", script)
    return podman.crun("run", *words), podman("run", "--network", "none", *words)


def without_clock(listing):
    """Return the lines of `ls -la` that do not depend on when, or on what file system, the container was made.

    Those that do: the sum of blocks, and the sizes of the directory itself and of the root, which are the file
    system's below the writable layer; the minute of the five names that an engine adds to every container.
    """
    made = re.compile(r" (?:\.|\.\.|hosts|hostname|mtab -> \S+)$")
    lines = []
    for line in listing.splitlines():
        if line.startswith("total ") or line.endswith((" .", " ..")):
            continue
        lines.append(re.sub(r" [A-Z][a-z]{2} +\d+ \d\d:\d\d ", " ", line) if made.search(line) else line)
    return lines


def test_a_listing_of_etc_is_what_crun_shows_and_the_exit_status_is_the_workloads(podman):
    if shutil.which("crun") is None:
        pytest.skip("needs crun: apt-get install crun")
    crun, ours = both(podman, "ls -la /etc; exit 42")

    assert crun.code == 42, crun
    assert ours.code == 42, ours
    assert without_clock(ours.out) == without_clock(crun.out)
    assert len(ours.out.splitlines()) == len(crun.out.splitlines()) > 50


def test_every_file_and_directory_is_what_crun_shows(podman):
    """Names, kinds, modes, owners, sizes, times and targets of all there is; and the contents of /etc and /usr/lib."""
    if shutil.which("crun") is None:
        pytest.skip("needs crun: apt-get install crun")
    of_the_engine = ("/proc", "/sys", "/dev", "/run", "/etc/hosts", "/etc/hostname", "/etc/mtab")
    changed = " -o ".join(f"-path {path}" for path in of_the_engine)
    script = (
        f"find / -mindepth 1 \\( {changed} \\) -prune -o -path /etc -o -type d -printf '%p %m %U %G %TY%Tm%Td%TH%TM\\n'"
        " -o -printf '%p %y %m %U %G %s %n %T@ %l\\n' | sed 's/\\.[0-9]* / /' | LC_ALL=C sort"
        "; find /etc /usr/lib/x86_64-linux-gnu -type f ! -name hosts ! -name hostname -print0 | sort -z"
        " | xargs -0 sha256sum | sha256sum"
    )
    crun, ours = both(podman, script)

    assert (crun.code, ours.code) == (0, 0), (crun.err, ours.err)
    assert ours.out.splitlines() == crun.out.splitlines()
    assert len(ours.out.splitlines()) > 5000


def test_a_second_run_shows_the_same_as_the_first(podman):
    script = "ls -lAR --time-style=full-iso /usr/share/bug /etc/apt /var | sha256sum; exit 42"

    first, second = (
        podman("run", "--rm", "--network", "none", DEBIAN, "bash", "-c", script) for _ in range(2)
    )

    assert (first.code, second.code) == (42, 42), (first, second)
    assert first.out == second.out
    assert len(first.out.split()[0]) == hashlib.sha256().digest_size * 2
