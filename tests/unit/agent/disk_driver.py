"""Builds disk_driver.c under the sanitizers and calls it."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

AGENT = Path(__file__).parents[3] / "images" / "guest" / "agent"
SOURCES = (
    "memory.c", "tree.c", "xts.c", "copy.c", "manifest.c", "json.c", "fail.c", "names.c", "volumes.c", "items.c",
)  # fmt: skip


@dataclass(frozen=True)
class DiskDriver:
    """The agent's code for a disk in memory, as a program."""

    program: Path

    def call(self, *words: str | Path, stdin: bytes = b"", **env: str) -> tuple[int, bytes]:
        done = subprocess.run(
            [self.program, *words],
            input=stdin,
            capture_output=True,
            check=False,
            timeout=60,
            env={**os.environ, **env},
        )
        assert not done.stderr, done.stderr.decode()
        return done.returncode, done.stdout


def build_disk_driver(folder: Path) -> DiskDriver:
    if shutil.which("gcc") is None or not Path("/usr/include/sodium.h").exists():
        pytest.skip("the guest agent cannot be built: gcc or libsodium-dev is not installed")
    program = folder / "disk-driver"
    words = ["gcc", "-std=gnu11", "-D_GNU_SOURCE", "-g", "-O1", "-fsanitize=address,undefined"]
    words += ["-fno-sanitize-recover=all", f"-I{AGENT}", "-Wl,--wrap=pread,--wrap=sysinfo,--wrap=xts_usable"]
    words += ["-o", str(program), str(Path(__file__).parent / "disk_driver.c")]
    words += [*(str(AGENT / name) for name in SOURCES), "-lsodium"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return DiskDriver(program)
