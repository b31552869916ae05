"""The agent's frame reader: what the host may send, when, and nothing else."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

if TYPE_CHECKING:
    from conftest import Tool

CHALLENGE, REPORT, RELEASE, REFUSED, RUN, STDIN, STDIN_EOF, SIGNAL, MANIFEST = range(0x81, 0x8A)
AWAIT_CHALLENGE, AWAIT_REPORT, AWAIT_RELEASE, AWAIT_RUN, RUNNING, AWAIT_MANIFEST = 1, 2, 4, 8, 16, 32
CHANNEL = "3"
ALLOWED = {
    CHALLENGE: (AWAIT_CHALLENGE, 32, 32),
    REPORT: (AWAIT_REPORT, 8, 65536),
    RELEASE: (AWAIT_RELEASE, 112, 65536),
    REFUSED: (AWAIT_MANIFEST | AWAIT_CHALLENGE | AWAIT_REPORT | AWAIT_RELEASE, 0, 512),
    RUN: (AWAIT_RUN, 0, 65536),
    STDIN: (RUNNING, 1, 65536),
    STDIN_EOF: (RUNNING, 0, 0),
    SIGNAL: (RUNNING, 1, 1),
    MANIFEST: (AWAIT_MANIFEST, 1, 262144),
}
PHASES = (AWAIT_CHALLENGE, AWAIT_REPORT, AWAIT_RELEASE, AWAIT_RUN, RUNNING, AWAIT_MANIFEST)


def _frame(kind: int, payload: bytes = b"", *, stream: int = 0, zero: int = 0) -> bytes:
    return struct.pack("<BBHI", kind, stream, zero, len(payload)) + payload


def _stdin(phase: int, stream: bytes, piece: int = 255) -> bytes:
    return bytes([piece, phase]) + stream


def test_every_frame_is_accepted_in_its_phase_and_length_and_in_no_other(tool: Tool) -> None:
    for kind, (phases, least, most) in ALLOWED.items():
        for phase in PHASES:
            for length in {least, most}:
                code, lines = tool.run("frames", _stdin(phase, _frame(kind, b"x" * length)))
                assert (code == 0) == bool(phases & phase), (hex(kind), phase, length, lines)


@pytest.mark.parametrize("kind", ALLOWED)
def test_a_frame_one_byte_outside_its_bounds_is_refused_by_its_header(tool: Tool, kind: int) -> None:
    phases, least, most = ALLOWED[kind]
    phase = next(phase for phase in PHASES if phase & phases)

    for length in [most + 1] + ([least - 1] if least else []):
        header = struct.pack("<BBHI", kind, 0, 0, length)
        assert tool.refuse("frames", _stdin(phase, header))[0][0] == CHANNEL


def test_unknown_types_and_types_of_the_guest_are_refused(tool: Tool) -> None:
    for kind in set(range(256)) - set(ALLOWED):
        assert tool.refuse("frames", _stdin(RUNNING, struct.pack("<BBHI", kind, 0, 0, 0)))[0][0] == CHANNEL


@pytest.mark.parametrize(("stream", "zero"), [(1, 0), (255, 0), (0, 1), (0, 0x8000)])
def test_a_header_with_a_reserved_bit_is_refused(tool: Tool, stream: int, zero: int) -> None:
    frame = _frame(STDIN, b"x", stream=stream, zero=zero)

    assert tool.refuse("frames", _stdin(RUNNING, frame))[0][0] == CHANNEL


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    payloads=st.lists(st.binary(min_size=1, max_size=600), max_size=6),
    piece=st.integers(min_value=1, max_value=255),
)
def test_a_stream_in_any_pieces_gives_the_same_frames(tool: Tool, payloads: list[bytes], piece: int) -> None:
    stream = b"".join(_frame(STDIN, payload) for payload in payloads)

    lines = tool.accept("frames", _stdin(RUNNING, stream, piece))

    assert lines == [(str(STDIN), f"payload {payload.hex()}") for payload in payloads]


def test_a_frame_that_is_cut_short_is_not_delivered(tool: Tool) -> None:
    frame = _frame(CHALLENGE, bytes(32))

    for length in range(len(frame)):
        assert tool.accept("frames", _stdin(AWAIT_CHALLENGE, frame[:length])) == []
