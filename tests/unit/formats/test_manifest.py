import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krunpy.core.errors import FormatError
from krunpy.core.octets import Digest32, PublicKey32
from krunpy.formats.canonical import encode_canonical, parse_canonical
from krunpy.formats.disk import Disk
from krunpy.formats.manifest import (
    Manifest,
    Process,
    ServerIdentity,
    TmpfsMount,
    encode_manifest,
    hash_manifest,
    parse_manifest,
)

DISK = Disk(
    data_blocks=1000,
    hash_start_block=1001,
    root_hash=Digest32(bytes(range(32))),
    salt=Digest32(bytes(32)),
    cipher="aes-xts-plain64",
    key_size=64,
    payload_offset=1 << 20,
    payload_size=4096 * 700,
)
MANIFEST = Manifest(
    workload="web",
    disk=DISK,
    process=Process(args=("sh", "-c", 'echo "ü\n\x01\x7f"'), env=("A=b",)),
    server=ServerIdentity(url="http://127.0.0.1:1", key=PublicKey32(b"k" * 32)),
    tees=("software",),
    mounts=(TmpfsMount(path="/tmp", options="size=1m"),),
)


def test_a_manifest_reads_back_as_it_was_written():
    assert parse_manifest(encode_manifest(MANIFEST)) == MANIFEST


def test_the_same_manifest_has_the_same_bytes_and_another_has_another_hash():
    data = encode_manifest(MANIFEST)

    assert data == encode_manifest(replace(MANIFEST))
    assert hash_manifest(data) != hash_manifest(encode_manifest(replace(MANIFEST, workload="web2")))


def test_bytes_that_are_not_the_canonical_form_are_refused():
    data = encode_manifest(MANIFEST)

    for other in (data + b"\n", data.replace(b'":', b'": ', 1), json.dumps(json.loads(data)).encode()):
        with pytest.raises(FormatError, match="canonical"):
            parse_manifest(other)


def test_duplicate_members_are_refused():
    data = encode_manifest(MANIFEST)

    with pytest.raises(FormatError, match="canonical"):
        parse_manifest(data.replace(b'"version":1', b'"version":1,"version":1'))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": 2}, "version"),
        ({"workload": "Web"}, "workload id"),
        ({"workload": "a" * 64}, "workload id"),
        ({"extra": 1}, "unknown members: extra"),
        ({"tees": []}, "tees"),
        ({"tees": ["sgx"]}, "tees"),
        ({"hostname": 1}, "hostname"),
        ({"masked_paths": ["proc"]}, "absolute"),
        ({"masked_paths": ["/a/../b"]}, "absolute"),
        ({"readonly_root": 1}, "true or false"),
    ],
)
def test_a_wrong_member_is_named(change, words):
    document = json.loads(encode_manifest(MANIFEST)) | change

    with pytest.raises(FormatError, match=words):
        parse_manifest(encode_canonical(document))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cipher": "cipher_null"}, "cipher"),
        ({"filesystem": "ext4"}, "erofs"),
        ({"key_size": 32}, "key size"),
        ({"payload_offset": 100}, "whole blocks"),
        ({"payload_size": 4096 * 5000}, "past the covered area"),
        ({"hash_start_block": 999}, "inside the covered area"),
        ({"block_size": 512}, "block_size"),
        ({"root_hash": "AA" * 32}, "lower-case hex"),
        ({"root_hash": "aa" * 31}, "32 bytes"),
    ],
)
def test_a_wrong_disk_is_refused(change, words):
    document = json.loads(encode_manifest(MANIFEST))
    document["disk"] |= change

    with pytest.raises(FormatError, match=words):
        parse_manifest(encode_canonical(document))


@pytest.mark.parametrize(
    "change",
    [{"args": []}, {"args": [""]}, {"env": ["A"]}, {"env": ["=x"]}, {"args": ["a\0b"]}, {"cwd": "x"}],
)
def test_a_wrong_process_is_refused(change):
    document = json.loads(encode_manifest(MANIFEST))
    document["process"] |= change

    with pytest.raises(FormatError):
        parse_manifest(encode_canonical(document))


def test_values_without_one_form_cannot_be_encoded():
    deep = 1
    for _ in range(20):
        deep = [deep]
    for value in (1.0, None, -1, 2**64, {"a": "\ud800"}, deep, {1: 2}):
        with pytest.raises(FormatError):
            encode_canonical(value)


def test_a_nesting_bomb_is_refused_without_a_traceback():
    with pytest.raises(FormatError):
        parse_canonical(b"[" * 100_000, limit=256 * 1024)


@given(st.binary(max_size=300))
def test_any_bytes_give_a_manifest_or_a_format_error(data):
    with pytest.raises(FormatError):
        parse_manifest(data)


@given(st.data())
def test_a_changed_byte_is_another_manifest_or_an_error(data):
    encoded = bytearray(encode_manifest(MANIFEST))
    at = data.draw(st.integers(0, len(encoded) - 1))
    encoded[at] ^= 1 << data.draw(st.integers(0, 7))

    try:
        assert parse_manifest(bytes(encoded)) != MANIFEST
    except FormatError:
        pass
