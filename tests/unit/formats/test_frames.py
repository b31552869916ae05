import pytest
from hypothesis import given
from hypothesis import strategies as st

from krunpy.core.errors import FormatError
from krunpy.core.octets import Digest32, Nonce, PublicKey32
from krunpy.formats import frames
from krunpy.formats.binding import make_report_data, make_signed_message, make_transcript
from krunpy.formats.manifest import MAX_MANIFEST

PARSERS = (
    frames.parse_guest_header,
    frames.parse_hello,
    frames.parse_started,
    frames.parse_exit,
    frames.parse_failure,
    frames.parse_text,
    frames.parse_stdin_ack,
    frames.parse_items,
    frames.parse_evidence,
)


@given(st.sampled_from(PARSERS), st.binary(max_size=200))
def test_any_bytes_give_a_value_or_a_format_error(parse, data):
    try:
        parse(data)
    except FormatError:
        pass


def test_a_frame_reads_back_as_it_was_written():
    data = frames.encode_frame(frames.FrameType.OUTPUT, b"hi", stream=2)

    assert frames.parse_guest_header(data[:8]) == (frames.FrameType.OUTPUT, 2, 2)
    assert data[8:] == b"hi"


def test_a_frame_of_the_host_is_not_taken_from_the_guest():
    with pytest.raises(FormatError, match="0x83"):
        frames.parse_guest_header(frames.encode_frame(frames.FrameType.RELEASE)[:8])


def test_a_frame_longer_than_the_limit_is_refused():
    with pytest.raises(FormatError, match="length 65537"):
        frames.parse_guest_header(b"\x05\x01\x00\x00\x01\x00\x01\x00")
    with pytest.raises(ValueError, match="at most"):
        frames.encode_frame(frames.FrameType.STDIN, bytes(65537))


def test_the_frame_of_a_manifest_holds_every_manifest_and_no_more():
    assert frames.MAX_MANIFEST_PAYLOAD == MAX_MANIFEST
    assert len(frames.encode_frame(frames.FrameType.MANIFEST, bytes(MAX_MANIFEST))) == 8 + MAX_MANIFEST
    with pytest.raises(ValueError, match="at most 262144"):
        frames.encode_frame(frames.FrameType.MANIFEST, bytes(MAX_MANIFEST + 1))


@given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=50)), max_size=5))
def test_items_read_back_as_they_were_written(items):
    assert frames.parse_items(frames.encode_items(items)) == items


@given(st.binary(max_size=50), st.binary(max_size=50))
def test_evidence_reads_back_as_it_was_written(report, certificates):
    assert frames.parse_evidence(frames.encode_evidence(report, certificates)) == (report, certificates)


def test_text_of_the_guest_cannot_steer_a_terminal():
    assert frames.parse_text(b"a\x1b[31mb\n\xff") == "a?[31mb?�"


def test_exit_codes_and_signals_are_counted_as_engines_do():
    assert frames.parse_exit(b"\x00\x2a") == 42
    assert frames.parse_exit(b"\x01\x09") == 137


def test_every_input_changes_report_data_and_transcript():
    nonce, key, digest = Nonce(b"n" * 32), PublicKey32(b"k" * 32), Digest32(b"m" * 32)
    other = b"x" * 32
    variants = [(nonce, key, digest), (Nonce(other), key, digest), (nonce, PublicKey32(other), digest)]
    variants += [(nonce, key, Digest32(other)), (Nonce(key), PublicKey32(nonce), digest)]

    assert len({make_report_data(*item) for item in variants}) == len(variants)
    assert len({make_transcript(*item) for item in variants}) == len(variants)


def test_the_binding_is_the_documented_one():
    import hashlib

    nonce, key, digest = Nonce(b"n" * 32), PublicKey32(b"k" * 32), Digest32(b"m" * 32)

    def prefixed(*parts):
        return b"".join(len(part).to_bytes(4, "little") + part for part in parts)

    assert (
        make_report_data(nonce, key, digest)
        == hashlib.sha512(prefixed(b"krunpy report_data v1", b"n" * 32, b"k" * 32, b"m" * 32)).digest()
    )
    transcript = make_transcript(nonce, key, digest)
    assert (
        transcript == hashlib.sha256(prefixed(b"krunpy release v1", b"n" * 32, b"k" * 32, b"m" * 32)).digest()
    )
    assert make_signed_message(transcript, b"s") == b"krunpy release signature v1" + transcript + b"s"
