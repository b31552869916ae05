"""Host settings (RUN) in the agent: the host gets what the manifest allows; the rest is said by name."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from agent_samples import FULL
from hypothesis import given, settings
from hypothesis import strategies as st

from krunpy.formats.manifest import Overrides, Process, encode_manifest

if TYPE_CHECKING:
    from conftest import Tool

    from krunpy.formats.manifest import Manifest

HOSTNAME, ENV, ARG, STDIN_EMPTY = 1, 2, 3, 4
SETTINGS = "12"
PROCESS = Process(args=("serve", "--now"), env=("PATH=/bin", "A=own"))
OPEN = replace(
    FULL,
    process=PROCESS,
    hostname="",
    overrides=Overrides(args=True, env=("A", "NEW"), etc=True, hostname=True),
)
CLOSED = replace(OPEN, overrides=Overrides())


def _item(tag: int, value: bytes = b"") -> bytes:
    return struct.pack("<BBH", tag, 0, len(value)) + value


def _stdin(manifest: Manifest, *items: bytes) -> bytes:
    document = encode_manifest(manifest)
    return struct.pack("<I", len(document)) + document + b"".join(items)


def _run(tool: Tool, manifest: Manifest, *items: bytes) -> dict[str, list[str]]:
    answer: dict[str, list[str]] = {"note": [], "arg": [], "env": [], "hostname": [], "stdin_empty": []}
    for name, value in tool.accept("run", _stdin(manifest, *items)):
        answer.setdefault(name, [])
        answer[name].append(value if name == "stdin_empty" else bytes.fromhex(value).decode())
    return answer


def test_a_silent_host_leaves_the_manifest_as_it_is(tool: Tool) -> None:
    answer = _run(tool, CLOSED)

    assert answer["arg"] == ["serve", "--now"]
    assert answer["env"] == ["PATH=/bin", "A=own"]
    assert answer["hostname"] == ["krunpy"]
    assert answer["stdin_empty"] == ["0"]
    assert answer["note"] == []


def test_an_open_manifest_takes_what_it_names(tool: Tool) -> None:
    answer = _run(
        tool,
        OPEN,
        _item(HOSTNAME, b"box-1"),
        _item(ENV, b"A=host"),
        _item(ENV, b"NEW=1=2"),
        _item(ARG, b"other"),
        _item(ARG, b""),
        _item(STDIN_EMPTY),
    )

    assert answer["arg"] == ["other", ""]
    assert answer["env"] == ["PATH=/bin", "A=host", "NEW=1=2", "HOSTNAME=box-1"]
    assert answer["hostname"] == ["box-1"]
    assert answer["stdin_empty"] == ["1"]
    assert answer["note"] == []


def test_a_closed_manifest_refuses_each_setting_by_name_and_without_its_value(tool: Tool) -> None:
    answer = _run(
        tool,
        CLOSED,
        _item(HOSTNAME, b"box"),
        _item(ENV, b"A=secret"),
        _item(ENV, b"LD_PRELOAD=/x"),
        _item(ARG, b"evil"),
    )

    assert answer["arg"] == ["serve", "--now"]
    assert answer["env"] == ["PATH=/bin", "A=own"]
    assert answer["hostname"] == ["krunpy"]
    assert [note.split(" ")[0] for note in answer["note"]] == ["hostname", "args", "A", "LD_PRELOAD"]
    assert not any("secret" in note for note in answer["note"])


def test_files_of_etc_are_taken_only_if_the_manifest_lets_the_host_give_them(tool: Tool) -> None:
    files = (_item(5, b"127.0.0.1 localhost\n"), _item(6, b""), _item(7, b"box"))

    taken, refused = _run(tool, OPEN, *files), _run(tool, CLOSED, *files)

    assert taken["/etc/hosts"] == ["127.0.0.1 localhost\n"]
    assert (taken["/etc/resolv.conf"], taken["/etc/hostname"], taken["note"]) == ([""], ["box"], [])
    assert not refused.keys() & {"/etc/hosts", "/etc/resolv.conf", "/etc/hostname"}
    assert [note.split(" ")[0] for note in refused["note"]] == [
        "/etc/hosts",
        "/etc/resolv.conf",
        "/etc/hostname",
    ]


def test_a_setting_that_changes_nothing_is_no_news(tool: Tool) -> None:
    same = (_item(HOSTNAME, b"krunpy"), _item(ENV, b"A=own"), _item(ARG, b"serve"), _item(ARG, b"--now"))

    assert _run(tool, CLOSED, *same)["note"] == []


def test_a_name_is_allowed_whole_and_not_by_its_beginning(tool: Tool) -> None:
    answer = _run(tool, OPEN, _item(ENV, b"AB=1"), _item(ENV, b"NE=1"), _item(ENV, b"PAT=1"))

    assert len(answer["note"]) == 3
    assert answer["env"] == ["PATH=/bin", "A=own", "HOSTNAME=krunpy"]


def test_hostname_as_a_variable_follows_the_hostname(tool: Tool) -> None:
    box = _item(HOSTNAME, b"box")

    assert _run(tool, OPEN, box, _item(ENV, b"HOSTNAME=box"))["env"][-1] == "HOSTNAME=box"
    assert _run(tool, OPEN, box, _item(ENV, b"HOSTNAME=other"))["note"] != []
    assert "HOSTNAME" not in "".join(_run(tool, CLOSED)["env"])


@pytest.mark.parametrize(
    "items",
    [
        b"\x01",
        b"\x02\x01\x03\x00A=b",
        _item(ENV, b"A=b")[:-1],
        _item(0, b""),
        _item(8, b""),
        _item(ENV, b"A"),
        _item(ENV, b"=A"),
        _item(ENV, b"A=\0"),
        _item(HOSTNAME, b""),
        _item(HOSTNAME, b"a b"),
        _item(HOSTNAME, b"x" * 65),
        _item(HOSTNAME, b"a") * 2,
        _item(STDIN_EMPTY, b"x"),
        _item(ENV, b"A=b") * 1025,
    ],
)
def test_items_that_break_a_rule_end_the_machine(tool: Tool, items: bytes) -> None:
    assert tool.refuse("run", _stdin(OPEN, items))[0][0] == SETTINGS


@settings(max_examples=150, deadline=None)
@given(
    items=st.lists(st.tuples(st.integers(1, 3), st.binary(max_size=30)), max_size=8),
    tail=st.binary(max_size=5),
)
def test_no_bytes_of_the_host_change_a_closed_manifest(
    tool: Tool, items: list[tuple[int, bytes]], tail: bytes
) -> None:
    stdin = _stdin(CLOSED, *(_item(tag, value) for tag, value in items), tail)

    code, lines = tool.run("run", stdin)

    kept = [(name, value) for name, value in lines if name not in {"note", "stdin_empty"}]
    untouched = tool.accept("run", _stdin(CLOSED))
    assert code == 1 or kept == [pair for pair in untouched if pair[0] != "stdin_empty"]


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("mode=1777,size=64m", "mode=1777,size=64m"),
        ("", ""),
        ("rw,nosuid,size=1m,rprivate", "size=1m"),
        ("size=1m,,mode=0700", "size=1m,mode=0700"),
    ],
)
def test_tmpfs_options_are_split_into_flags_and_data(tool: Tool, text: str, data: str) -> None:
    assert dict(tool.accept("options", text.encode()))["data"] == data.encode().hex()


def test_tmpfs_flags_are_those_of_mount(tool: Tool) -> None:
    flags = {"ro": 1, "nosuid": 2, "nodev": 4, "noexec": 8, "ro,rw": 0, "nosuid,nodev,noexec": 14}

    for text, number in flags.items():
        assert dict(tool.accept("options", text.encode()))["flags"] == str(number)


@pytest.mark.parametrize("text", ["bogus", "size", "mode=1,tmpcopyup", "x" * 512])
def test_an_unknown_tmpfs_option_is_refused_by_name(tool: Tool, text: str) -> None:
    assert tool.refuse("options", text.encode())[0][0] == "unknown"


@settings(max_examples=150, deadline=None)
@given(text=st.binary(max_size=700))
def test_text_from_outside_becomes_one_printable_line(tool: Tool, text: bytes) -> None:
    line = bytes.fromhex(dict(tool.accept("clean", text))["text"]).decode()

    assert len(line.encode()) <= 512
    assert not any(ord(character) < 32 or ord(character) == 127 for character in line)
