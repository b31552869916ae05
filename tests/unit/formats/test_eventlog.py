"""Event logs: both forms give the same events, and any bytes give events or a FormatError."""

import contextlib
import json
import struct
from hashlib import sha384

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krunpy.core.errors import FormatError
from krunpy.core.octets import Digest48
from krunpy.formats.eventlog import LARGEST_LOG, Event, EventType, pack_ccel, parse_ccel
from krunpy.formats.eventlog_dstack import make_preimage, parse_dstack_log, parse_event_log

RUNTIME = int(EventType.DSTACK_RUNTIME)


def make_event(register: int, kind: int, data: bytes, hashed: bytes | None = None) -> Event:
    digest = Digest48(sha384(data if hashed is None else hashed).digest())
    return Event(register=register, kind=kind, digest=digest, data=data, hashed=data)


EVENTS = (
    make_event(1, EventType.EFI_VARIABLE_DRIVER_CONFIG, b"a variable"),
    make_event(2, EventType.SEPARATOR, bytes(4)),
    make_event(3, EventType.EVENT_TAG, b"LOADED_IMAGE::LoadOptions", hashed=b"the options"),
    make_event(0, EventType.NO_ACTION, b""),
)
LOG = pack_ccel(EVENTS)


def header(
    *, kind: int = 3, signature: bytes = b"Spec ID Event03\0", pairs: tuple = ((12, 48),), more: bytes = b"\0"
):
    body = signature + struct.pack("<IBBBBI", 0, 0, 2, 0, 2, len(pairs))
    body += b"".join(struct.pack("<HH", *pair) for pair in pairs) + more
    return struct.pack("<II20sI", 1, kind, bytes(20), len(body)) + body


def record(
    digests: list[tuple[int, bytes]], *, register: int = 1, data: bytes = b"x", size: int | None = None
):
    packed = b"".join(struct.pack("<H", algorithm) + digest for algorithm, digest in digests)
    length = len(data) if size is None else size
    return struct.pack("<III", register, 4, len(digests)) + packed + struct.pack("<I", length) + data


def test_a_log_is_read_and_written_back() -> None:
    assert parse_ccel(LOG) == EVENTS


@pytest.mark.parametrize(
    "after", [b"", b"\xff" * 100, bytes(100), b"\xff\xff\xff\xff and what was there before"]
)
def test_what_follows_the_last_record_is_not_read(after: bytes) -> None:
    assert parse_ccel(LOG[:-4] + after) == EVENTS


def test_other_algorithms_are_passed_over() -> None:
    log = header(pairs=((11, 32), (12, 48))) + record([(11, b"a" * 32), (12, b"b" * 48)])

    assert [event.digest for event in parse_ccel(log)] == [b"b" * 48]


def test_data_are_vouched_for_only_where_the_digest_is_theirs() -> None:
    assert [event.is_vouched for event in parse_ccel(LOG)] == [True, True, False, True]


@pytest.mark.parametrize(
    ("log", "why"),
    [
        (b"", "wanted 32"),
        (LOG[:-5], "wanted"),
        (header(kind=4), "wanted EV_NO_ACTION"),
        (header(signature=b"Spec ID Event02\0"), "no Spec ID Event03"),
        (header(pairs=()), "0 algorithms"),
        (header(pairs=((12, 48), (12, 48))), "twice or out of range"),
        (header(pairs=((12, 48), (13, 65))), "twice or out of range"),
        (header(pairs=((11, 32),)), "do not have SHA-384"),
        (header(pairs=((12, 32),)), "do not have SHA-384"),
        (header(more=b"\0junk"), "after the header record"),
        (header() + record([(11, bytes(32))]), "not in the header record"),
        (header(pairs=((11, 32), (12, 48))) + record([(12, bytes(48)), (12, bytes(48))]), "twice"),
        (header() + record([(12, bytes(48))] * 2), "2 digests in one event"),
        (header(pairs=((11, 32), (12, 48))) + record([(11, bytes(32))]), "without a SHA-384"),
        (header() + record([]), "without a SHA-384"),
        (header() + record([(12, bytes(48))], register=5), "register 5"),
        (header() + record([(12, bytes(48))], size=0xFFFFFFFF), "wanted 4294967295"),
        (bytes(LARGEST_LOG + 1), "wanted at most"),
    ],
)
def test_a_log_that_is_not_one_is_refused(log: bytes, why: str) -> None:
    with pytest.raises(FormatError, match=why):
        parse_ccel(log)


