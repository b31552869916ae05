"""The agent's manifest reader against krunpy.formats.manifest: same documents, same values."""

from __future__ import annotations

import os
import resource
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from agent_samples import CAPABILITIES, DISK, FULL
from hypothesis import given, settings
from hypothesis import strategies as st

from krunpy.core.errors import FormatError
from krunpy.formats.manifest import Manifest, Process, Rlimit, encode_manifest, parse_manifest

if TYPE_CHECKING:
    from conftest import Tool

MANIFEST = "2"
MANIFEST_MAX = 256 * 1024  # bytes
TEE_BITS = {"software": 1, "snp": 2, "tdx": 4}
CAPABILITY_BITS = {"CAP_CHOWN": 1, "CAP_KILL": 1 << 5, "CAP_CHECKPOINT_RESTORE": 1 << 40}


def _dump(manifest: Manifest) -> list[tuple[str, str]]:
    """Return what agent-tool prints for a manifest."""

    def text(name: str, *values: str) -> list[tuple[str, str]]:
        return [(name, value.encode().hex()) for value in values]

    def number(name: str, *values: int) -> list[tuple[str, str]]:
        return [(name, str(int(value))) for value in values]

    disk, process = manifest.disk, manifest.process
    return [
        *number("encrypted", disk.cipher != "none"),
        *number("data_blocks", disk.data_blocks),
        *number("hash_start_block", disk.hash_start_block),
        *number("payload_offset", disk.payload_offset),
        *number("payload_size", disk.payload_size),
        ("root_hash", disk.root_hash.hex()),
        ("salt", disk.salt.hex()),
        *text("hostname", manifest.hostname),
        *text("masked", *manifest.masked_paths),
        *text("readonly", *manifest.readonly_paths),
        *number("readonly_root", manifest.readonly_root),
        *(
            pair
            for item in manifest.mounts
            for pair in text("mount", item.path) + text("options", item.options)
        ),
        *number("override_args", manifest.overrides.args),
        *text("override_env", *manifest.overrides.env),
        *number("override_etc", manifest.overrides.etc),
        *number("override_hostname", manifest.overrides.hostname),
        *text("arg", *process.args),
        *text("env", *process.env),
        *text("cwd", process.cwd),
        *number("capabilities", sum(CAPABILITY_BITS[name] for name in process.capabilities)),
        *number("uid", process.uid),
        *number("gid", process.gid),
        *number("umask", process.umask),
        *number("group", *process.groups),
        *(("rlimit", f"{getattr(resource, x.type)} {x.soft} {x.hard}") for x in process.rlimits),
        *number("no_new_privileges", process.no_new_privileges),
        ("server_key", manifest.server.key.hex()),
        *text("server_url", manifest.server.url),
        *number("tees", sum(TEE_BITS[name] for name in manifest.tees)),
        *text("workload", manifest.workload),
    ]


def test_the_agent_reads_every_member_of_a_manifest(tool: Tool) -> None:
    assert tool.accept("manifest", encode_manifest(FULL)) == _dump(FULL)


def test_the_agent_reads_a_manifest_of_defaults(tool: Tool) -> None:
    disk = replace(DISK, cipher="none", key_size=0, payload_offset=0)
    plain = Manifest(
        workload="a", disk=disk, process=Process(args=("x",)), server=FULL.server, tees=("software",)
    )

    assert tool.accept("manifest", encode_manifest(plain)) == _dump(plain)


words = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)


@settings(max_examples=80, deadline=None)
@given(
    args=st.lists(words, max_size=5),
    values=st.lists(words, max_size=4),
    groups=st.lists(st.integers(0, 2**32 - 2), max_size=4),
    soft=st.integers(0, 2**64 - 1),
    names=st.sets(st.sampled_from(CAPABILITIES)),
)
def test_any_text_and_number_means_the_same_to_python_and_to_the_agent(
    tool: Tool, args: list[str], values: list[str], groups: list[int], soft: int, names: set[str]
) -> None:
    process = replace(
        FULL.process,
        args=("x", *args),
        env=tuple(f"N={value}" for value in values),
        groups=tuple(groups),
        rlimits=(Rlimit(type="RLIMIT_CORE", soft=soft, hard=soft),),
        capabilities=tuple(sorted(names)),
    )
    manifest = replace(FULL, process=process)

    assert tool.accept("manifest", encode_manifest(manifest)) == _dump(manifest)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_the_agent_accepts_no_bytes_that_python_refuses(tool: Tool, data: st.DataObject) -> None:
    document = bytearray(encode_manifest(FULL))
    at = data.draw(st.integers(0, len(document) - 1))
    insert = data.draw(
        st.sampled_from([b"", b" ", b"0", b",", b"-", b".0", b"e1", b"\\u00e9", b"\\/", b'""', b"\x7f"])
    )
    document[at : at + data.draw(st.integers(0, 2))] = insert + data.draw(st.binary(max_size=1))

    code, lines = tool.run("manifest", bytes(document))

    if code == 0:
        assert lines == _dump(parse_manifest(bytes(document)))
    else:
        assert lines[0][0] == MANIFEST


