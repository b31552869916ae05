"""Real machines: one data directory, one podman storage and one wrapper of krunpy for the whole session.

Everything lies below one temporary directory, and nothing of it is left at the end. KRUNPY_E2E_ROOTFS names a
debootstrap tree to use in place of a new one.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from krunpy.core.settings import load_settings
from krunpy.runtime.sample import make_sample
from tests.nested import joblist

BOOT_S = 120  # for one command that boots a machine, on a busy computer
APPLETS = (
    "chmod",
    "dd",
    "grep",
    "head",
    "kill",
    "ln",
    "mkdir",
    "mount",
    "ps",
    "rm",
    "seq",
    "stat",
    "touch",
    "date",
)


class Done:
    """A finished command."""

    def __init__(self, words, code, stdout, stderr):
        self.words, self.code, self.stdout, self.stderr = words, code, stdout, stderr

    @property
    def out(self):
        return self.stdout.decode(errors="replace")

    @property
    def err(self):
        return self.stderr.decode(errors="replace")

    def __repr__(self):
        return f"{self.words!r}: exit code {self.code}\nstdout: {self.out}\nstderr: {self.err}"


def run(words, *, stdin=b"", env=None, timeout=BOOT_S, pass_fds=()):
    """Run a command to its end, whatever its exit code."""
    done = subprocess.run(
        [str(word) for word in words],
        input=stdin,
        capture_output=True,
        env=env,
        timeout=timeout,
        check=False,
        pass_fds=pass_fds,
    )
    return Done(words, done.returncode, done.stdout, done.stderr)


def wait_until(condition, *, seconds=BOOT_S, what="it"):
    """Return the first true value of `condition`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.05)
    pytest.fail(f"{what} did not happen in {seconds} s")


