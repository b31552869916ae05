"""A libkrun that writes down how it is called, and the machine's process over it."""

import shutil
import subprocess
from pathlib import Path

import pytest

from krunpy.vmm.libkrun import build_argv
from krunpy.vmm.libkrun_spec import Flavour, KrunSpec, Libraries

SOURCE = Path(__file__).parent / "fake_libkrun.c"


@pytest.fixture
def lab(tmp_path):
    return Lab(tmp_path)


class Lab:
    """A fake library and the machine's process under it."""

    def __init__(self, folder):
        self.folder, self.log = folder, folder / "calls"
        self.library = str(folder / "libkrun.so")

    def compile(self, *, until=99, fail="", tee=False, features=None, source=None):
        compiler = shutil.which("cc") or pytest.fail("a C compiler is missing: apt-get install gcc libc6-dev")
        path = SOURCE
        if source is not None:
            path = self.folder / "source.c"
            path.write_text(source)
        defines = [
            f'-DLOG="{self.log}"',
            f'-DFAIL="{fail}"',
            f"-DONLY_UNTIL={until}",
            *(["-DTEE"] if tee else []),
            *([f"-DFEATURES={features}"] if features is not None else []),
        ]
        subprocess.run(
            [compiler, "-shared", "-fPIC", "-Wall", "-Werror", *defines, "-o", self.library, path], check=True
        )

    def spec(self, flavour=Flavour.PLAIN, **more):
        plain = {"kernel_fd": 0, "cmdline": "console=hvc0 quiet"}
        given = {
            "libraries": Libraries(libkrun=self.library, libkrunfw=None, flavour=flavour),
            "memory_mib": 300, "cpus": 2, "boot_fd": 1, "channel_fd": 2, "disk_fd": 3,
        }  # fmt: skip
        return KrunSpec(**{**given, **plain, **more})

    def run(self, spec, at=None, under=()):
        """at: descriptors that are there; the others have numbers only. under: a command that runs it."""
        at = at or {}
        words = [*under, *build_argv(spec)]
        for index in range(6):
            words = [word.replace(f"{{fd{index}}}", str(at.get(index, 40 + index))) for word in words]
        environment = {"RUST_LOG": "trace", "HOSTNAME": "host", "PATH": "/usr/bin:/bin"}
        return subprocess.run(
            words,
            capture_output=True,
            text=True,
            env=environment,
            timeout=30,
            check=False,
            pass_fds=tuple(at.values()),
        )

    @property
    def calls(self):
        return self.log.read_text().splitlines() if self.log.exists() else []
