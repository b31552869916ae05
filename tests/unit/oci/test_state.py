import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krunpy.core.errors import FormatError, StateError
from krunpy.oci import state
from krunpy.oci.state import CREATED, CREATING, RUNNING, STOPPED, Record

TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"))


def make_record(**changes):
    fields = {
        "id": "c1",
        "pid": 7,
        "start_time": 99,
        "bundle": "/b",
        "rootfs": "/b/rootfs",
        "created": "2026-01-02T03:04:05Z",
        "contained": True,
    }
    return Record(**{**fields, **changes})


@given(bundle=TEXT, rootfs=TEXT)
def test_a_record_survives_any_path(bundle, rootfs):
    record = make_record(bundle=bundle, rootfs=rootfs)

    again = state.parse_record(state.encode_record(record))

    assert (again.bundle, again.rootfs, again.pid, again.start_time) == (bundle, rootfs, 7, 99)
    assert again.contained is True


@given(st.binary(max_size=300))
def test_any_bytes_are_a_record_or_a_format_error(contents):
    try:
        state.parse_record(contents)
    except FormatError:
        return


@pytest.mark.parametrize("field", ["id", "pid", "start_time", "bundle", "rootfs", "created", "contained"])
def test_a_record_without_one_field_is_refused(field):
    lines = state.encode_record(make_record()).decode().splitlines()
    rest = "\n".join(line for line in lines if not line.startswith(f"{field}="))

    with pytest.raises(FormatError, match=field):
        state.parse_record(rest.encode())


@pytest.mark.parametrize("pid", ["-1", "1e3", "", "9" * 30, "\u0663"])
def test_a_pid_that_is_no_number_is_refused(pid):
    contents = state.encode_record(make_record()).replace(b"pid=7", f"pid={pid}".encode())

    with pytest.raises(FormatError):
        state.parse_record(contents)


def test_a_record_that_is_too_long_is_refused():
    with pytest.raises(FormatError, match="at most"):
        state.parse_record(b"x" * (state.MAX_RECORD + 1))


@given(st.text())
def test_quote_writes_json_that_reads_back(text):
    assert json.loads(state.quote(text)) == text


@pytest.mark.parametrize("status", [CREATED, RUNNING])
def test_the_state_of_a_live_container_has_its_pid(status):
    shown = json.loads(state.encode_state(make_record(bundle='/b"\n'), status, b'{"a": "b"}'))

    assert shown["pid"] == 7
    assert shown["status"] == status
    assert shown["bundle"] == '/b"\n'
    assert shown["annotations"] == {"a": "b"}


def test_the_state_of_a_stopped_container_has_no_pid():
    assert "pid" not in json.loads(state.encode_state(make_record(), STOPPED, b""))


@pytest.mark.parametrize("container_id", ["", ".", "..", "a/b", "a b", "a" * 256, "ä", "a\n"])
def test_an_id_that_is_no_directory_name_is_refused(container_id):
    with pytest.raises(StateError):
        state.require_id(container_id)


@pytest.mark.parametrize("container_id", ["a", "A_b-c.d+e", "0" * 64, "..."])
def test_an_ordinary_id_is_taken(container_id):
    state.require_id(container_id)


@pytest.mark.parametrize(
    ("record", "alive", "fifo", "status"),
    [
        (False, False, True, CREATING),
        (False, True, False, CREATING),
        (True, True, True, CREATED),
        (True, True, False, RUNNING),
        (True, False, True, STOPPED),
        (True, False, False, STOPPED),
    ],
)
def test_the_status_follows_from_what_is_seen(record, alive, fifo, status):
    assert state.derive_status(has_record=record, is_alive=alive, has_fifo=fifo) == status


@pytest.mark.parametrize("verb", list(state.TRANSITIONS))
@pytest.mark.parametrize("status", state.STATUSES)
def test_a_verb_is_allowed_exactly_where_the_table_says(verb, status):
    if status in state.TRANSITIONS[verb]:
        state.require_allowed(verb, "c1", status)
        return
    with pytest.raises(StateError, match=f"it is {status}, wanted"):
        state.require_allowed(verb, "c1", status)


def test_a_running_container_is_neither_started_nor_deleted():
    for verb in ("start", "delete"):
        with pytest.raises(StateError):
            state.require_allowed(verb, "c1", RUNNING)


def test_the_state_root_follows_crun():
    assert state.find_state_root({"XDG_RUNTIME_DIR": "/run/user/7"}) == "/run/user/7/krunpy"
    assert state.find_state_root({"XDG_RUNTIME_DIR": ""}) == "/run/krunpy"
    assert state.find_state_root({}) == "/run/krunpy"