def _swap(old: bytes, new: bytes) -> bytes:
    document = encode_manifest(FULL)
    assert document.count(old) >= 1, old
    return document.replace(old, new, 1)


NOT_CANONICAL = {
    "a blank": (b'"version":1', b'"version": 1'),
    "a float": (b'"version":1', b'"version":1.0'),
    "an exponent": (b'"data_blocks":100', b'"data_blocks":1e2'),
    "a leading zero": (b'"data_blocks":100', b'"data_blocks":0100'),
    "minus zero": (b'"payload_offset":4096', b'"payload_offset":-0'),
    "null": (b'"hostname":"box"', b'"hostname":null'),
    "an escape without need": (b'"hostname":"box"', b'"hostname":"b\\u006fx"'),
    "an escaped slash": (b'"cwd":"/srv', b'"cwd":"\\/srv'),
    "a long escape of a newline": (b"\\n", b"\\u000a"),
    "an escape in capitals": (b"\\n", b"\\u001F"),
    "NUL": (b"\\n", b"\\u0000"),
    "half of a surrogate pair": (b"\\n", b"\\ud800"),
    "half of a surrogate pair in UTF-8": ("é".encode(), b"\xed\xa0\x80"),
    "an overlong form": ("é".encode(), b"\xc1\xbf"),
    "a raw control character": (b"\\n", b"\n"),
    "a duplicate key": (b'"version":1', b'"version":1,"version":1'),
    "an unknown key": (b'"version":1', b'"verzion":0,"version":1'),
    "a key less": (b'"readonly_root":true,', b""),
    "a trailing comma": (b'"B"]', b'"B",]'),
    "capital hex": (b"0a0b0c", b"0A0B0C"),
}


@pytest.mark.parametrize("name", NOT_CANONICAL)
def test_bytes_that_are_not_the_canonical_form_are_refused(tool: Tool, name: str) -> None:
    document = _swap(*NOT_CANONICAL[name])

    assert tool.refuse("manifest", document)[0][0] == MANIFEST
    with pytest.raises(FormatError):
        parse_manifest(document)


OUT_OF_RANGE = {
    "another version": (b'"version":1', b'"version":2'),
    "another block size": (b'"block_size":4096', b'"block_size":512'),
    "another cipher": (b"aes-xts-plain64", b"aes-cbc-plain64"),
    "a key size that does not fit": (b'"key_size":64', b'"key_size":32'),
    "no blocks": (b'"data_blocks":100', b'"data_blocks":0'),
    "a tree inside the data": (b'"hash_start_block":101', b'"hash_start_block":99'),
    "a payload past the data": (b'"payload_size":8192', b'"payload_size":409600'),
    "a payload that wraps round": (b'"payload_size":8192', b'"payload_size":18446744073709547520'),
    "half a block": (b'"payload_offset":4096', b'"payload_offset":512'),
    "a number over 64 bits": (b'"payload_offset":4096', b'"payload_offset":18446744073709551616'),
    "another file system": (b'"erofs"', b'"ext4"'),
    "a relative directory": (b'"cwd":"/srv/a"', b'"cwd":"srv/a"'),
    "a path that climbs": (b'"path":"/tmp"', b'"path":"/../tmp"'),
    "a variable without a name": (b'"EMPTY="', b'"=EMPTY"'),
    "a umask over 0777": (b'"umask":63', b'"umask":512'),
    "a user -1": (b'"uid":1000', b'"uid":4294967295'),
    "an unknown TEE": (b'"tdx"]', b'"sgx"]'),
    "no command": (b'"args":["sh"', b'"args":[""'),
    "an odd workload id": (b'"workload":"web', b'"workload":"-web'),
}


@pytest.mark.parametrize("name", OUT_OF_RANGE)
def test_values_out_of_range_are_refused_by_both(tool: Tool, name: str) -> None:
    document = _swap(*OUT_OF_RANGE[name])

    assert tool.refuse("manifest", document)[0][0] == MANIFEST
    with pytest.raises(FormatError):
        parse_manifest(document)


@pytest.mark.parametrize(
    ("old", "new"),
    [(b"CAP_KILL", b"CAP_KILT"), (b"RLIMIT_NOFILE", b"RLIMIT_NOFIRE"), (b'block":101', b'block":100')],
)
def test_the_agent_refuses_what_it_could_not_obey(tool: Tool, old: bytes, new: bytes) -> None:
    assert tool.refuse("manifest", _swap(old, new))[0][0] == MANIFEST


def test_a_manifest_over_256_kib_is_refused(tool: Tool) -> None:
    room = MANIFEST_MAX - len(encode_manifest(FULL))
    largest = _swap(b'"/srv/a"', b'"/srv/a' + b"x" * room + b'"')

    assert len(largest) == MANIFEST_MAX
    tool.accept("manifest", largest)
    tool.refuse("manifest", largest.replace(b"/srv/a", b"/srv/aa", 1))


def test_every_truncation_is_refused(tool: Tool) -> None:
    document = encode_manifest(FULL)

    for length in range(0, len(document), 7):
        tool.refuse("manifest", document[:length])
    tool.refuse("manifest", document + b"\n")
    tool.refuse("manifest", os.urandom(1000))
