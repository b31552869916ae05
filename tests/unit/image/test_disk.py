from __future__ import annotations

import os
import random

import pytest
from disk_fakes import decrypt, root_hash
from hypothesis import given, settings
from hypothesis import strategies as st

from krunpy.core.octets import Secret
from krunpy.formats import verity
from krunpy.formats.luks2_parse import parse_header
from krunpy.image.disk import VERITY_SALT, DiskWriter, plan_disk

KEY = Secret(bytes(range(64)))


def write(path: str, payload: bytes, key: Secret | None, *, order: list[int] | None = None):
    geometry = plan_disk(len(payload), encrypt=key is not None)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        with DiskWriter(descriptor, geometry, key) as writer:
            for block in order if order is not None else range(len(payload) // 4096):
                writer.write(block * 4096, payload[block * 4096 : block * 4096 + 4096])
            disk = writer.finish()
    finally:
        os.close(descriptor)
    with open(path, "rb") as stream:
        return disk, stream.read()


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 300), st.booleans(), st.randoms(use_true_random=False))
def test_blocks_in_any_order_give_one_disk(tmp_path_factory, blocks, encrypt, shuffle) -> None:
    path = str(tmp_path_factory.mktemp("disk") / "d")
    payload = random.Random(blocks).randbytes(blocks * 4096)
    key = KEY if encrypt else None
    order = list(range(blocks))
    shuffle.shuffle(order)

    first = write(path, payload, key)

    assert write(path, payload, key, order=order) == first


@pytest.mark.parametrize("blocks", [2, 127, 128, 129, 700])
def test_the_root_hash_is_that_of_the_ciphertext(tmp_path, blocks: int) -> None:
    payload = os.urandom(blocks * 4096)

    disk, raw = write(str(tmp_path / "d"), payload, KEY)

    assert disk.root_hash == root_hash(raw, disk.data_blocks, VERITY_SALT)
    segment = raw[disk.payload_offset : disk.payload_offset + disk.payload_size]
    assert decrypt(KEY.reveal(), segment) == payload
    assert disk.data_blocks * 4096 == disk.payload_offset + disk.payload_size


def test_the_luks_header_names_the_segment_and_the_superblock_the_tree(tmp_path) -> None:
    disk, raw = write(str(tmp_path / "d"), bytes(40960), KEY)

    header = parse_header(raw)
    superblock = verity.parse_superblock(raw[disk.data_blocks * 4096 :])

    assert (header.offset, header.size) == (disk.payload_offset, disk.payload_size) == (1 << 20, 40960)
    assert (superblock.data_blocks, superblock.salt) == (disk.data_blocks, disk.salt)
    assert disk.hash_start_block == disk.data_blocks + 1
    assert (disk.cipher, disk.key_size) == ("aes-xts-plain64", 64)


def test_without_a_key_the_payload_is_the_covered_area(tmp_path) -> None:
    payload = os.urandom(40960)

    disk, raw = write(str(tmp_path / "d"), payload, None)

    assert raw[:40960] == payload
    assert (disk.cipher, disk.key_size, disk.payload_offset, disk.data_blocks) == ("none", 0, 0, 10)
    assert disk.root_hash == root_hash(raw, 10, VERITY_SALT)


def test_equal_blocks_are_encrypted_differently_and_no_plaintext_is_left(tmp_path) -> None:
    payload = b"MARKER-0123456789abcdef".ljust(4096, b".") * 20

    _, raw = write(str(tmp_path / "d"), payload, KEY)

    assert b"MARKER" not in raw
    segment = raw[1 << 20 : (1 << 20) + len(payload)]
    assert len({segment[i : i + 4096] for i in range(0, len(segment), 4096)}) == 20


def test_zeros_are_filled_in_and_encrypted(tmp_path) -> None:
    geometry = plan_disk(3 << 20, encrypt=True)
    with open(tmp_path / "d", "w+b") as stream, DiskWriter(stream.fileno(), geometry, KEY) as writer:
        writer.fill(0, 3 << 20)
        disk = writer.finish()
    raw = (tmp_path / "d").read_bytes()

    assert decrypt(KEY.reveal(), raw[1 << 20 : 4 << 20]) == bytes(3 << 20)
    assert disk.root_hash == root_hash(raw, disk.data_blocks, VERITY_SALT)


def test_a_block_that_was_never_written_is_a_mistake(tmp_path) -> None:
    geometry = plan_disk(40960, encrypt=False)
    with open(tmp_path / "d", "w+b") as stream, DiskWriter(stream.fileno(), geometry, None) as writer:
        writer.write(0, bytes(36864))
        with pytest.raises(AssertionError, match="9 of 10 blocks"):
            writer.finish()


def fill_and_finish(writer: DiskWriter, size: int) -> None:
    writer.fill(0, size)
    writer.finish()


def test_a_failed_write_is_raised(tmp_path) -> None:
    geometry = plan_disk(8 << 20, encrypt=False)
    with open(tmp_path / "d", "w+b") as stream, DiskWriter(stream.fileno(), geometry, None) as writer:
        read_only = os.open("/dev/null", os.O_RDONLY)
        os.dup2(read_only, stream.fileno())
        os.close(read_only)

        with pytest.raises(OSError, match="Bad file descriptor"):
            fill_and_finish(writer, 8 << 20)
