"""The real podman against the fake machine: what engines see of exit codes, signals, logs and refusals.

No flag is needed: krunpy sets no limits of its own on the host, and takes any cgroup layout.
"""

import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("podman") is None, reason="needs podman"),
]


def storage_options(directory):
    """Return the options that keep podman's files in a directory of ours."""
    return [
        f"--root={directory}/storage",
        f"--runroot={directory}/runroot",
        f"--tmpdir={directory}/tmp",
        "--cgroup-manager=cgroupfs",
    ]


class Podman:
    """podman with storage of its own, and one image of one busybox."""

    image = "localhost/krunpy-test:1"

    def __init__(self, host, directory):
        self.host = host
        self.options = [*storage_options(directory), f"--runtime={host.runtime}"]

    def call(self, *words, status=0, stdin=b""):
        done = subprocess.run(
            ["podman", *self.options, *words], capture_output=True, timeout=120, check=False, input=stdin
        )
        assert done.returncode == status, (words, done.returncode, done.stderr.decode(errors="replace"))
        return done

    def run(self, *words, options=(), **expect):
        return self.call("run", "--rm", "-i", "--network=none", *options, self.image, *words, **expect)

    def wait_for_log(self, name, text):
        for _ in range(200):
            if text in self.call("logs", name).stdout:
                return
            time.sleep(0.05)
        pytest.fail(f"{text!r} never came")


@pytest.fixture(scope="module")
def storage(rootfs_archive):
    """Give podman a storage of its own, with the image, under a short name: its runroot has at most 50 characters."""
    directory = Path(tempfile.mkdtemp(prefix="krp"))
    options = storage_options(directory)
    words = ["import", "-c", "ENV PATH=/bin", str(rootfs_archive), Podman.image]
    subprocess.run(["podman", *options, *words], check=True, capture_output=True)
    yield directory
    for words in (["rm", "-af", "-t", "0"], ["rmi", "-af"]):
        subprocess.run(["podman", *options, *words], check=False, capture_output=True)
    subprocess.run(["umount", "-l", str(directory / "storage/overlay")], check=False, capture_output=True)
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def podman(host, storage):
    made = Podman(host, storage)
    yield made
    made.call("rm", "-af", "-t", "0")


def test_exit_status_output_and_input_are_the_workloads(podman, host):
    done = podman.run("sh", "-c", "echo out; echo err >&2; exit 42", status=42)

    assert done.stdout == b"out\n"
    assert b"err\n" in done.stderr
    assert podman.run("cat", stdin=b"hello").stdout == b"hello"
    podman.run("sh", "-c", "kill -9 $$", status=137)
    assert list(host.root.glob("*")) == []


def test_a_missing_and_a_forbidden_program_have_podmans_codes(podman):
    podman.run("nosuch", status=127)
    podman.run("/etc/passwd", status=126)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["-t"], b"process.terminal true is refused"),
        (["-v", "/srv:/srv"], b"mounts /srv bind from /srv is refused"),
        (["--device", "/dev/null:/dev/x"], b"linux.devices /dev/x is refused"),
        (["--sysctl", "kernel.shmmax=1"], b"linux.sysctl kernel.shmmax"),
        (["--privileged"], b" more"),
    ],
)
def test_what_cannot_hold_is_refused_by_name(podman, options, words):
    assert words in podman.run("true", options=options, status=126).stderr


def test_published_ports_are_refused_by_address(podman):
    done = podman.call("run", "--rm", "-p", "127.0.0.1:18765:80", podman.image, "true", status=126)

    assert b"published port 127.0.0.1:18765/tcp is refused" in done.stderr


@pytest.mark.parametrize(
    "options", [["--tmpfs", "/scratch"], ["--memory=512m", "--cpus=1"], ["--read-only"], ["--hostname=h"]]
)
def test_what_holds_is_accepted(podman, options):
    podman.run("true", options=options)


def test_a_detached_container_is_stopped_restarted_killed_and_removed(podman, host):
    script = "trap 'echo got TERM; exit 3' TERM; echo ready; while :; do sleep 0.1; done"
    podman.call("run", "-d", "--network=none", "--name=d1", podman.image, "sh", "-c", script)
    podman.wait_for_log("d1", b"ready\n")
    shown = json.loads(podman.call("inspect", "d1").stdout)[0]

    assert shown["State"]["Status"] == "running"
    assert b"d1" in podman.call("ps").stdout
    assert b"measured" in podman.call("exec", "d1", "true", status=255).stderr
    podman.call("stop", "-t", "10", "d1")
    assert podman.call("wait", "d1").stdout.strip() == b"3"
    assert podman.call("logs", "d1").stdout == b"ready\ngot TERM\n"

    podman.call("restart", "d1")
    podman.call("kill", "d1")
    assert podman.call("wait", "d1").stdout.strip() == b"137"
    podman.call("start", "d1")
    podman.call("rm", "-f", "-t", "0", "d1")
    assert podman.call("ps", "-aq").stdout == b""
    assert list(host.root.glob("*")) == []
