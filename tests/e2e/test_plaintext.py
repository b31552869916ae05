"""What is in an image stays there: a marker in one of its files is nowhere else on the host, encrypted as it is."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import pytest

from tests.e2e.conftest import make_rootfs

pytestmark = [pytest.mark.vm, pytest.mark.root, pytest.mark.slow]


def find_in_files(marker, *roots):
    """Return the files below some directories that hold a marker."""
    found = []
    for root in roots:
        for directory, _, names in os.walk(root):
            for name in names:
                path = Path(directory, name)
                if path.is_file() and not path.is_symlink() and holds(path, marker):
                    found.append(path)
    return found


def holds(path, marker):
    with path.open("rb") as stream:
        rest = b""
        while chunk := stream.read(1 << 20):
            if marker in rest + chunk:
                return True
            rest = chunk[-len(marker) :]
    return False


def find_in_processes(marker):
    """Return what of /proc/PID/{cmdline,environ} holds a marker."""
    found = []
    for entry in os.listdir("/proc"):
        for name in ("cmdline", "environ") if entry.isdigit() else ():
            try:
                if marker in Path(f"/proc/{entry}/{name}").read_bytes():
                    found.append(f"/proc/{entry}/{name}")
            except OSError:
                continue  # ended meanwhile
    return found


def marked_rootfs(directory):
    """Return a root file system with a marker in the middle of a file, and the marker."""
    marker = f"marker-{secrets.token_hex(16)}".encode()
    rootfs = make_rootfs(directory)
    (rootfs / "srv/secret").write_bytes(os.urandom(5000) + marker + os.urandom(5000))
    (rootfs / "srv/short").write_bytes(marker)
    return rootfs, marker


def test_a_marker_in_the_image_reaches_no_file_argument_or_environment_of_the_host(make_lab, tmp_path):
    rootfs, marker = marked_rootfs(tmp_path / "rootfs")
    lab = make_lab("plaintext")
    script = "trap 'exit 0' TERM; echo up; while :; do sleep 0.1; done"
    process = lab.start("run", rootfs, "--", "sh", "-c", script)
    assert process.stdout.readline() == b"up\n"

    seen = find_in_processes(marker)
    running = find_in_files(marker, lab.directory, "/run/krunpy", "/dev/shm")
    process.terminate()
    process.communicate(timeout=30)

    assert (seen, running) == ([], [])
    assert find_in_files(marker, lab.directory, "/run/krunpy", "/dev/shm", "/var/tmp") == []
    assert lab.images(), "nothing was converted"


def test_the_search_does_find_a_marker_where_there_is_no_encryption(make_lab, tmp_path):
    rootfs, marker = marked_rootfs(tmp_path / "rootfs")
    lab = make_lab("plain")

    done = lab.krunpy("run", "--integrity-only", rootfs, "--", "cat", "/srv/short")

    assert done.stdout == marker, done
    assert [path.name for path in find_in_files(marker, lab.directory)] == ["disk.img"]
