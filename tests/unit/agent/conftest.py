"""Builds the guest agent's C code once, and runs its pure parts as a program."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

AGENT = Path(__file__).parents[3] / "images" / "guest" / "agent"


def _build(target: str, out: Path, source: Path = AGENT) -> None:
    for name in ("make", "gcc"):
        if shutil.which(name) is None:
            pytest.skip(f"the guest agent cannot be built: {name} is not installed")
    if not Path("/usr/include/sodium.h").exists():
        pytest.skip("the guest agent cannot be built: libsodium-dev is not installed")
    done = subprocess.run(
        ["make", "-C", str(source), target, f"OUT={out}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@dataclass(frozen=True)
class Tool:
    """agent-tool: one command of the agent's pure parts per call."""

    program: Path

    def run(self, command: str, stdin: bytes) -> tuple[int, list[tuple[str, str]]]:
        """Return the exit code and the lines of stdout, each cut at its first blank."""
        done = subprocess.run(
            [self.program, command], input=stdin, capture_output=True, check=False, timeout=20
        )
        assert done.returncode in (0, 1), (done.returncode, done.stderr)
        lines = [line.partition(" ") for line in done.stdout.decode().splitlines()]
        return done.returncode, [(name, value) for name, _, value in lines]

    def accept(self, command: str, stdin: bytes) -> list[tuple[str, str]]:
        code, lines = self.run(command, stdin)
        assert code == 0, lines
        return lines

    def refuse(self, command: str, stdin: bytes) -> list[tuple[str, str]]:
        code, lines = self.run(command, stdin)
        assert code == 1, lines
        return lines


@pytest.fixture(scope="session")
def tool(tmp_path_factory: pytest.TempPathFactory) -> Tool:
    out = tmp_path_factory.mktemp("agent")
    _build("tool", out)
    return Tool(out / "agent-tool")


@pytest.fixture(scope="session")
def agents(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The agent, built twice: in the tree, and from a copy of the source in another place."""
    first, second = tmp_path_factory.mktemp("first"), tmp_path_factory.mktemp("second")
    _build("agent", first)
    copy = second / "copy-with-a-longer-name"
    shutil.copytree(AGENT, copy, ignore=shutil.ignore_patterns("build"))
    _build("agent", second / "out", copy)
    return first / "agent", second / "out" / "agent"
