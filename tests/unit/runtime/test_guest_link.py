import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krunpy.core.errors import FormatError
from krunpy.formats.frames import HEADER, STDIN_WINDOW, FrameType, encode_frame
from krunpy.runtime.guest_link import MAX_OUTGOING, Exited, Failed, GuestLink, Note, Output, Started


def feed(data, link=None):
    return list((link or GuestLink()).feed(data))


def frames(data):
    found = []
    while data:
        kind, _, _, length = HEADER.unpack(data[: HEADER.size])
        found.append((kind, bytes(data[HEADER.size : HEADER.size + length])))
        data = data[HEADER.size + length :]
    return found


@given(st.binary(max_size=2000))
def test_any_bytes_of_a_guest_are_events_or_a_format_error(data):
    link = GuestLink()
    try:
        for event in link.feed(data):
            assert isinstance(event, Output | Started | Note | Exited | Failed)
    except FormatError:
        return


@given(st.integers(1, 40))
def test_frames_may_come_in_pieces(size):
    link = GuestLink()
    data = encode_frame(FrameType.OUTPUT, b"hello", stream=1) + encode_frame(FrameType.EXIT, b"\0\x2a")

    events = [event for at in range(0, len(data), size) for event in link.feed(data[at : at + size])]

    assert events == [Output(1, b"hello"), Exited(42)]


def test_nothing_behind_exit_is_read():
    assert feed(encode_frame(FrameType.EXIT, b"\x01\x0f") + b"\xff" * 100) == [Exited(143)]


@pytest.mark.parametrize(
    "data",
    [
        encode_frame(FrameType.HELLO, bytes(68)),
        encode_frame(FrameType.EVIDENCE, bytes(8)),
        encode_frame(FrameType.REPORT_REQUEST, bytes(64)),
        encode_frame(FrameType.STDIN, b"x"),
        encode_frame(FrameType.OUTPUT, b"x", stream=0),
        encode_frame(FrameType.OUTPUT, b"x", stream=3),
        encode_frame(FrameType.EXIT, b"\0\0", stream=1),
        encode_frame(FrameType.EXIT, b"\x02\0"),
        encode_frame(FrameType.EXIT, b"\0"),
        encode_frame(FrameType.STARTED, bytes(47)),
        encode_frame(FrameType.STARTED, bytes(48)) * 2,
        encode_frame(FrameType.STDIN_ACK, struct.pack("<I", 1)),
        encode_frame(FrameType.FAIL, b"\0"),
        encode_frame(FrameType.NOTE, b"n" * 513),
        HEADER.pack(FrameType.OUTPUT, 1, 1, 0),
        HEADER.pack(FrameType.OUTPUT, 1, 0, 65537),
        b"\0" * 8,
    ],
)
def test_a_frame_that_breaks_a_rule_is_refused(data):
    with pytest.raises(FormatError):
        feed(data)


def test_stdin_is_never_sent_beyond_the_window():
    link = GuestLink()
    link.send_stdin(b"x" * STDIN_WINDOW)

    assert link.stdin_room() == 0

    link.sent(len(link.outgoing))
    feed(encode_frame(FrameType.STDIN_ACK, struct.pack("<I", 100)), link)

    assert link.stdin_room() == 100


def test_the_end_of_stdin_is_a_frame_of_its_own():
    link = GuestLink()
    link.send_stdin(b"ab")
    link.send_stdin(b"")

    assert frames(link.outgoing) == [(FrameType.STDIN, b"ab"), (FrameType.STDIN_EOF, b"")]


def test_a_flood_of_signals_is_kept_within_bounds_and_loses_none_of_its_kinds():
    link = GuestLink()
    for _ in range(20_000):
        for number in (10, 12, 15):
            link.send_signal(number)

    assert len(link.outgoing) <= MAX_OUTGOING + HEADER.size + 1

    sent = b""
    while link.outgoing:
        sent += bytes(link.outgoing[:1000])
        link.sent(min(1000, len(link.outgoing)))

    kinds = [payload[0] for kind, payload in frames(sent) if kind == FrameType.SIGNAL]
    assert sorted(set(kinds)) == [10, 12, 15]


def test_a_note_is_made_safe_to_print():
    assert feed(encode_frame(FrameType.NOTE, b"a\x1b[2Jb\n")) == [Note("a?[2Jb?")]