def test_a_log_of_too_many_events_is_refused() -> None:
    with pytest.raises(FormatError, match="more than 16384 events"):
        parse_ccel(header() + record([(12, bytes(48))], data=b"") * 16385)


@given(st.binary(max_size=400))
def test_any_bytes_give_events_or_a_format_error(junk: bytes) -> None:
    for log in (junk, header() + junk, LOG[: len(junk)] + junk):
        with contextlib.suppress(FormatError):
            parse_event_log(log)


def runtime(name: str, payload: bytes, **more) -> dict:
    digest = sha384(make_preimage(name, payload, version=more.get("version", 1))).hexdigest()
    return {
        "imr": 3,
        "event_type": RUNTIME,
        "digest": digest,
        "event": name,
        "event_payload": payload.hex(),
    } | more


def parse(*events: dict) -> tuple[Event, ...]:
    return parse_event_log(json.dumps(events).encode())


def test_the_rule_of_dstack_is_type_name_and_payload() -> None:
    assert make_preimage("app-id", b"\xde\xad") == b"\x01\x00\x00\x08:app-id:\xde\xad"
    assert make_preimage("app-id", b"\xab", version=2) == (
        b'{"name":"app-id","payload":"ab","type":134217729}'
    )


def test_registers_of_the_json_form_begin_at_zero() -> None:
    boot = {
        "imr": 0,
        "event_type": 4,
        "digest": sha384(bytes(4)).hexdigest(),
        "event": "",
        "event_payload": "00000000",
    }

    events = parse(boot, runtime("app-id", b"1"))

    assert [event.register for event in events] == [1, 4]
    assert [event.is_vouched for event in events] == [True, True]
    assert events[1].name == "app-id"


def test_a_digest_that_was_left_out_follows_from_name_and_payload() -> None:
    whole = runtime("app-id", b"1")

    assert parse(whole | {"digest": ""}) == parse(whole)


def test_the_second_version_of_the_rule_is_known() -> None:
    event = runtime("app-id", b"1", version=2)
    event["preimage"] = make_preimage("app-id", b"1", version=2).hex()

    assert parse(event)[0].is_vouched


@pytest.mark.parametrize(
    "change",
    [
        {"event": "app-ie"},
        {"event_payload": "32"},
        {"digest": "00" * 48},
        {"version": 2},
        {"preimage": "00"},
    ],
)
def test_a_runtime_event_whose_digest_is_not_its_own_is_refused(change: dict) -> None:
    with pytest.raises(FormatError, match="does not follow from its name and payload"):
        parse(runtime("app-id", b"1") | change)


@pytest.mark.parametrize(
    "change",
    [
        {"imr": 4},
        {"imr": -1},
        {"imr": "0"},
        {"event_type": 2**32},
        {"digest": "00" * 47, "event_type": 4},
        {"digest": "", "event_type": 4},
        {"digest": "0 " * 48, "event_type": 4},
        {"event_payload": "0"},
        {"event_payload": "zz"},
        {"event": "\ud800"},
        {"version": 3},
        {"more": 1},
    ],
)
def test_a_json_event_that_is_not_one_is_refused(change: dict) -> None:
    with pytest.raises(FormatError):
        parse(runtime("app-id", b"1") | change)


@pytest.mark.parametrize(
    "log", [b"[", b"{}", b'{"event_log": 1}', b"\xff[", b'[{"imr": 0, "imr": 1}]', b"[" * 100000, b"[1]"]
)
def test_json_that_is_no_log_is_refused(log: bytes) -> None:
    with pytest.raises(FormatError):
        parse_dstack_log(log)


def test_a_log_is_taken_out_of_a_quote_response() -> None:
    events = [runtime("app-id", b"1")]

    for inner in (events, json.dumps(events)):
        assert parse_event_log(json.dumps({"quote": "00", "event_log": inner}).encode()) == parse(*events)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.sampled_from(["imr", "event", "digest", "x"]), inner)
        ),
        max_leaves=8,
    )
)
def test_any_json_gives_events_or_a_format_error(value: object) -> None:
    with contextlib.suppress(FormatError):
        parse_dstack_log(json.dumps([value]).encode())
