"""The agent as a file: one static program, the same bytes wherever it is built."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

PT_INTERP, PT_GNU_STACK, PF_X = 3, 0x6474E551, 1
MIB = 1024 * 1024


def _segments(data: bytes) -> list[tuple[int, int]]:
    offset = struct.unpack_from("<Q", data, 0x20)[0]
    size, count = struct.unpack_from("<HH", data, 0x36)
    return [struct.unpack_from("<II", data, offset + index * size) for index in range(count)]


def test_two_builds_in_different_places_give_the_same_bytes(agents: tuple[Path, Path]) -> None:
    first, second = agents

    assert first.read_bytes() == second.read_bytes()


def test_the_agent_holds_no_path_of_the_machine_that_built_it(agents: tuple[Path, Path]) -> None:
    data = agents[0].read_bytes()

    assert str(agents[0].parent).encode() not in data
    assert b"/images/guest/agent" not in data


def test_the_agent_needs_no_loader_and_no_executable_stack(agents: tuple[Path, Path]) -> None:
    data = agents[0].read_bytes()
    segments = _segments(data)

    assert data.startswith(b"\x7fELF")
    assert PT_INTERP not in [kind for kind, _ in segments]
    assert [flags & PF_X for kind, flags in segments if kind == PT_GNU_STACK] == [0]


def test_the_agent_is_small_enough_for_a_measured_initrd(agents: tuple[Path, Path]) -> None:
    assert len(agents[0].read_bytes()) < 2 * MIB