class Lab:
    """An installation of krunpy of its own: data, cache, state, and a wrapper that podman can call.

    podman 4.3.1 hands no environment on to a runtime, hence the wrapper.
    """

    def __init__(self, directory, *, config=None, guest_dir=""):
        self.directory = Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.data, self.cache = self.directory / "data", self.directory / "cache"
        self.runtime_dir = self.directory / "run"
        self.runtime_dir.mkdir()
        self.state = self.runtime_dir / "krunpy"
        self.guest_dir = guest_dir or load_settings(os.environ).guest_dir
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": os.environ.get("HOME", "/root"),
            "KRUNPY_DATA_DIR": str(self.data),
            "KRUNPY_CACHE_DIR": str(self.cache),
            "KRUNPY_GUEST_DIR": str(self.guest_dir),
            "XDG_RUNTIME_DIR": str(self.runtime_dir),
            "TMPDIR": str(self.directory),
        }
        if config is not None:
            (self.directory / "krunpy.toml").write_text(config)
            self.env["KRUNPY_CONFIG"] = str(self.directory / "krunpy.toml")
        self.program = Path(sys.prefix) / "bin/krunpy"
        if not self.program.exists():
            pytest.fail(f"{self.program} is missing: pip install -e .")
        self.wrapper = self.directory / "krunpy"
        exports = "".join(
            f"export {name}='{value}'\n" for name, value in self.env.items() if "KRUNPY" in name
        )
        self.wrapper.write_text(
            f"#!/bin/sh\n{exports}export XDG_RUNTIME_DIR='{self.runtime_dir}'\nexec '{self.program}' \"$@\"\n"
        )
        self.wrapper.chmod(0o755)

    def krunpy(self, *words, stdin=b"", timeout=BOOT_S):
        """Run krunpy as people do."""
        return run([self.program, *words], stdin=stdin, env=self.env, timeout=timeout)

    def start(self, *words):
        """Start krunpy and return the process; its output goes to pipes."""
        return subprocess.Popen(
            [self.program, *map(str, words)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=self.env,
        )

    def images(self):
        """Return the directories of the converted images."""
        return sorted(path.parent for path in self.cache.rglob("disk.img"))

    def processes(self):
        """Return the pids of all processes that belong to this lab, by their environment, files or arguments."""
        wanted = str(self.directory).encode()
        found = []
        for entry in os.listdir("/proc"):
            if not entry.isdigit() or int(entry) == os.getpid():
                continue
            words = [
                *(_read(f"/proc/{entry}/{name}") for name in ("environ", "cmdline")),
                *_links(f"/proc/{entry}/fd"),
            ]
            if any(wanted in word for word in words):
                found.append(int(entry))
        return found

    def remove(self):
        """Stop what runs and remove the directory."""
        shutil.rmtree(self.directory, ignore_errors=True)


def _links(directory):
    try:
        return [os.readlink(f"{directory}/{name}").encode() for name in os.listdir(directory)]
    except OSError:
        return []


def _read(path):
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


class Podman:
    """podman with storage of its own, so that nothing of the user's is touched."""

    def __init__(self, lab, directory):
        self.lab = lab
        self.directory = directory
        self.options = [
            f"--root={directory}/storage",
            f"--runroot={directory}/runroot",
            f"--tmpdir={directory}/tmp",
            "--cgroup-manager=cgroupfs",
        ]

    def __call__(self, *words, options=(), stdin=b"", timeout=BOOT_S):
        """Run podman; containers are krunpy's."""
        return run(
            ["podman", *self.options, f"--runtime={self.lab.wrapper}", *options, *words],
            stdin=stdin,
            timeout=timeout,
        )

    def crun(self, *words):
        """Run podman with crun, which wants one kind of cgroups and no more limits than we may give."""
        limits = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096", "--network", "none")
        podman = ["podman", *self.options, f"--runtime={shutil.which('crun')}", words[0], *limits, *words[1:]]
        if os.path.ismount("/sys/fs/cgroup/unified"):
            script = 'umount /sys/fs/cgroup/unified; exec "$@"'
            podman = ["unshare", "-m", "--propagation", "private", "sh", "-c", script, "sh", *podman]
        return run(podman)

    def wait_for_log(self, name, text):
        """Return once a container has printed `text`."""
        wait_until(lambda: text in self("logs", name).out, what=f"{text!r} in the logs of {name}")

    def close(self):
        """Remove all containers and images."""
        self("rm", "-af", "-t", "0")
        self("rmi", "-af")
        for mount in [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()][::-1]:
            if mount.startswith(str(self.directory)):
                subprocess.run(["umount", "-l", mount], check=False, capture_output=True)
        shutil.rmtree(self.directory, ignore_errors=True)


def make_rootfs(directory):
    """Make a root file system of one busybox, with what the tests call."""
    directory.mkdir()
    make_sample(str(directory))
    for applet in APPLETS:
        (directory / "bin" / applet).symlink_to("busybox")
    (directory / "etc/group").write_text("root:x:0:\n")
    (directory / "etc/not-a-program").write_text("text\n")
    (directory / "srv").mkdir()
    return directory


@pytest.fixture(scope="session")
def workspace():
    directory = Path(tempfile.mkdtemp(prefix="krunpy-e2e-"))
    yield directory
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def make_lab(workspace):
    """Return a function that makes an installation which shares nothing but the guest with the others."""
    labs = []

    def make(name, **options):
        labs.append(Lab(workspace / name, **options))
        return labs[-1]

    yield make
    for lab in labs:
        for pid in lab.processes():
            os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="session")
def lab(make_lab):
    return make_lab("lab")


@pytest.fixture(scope="session")
def rootfs(workspace):
    directory = make_rootfs(workspace / "rootfs")
    time.sleep(2.1)  # a file that changed less than two seconds ago may change again unseen: not cached
    return directory


@pytest.fixture(scope="session")
def podman(lab, rootfs, workspace):
    """podman with one image, localhost/e2e-busybox:1."""
    if shutil.which("podman") is None:
        pytest.skip("needs podman: apt-get install podman")
    engine = Podman(lab, workspace / "podman")
    archive = workspace / "busybox.tar"
    assert run(["tar", "-C", rootfs, "-cf", archive, "."]).code == 0
    done = engine("import", "-c", "ENV PATH=/bin", archive, "localhost/e2e-busybox:1")
    assert done.code == 0, done
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def krun_lab(make_lab, rootfs, workspace):
    return joblist.prepare_lab(make_lab, rootfs, workspace)


@pytest.fixture(scope="session")
def nested(krun_lab, rootfs, workspace):
    """Return what became of every job of the emulated machine, by name. One machine runs them all."""
    return joblist.run_jobs(joblist.make_jobs(krun_lab, rootfs), workspace)


IMAGE = "localhost/e2e-busybox:1"
