"""Containers whose launcher and machine are fakes: everything else is the real thing, from `create` to `delete`."""

import json
import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
BUSYBOX = "/bin/busybox"
APPLETS = ("sh", "true", "false", "echo", "cat", "sleep", "dd", "head", "wc", "yes", "kill")
RUNTIME = """\
#!{python} -I
import os, sys
sys.path.insert(0, {repository!r})
from krunpy.cli import oci
environment = {{**os.environ, "XDG_RUNTIME_DIR": {state!r}}}
launch = lambda directory: os.execv(sys.executable, [sys.executable, "-I", {launcher!r}, directory])
status = oci.run(sys.argv[1:], environment, launch)
sys.stdout.flush()
os._exit(status)
"""


class Host:
    """A directory with a runtime in it, and what to do with that runtime."""

    def __init__(self, directory):
        self.directory = directory
        self.state = directory / "run"
        self.root = self.state / "krunpy"
        self.runtime = directory / "krunpy"
        self.bundle = directory / "bundle"
        text = RUNTIME.format(
            python=sys.executable,
            repository=str(REPOSITORY),
            state=str(self.state),
            launcher=str(HERE / "fake_launcher.py"),
        )
        self.runtime.write_text(text)
        self.runtime.chmod(0o755)
        make_rootfs(self.bundle / "rootfs")

    def configure(self, *args, fault="", env=(), **settings):
        """Write config.json for a command."""
        config = {
            "ociVersion": "1.0.2-dev",
            "process": {
                "args": list(args),
                "env": ["PATH=/bin", *env, *([f"FAKE={fault}"] if fault else [])],
                "cwd": "/",
                "user": {"uid": 0, "gid": 0},
            },
            "root": {"path": "rootfs"},
            "linux": {"cgroupsPath": f"/krunpy-test-{self.directory.name}/c"},
            **settings,
        }
        (self.bundle / "config.json").write_text(json.dumps(config))

    def argv(self, *words):
        return [str(self.runtime), *words]

    def call(self, *words, status=0, **options):
        """Run the runtime, expect an exit status, return what it printed."""
        done = subprocess.run(
            self.argv(*words), capture_output=True, timeout=60, check=False, cwd=self.bundle, **options
        )
        assert done.returncode == status, (words, done.returncode, done.stderr.decode(errors="replace"))
        return done

    def run(self, *, status=0, stdin=b"", timeout=60):
        """Run the configured container to its end in one call."""
        done = subprocess.run(
            self.argv("run", "--bundle", str(self.bundle), "c1"),
            input=stdin,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == status, done.stderr.decode(errors="replace")
        return done

    def create(self, container_id="c1", **options):
        """Create a container whose standard streams nobody holds, and return its pid."""
        words = [
            "create",
            "--bundle",
            str(self.bundle),
            "--pid-file",
            str(self.directory / "pid"),
            container_id,
        ]
        null = subprocess.DEVNULL
        done = subprocess.run(
            self.argv(*words), stdin=null, stdout=null, stderr=null, timeout=60, check=True, **options
        )
        assert done.returncode == 0
        return int((self.directory / "pid").read_text())

    def status(self, container_id="c1"):
        return json.loads(self.call("state", container_id).stdout)["status"]

    def wait_for(self, condition, timeout_s=20):
        """Return when a condition holds; fail after a while."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if condition():
                return
            time.sleep(0.02)
        pytest.fail(f"timed out waiting for {condition}")

    def wait_for_status(self, status, container_id="c1"):
        self.wait_for(lambda: self.status(container_id) == status)

    def leftovers(self):
        """Return every process, cgroup, mount and file that still names this directory."""
        found = [str(path) for path in self.root.glob("*")]
        found += [
            str(path) for path in Path("/sys/fs/cgroup").glob(f"**/*krunpy-test-{self.directory.name}*")
        ]
        mounts = Path("/proc/self/mounts").read_text().splitlines()
        found += [line for line in mounts if str(self.directory) in line]
        for path in Path("/proc").glob("[0-9]*"):
            try:
                command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(self.directory) in command and path.name != str(os.getpid()):
                found.append(f"{path.name} {command}")
        return found

    def require_clean(self):
        """Fail if anything is left, after a moment for the kernel and the init process."""
        deadline = time.monotonic() + 5
        while (left := self.leftovers()) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert left == []


def make_rootfs(path):
    """Make a root filesystem of one busybox."""
    for name in ("bin", "dev", "etc", "proc", "tmp"):
        (path / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, path / "bin/busybox")
    for name in APPLETS:
        (path / "bin" / name).symlink_to("busybox")
    (path / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\n")
    for name, minor in (("null", 3), ("zero", 5)):
        os.mknod(path / "dev" / name, 0o666 | stat.S_IFCHR, os.makedev(1, minor))


@pytest.fixture(scope="session")
def rootfs_archive(tmp_path_factory):
    """Return the path of a tar of the same root filesystem."""
    directory = tmp_path_factory.mktemp("archive")
    make_rootfs(directory / "rootfs")
    subprocess.run(["tar", "-C", str(directory / "rootfs"), "-cf", str(directory / "tar"), "."], check=True)
    return directory / "tar"


@pytest.fixture
def host(tmp_path):
    if not os.path.exists(BUSYBOX):
        pytest.skip("needs busybox-static")
    made = Host(tmp_path)
    yield made
    for name in [path.name for path in made.root.glob("*")]:
        subprocess.run(made.argv("delete", "--force", name), check=False, timeout=60)
