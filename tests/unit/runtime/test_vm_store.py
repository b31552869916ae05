"""Named machines on disk: whole records, one maker, one holder, and bytes from outside."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krunpy.core.errors import FormatError, StateError, UsageError
from krunpy.runtime.vm_record import (
    VmDefaults,
    VmRecord,
    encode_record,
    parse_defaults,
    parse_record,
    require_name,
)
from krunpy.runtime.vm_shares import Volume
from krunpy.runtime.vm_store import VmStore

if TYPE_CHECKING:
    from pathlib import Path

WEB = VmRecord(
    name="web",
    source="dir:/srv/root",
    image="ab" * 32,
    fingerprint="cd" * 32,
    user=(33, 33, (4, 5)),
    cpus=2,
    memory_mib=256,
    workdir="/srv",
    env=("A=b",),
    args=("serve", "--é"),
    volumes=(Volume(host="/h:x", guest="/data", is_read_only=True),),
    ports=((8080, 80),),
    dns="9.9.9.9",
)


@pytest.fixture
def store(tmp_path: Path) -> VmStore:
    return VmStore(str(tmp_path / "vms"), lambda name: name == "alive")


def test_a_record_is_read_as_it_was_written(store: VmStore) -> None:
    assert store.create(WEB)

    assert store.load("web") == WEB
    assert store.list_names() == ["web"]


def test_the_same_machine_again_is_no_change_and_another_is_refused(store: VmStore) -> None:
    store.create(WEB)

    assert not store.create(WEB)
    with pytest.raises(StateError, match="cpus 2, wanted 3") as caught:
        store.create(replace(WEB, cpus=3))
    assert caught.value.next.startswith("`krunpy vm changevm web`")
    assert store.load("web") == WEB


def test_of_many_makers_of_one_name_one_wins_and_the_rest_is_told(store: VmStore) -> None:
    made: list[bool | str] = []

    def make(cpus: int) -> None:
        try:
            made.append(store.create(replace(WEB, cpus=cpus)))
        except StateError as error:
            made.append(error.what)

    threads = [threading.Thread(target=make, args=(cpus,)) for cpus in range(1, 17)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert made.count(True) == 1
    assert made.count("cannot create VM web") == 15


def test_changes_at_the_same_time_are_all_kept(store: VmStore) -> None:
    store.create(replace(WEB, env=()))

    def add(number: int) -> None:
        store.change("web", lambda kept: replace(kept, env=(*kept.env, f"V{number}=x")))

    threads = [threading.Thread(target=add, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(store.load("web").env) == 16


def test_a_machine_that_runs_is_neither_started_changed_nor_deleted(store: VmStore) -> None:
    store.create(WEB)
    record, held = store.hold("web")

    assert record == WEB
    assert store.is_running("web")
    for verb in (store.hold, store.delete, lambda name: store.change(name, lambda kept: kept)):
        with pytest.raises(StateError, match="it is running"):
            verb("web")
    os.close(held)
    assert not store.is_running("web")
    store.delete("web")
    assert os.listdir(store._directory) == [".lock"]


def test_a_machine_that_lives_on_without_its_holder_counts_as_running(store: VmStore) -> None:
    store.create(replace(WEB, name="alive"))

    with pytest.raises(StateError, match="it is running"):
        store.hold("alive")


def test_a_machine_is_renamed_but_not_over_another(store: VmStore) -> None:
    store.create(WEB)
    store.create(replace(WEB, name="db"))

    with pytest.raises(StateError, match="there is one named db"):
        store.change("web", lambda kept: replace(kept, name="db"))
    store.change("web", lambda kept: replace(kept, name="www"))

    assert store.list_names() == ["db", "www"]
    assert store.load("www") == replace(WEB, name="www")


def test_a_change_that_cannot_be_leaves_the_record(store: VmStore) -> None:
    store.create(WEB)

    with pytest.raises(UsageError):
        store.change("web", lambda kept: replace(kept, ports=((1, 2), (1, 3))))

    assert store.load("web") == WEB


def test_taking_the_ports_away_takes_the_network_they_brought() -> None:
    assert WEB.shares.has_network
    assert not replace(WEB, ports=(), dns="").shares.has_network


@pytest.mark.parametrize("name", ["", ".", "..", ".lock", "a/b", "../x", "a\0", "-a", "a" * 64, "é", "a\n"])
def test_a_name_that_could_be_a_path_or_a_flag_is_refused(store: VmStore, name: str) -> None:
    for verb in (require_name, store.load, store.delete, store.hold):
        with pytest.raises(UsageError, match="cannot use the name"):
            verb(name)


def test_what_does_not_exist_is_said(store: VmStore) -> None:
    for verb in (store.load, store.delete, store.hold):
        with pytest.raises(StateError, match="none of this name"):
            verb("nope")


def test_a_damaged_record_is_said_and_can_be_deleted(store: VmStore, tmp_path: Path) -> None:
    store.create(WEB)
    (tmp_path / "vms/web.json").write_bytes(encode_record(replace(WEB, name="other")))

    with pytest.raises(FormatError, match="the record of other") as caught:
        store.load("web")
    assert caught.value.next == "`krunpy vm delete web` and create it again"
    store.delete("web")
    assert store.list_names() == []


def test_half_a_record_is_a_format_error_that_says_how_to_mend_it(store: VmStore, tmp_path: Path) -> None:
    store.create(WEB)
    (tmp_path / "vms/web.json").write_bytes(encode_record(WEB)[:40])

    with pytest.raises(FormatError, match="not JSON") as caught:
        store.load("web")

    assert caught.value.next == "`krunpy vm delete web` and create it again"


def test_every_member_of_a_record_is_required_and_no_other_is_taken() -> None:
    whole = json.loads(encode_record(WEB))

    for name in whole:
        with pytest.raises(FormatError):
            parse_record(
                json.dumps({key: value for key, value in whole.items() if key != name}).encode(), "x"
            )
        with pytest.raises(FormatError):
            parse_record(json.dumps({**whole, name: [{}]}).encode(), "x")
    with pytest.raises(FormatError, match="unknown members"):
        parse_record(json.dumps({**whole, "more": 1}).encode(), "x")


@given(st.binary() | st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists).map(
    lambda value: json.dumps(value).encode()
))  # fmt: skip
def test_any_bytes_are_a_record_or_a_format_error(data: bytes) -> None:
    for parse in (parse_record, parse_defaults):
        with pytest.raises(FormatError):
            parse(data, "x")


def test_defaults_are_kept(store: VmStore) -> None:
    assert store.load_defaults() == VmDefaults()

    store.change_defaults(lambda kept: replace(kept, cpus=3))
    store.change_defaults(lambda kept: replace(kept, dns="9.9.9.9"))

    assert store.load_defaults() == VmDefaults(cpus=3, dns="9.9.9.9")
    assert store.list_names() == []
