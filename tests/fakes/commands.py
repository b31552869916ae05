"""The real command line in a child, in a directory of its own, with everything that it may leave behind."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
DRIVER = REPOSITORY / "tests/fakes/hostile_driver.py"
START = f"import sys; sys.path.insert(0, {str(REPOSITORY)!r}); from krunpy.cli.main import main; main()"
LIMIT_S = 20.0  # seconds that no hostile input may take


@dataclass(frozen=True, kw_only=True)
class Done:
    """What a command did."""

    code: int
    out: str
    err: str
    seconds: float
    peak_mib: float = 0.0


class Bench:
    """Directories for one command line after another."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name in ("run", "tmp"):
            (directory / name).mkdir(parents=True)

    def path(self, name: str) -> Path:
        return self.directory / name

    def environment(self, **more: str | bytes) -> dict[str, str | bytes]:
        found: dict[str, str | bytes] = {
            "PATH": os.environ["PATH"],
            "LC_ALL": "C.UTF-8",
            "HOME": str(self.directory),
            "TMPDIR": str(self.directory / "tmp"),
            "XDG_RUNTIME_DIR": str(self.directory / "run"),
            "KRUNPY_DATA_DIR": str(self.directory / "data"),
            "KRUNPY_CACHE_DIR": str(self.directory / "cache"),
        }
        return {**found, **more}

    def start(self, *words: str | bytes, before: tuple[str, ...] = (), **more: str | bytes):
        """Start a command. before: a program and its words in front; more: environment.

        Its output goes to files: a container that it leaves behind would hold pipes open.
        """
        with self.path("stdout").open("wb") as out, self.path("stderr").open("wb") as err:
            return subprocess.Popen(
                [*before, sys.executable, "-I", "-c", START, *words],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=self.environment(**more),
                cwd=self.directory,
            )

    def call(self, *words: str | bytes, before: tuple[str, ...] = (), **more: str | bytes) -> Done:
        """Run a command to its end; more: environment. It must not take long."""
        begin = time.monotonic()
        process = self.start(*words, before=before, **more)
        try:
            code = process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            message = f"krunpy {words!r} took longer than {LIMIT_S} s"
            raise AssertionError(message) from None
        seconds = time.monotonic() - begin
        out, err = (self.path(name).read_bytes().decode() for name in ("stdout", "stderr"))
        return Done(code=code, out=out, err=err, seconds=seconds)

    def call_many(self, cases, **more):
        """Run many command lines of people in one process; return name -> what each did.

        cases: (name, words), or (name, words, environment, damage), where damage is path -> contents.
        """
        results = self.directory / "results.json"
        listed = [[name, words, *_complete(*rest)] for name, words, *rest in cases]
        subprocess.run(
            [sys.executable, str(DRIVER), str(results)],
            input=json.dumps(listed).encode(),
            env=self.environment(PYTHONPATH=str(REPOSITORY), **more),
            cwd=self.directory,
            timeout=300,
            check=True,
        )
        return {each.pop("name"): Done(**each) for each in json.loads(results.read_text())}

    def drafts(self) -> list[str]:
        """Return what lies half-written in the cache, or forgotten where temporary files are."""
        places = [self.directory / "cache/tmp", self.directory / "tmp", self.directory / "run/krunpy"]
        return [str(path) for place in places if place.is_dir() for path in place.iterdir()]

    def images(self) -> list[str]:
        folder = self.directory / "cache/images"
        return sorted(os.listdir(folder)) if folder.is_dir() else []


def _complete(environment=None, damage=None):
    files = {str(path): base64.b64encode(contents).decode() for path, contents in (damage or {}).items()}
    return environment or {}, files


def require_one_error(done: Done, code: int, *, has_next: bool = True) -> None:
    """Fail unless a command said one thing on three lines, and ended as documented."""
    lines = done.err.splitlines()
    shown = f"exit code {done.code}: {done.err[-1500:]}"
    assert done.code == code, shown
    assert "Traceback" not in done.err, shown
    assert len(lines) == (3 if has_next or len(lines) == 3 else 2), shown
    assert lines[0].startswith("krunpy: "), shown
    assert lines[1].startswith("  why:  "), shown
    assert not has_next or lines[2].startswith("  next: "), shown
    assert all(line.isprintable() and len(line) < 2100 for line in lines), shown


def make_tree(folder: Path, size: int = 20) -> Path:
    """Make a root file system of two files whose times lie in the past."""
    (folder / "bin").mkdir(parents=True)
    program = folder / "bin/sh"
    program.write_bytes(b"#" * size)
    program.chmod(0o755)
    (folder / "etc").mkdir()
    (folder / "etc/passwd").write_text("root:x:0:0:root:/:/bin/sh\n")
    return folder


def make_guest(folder: Path) -> Path:
    """Make a guest directory that can be measured, though not booted."""
    build = folder / "builds/0123456789abcdef"
    build.mkdir(parents=True)
    parts = {"vmlinuz": b"k" * 5000, "base.cpio": b"c" * 512, "agent": b"a", "firmware.bin": b"\x90" * 65536}
    for name, contents in parts.items():
        (build / name).write_bytes(contents)
    description = {
        "bytes": {name: len(contents) for name, contents in parts.items()},
        "cmdline": "quiet",
        "firmware": "firmware.bin",
        "kernel": {"image": "vmlinuz", "origin": "here", "release": "6.1.0-fake"},
        "modules": ["erofs"],
        "sha256": {name: hashlib.sha256(contents).hexdigest() for name, contents in parts.items()},
        "version": 1,
    }
    (build / "guest.json").write_text(json.dumps(description))
    (folder / "current").symlink_to("builds/0123456789abcdef")
    return folder
