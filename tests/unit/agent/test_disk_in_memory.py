"""The agent's check of the disk where the kernel has no dm-verity, held against krunpy's writer and other ciphers."""

from __future__ import annotations

import os
import random
import struct
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest
from agent_samples import FULL
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from disk_driver import DiskDriver, build_disk_driver
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from krunpy.core.octets import Digest32, Secret
from krunpy.formats.manifest import encode_manifest
from krunpy.image.disk import DiskWriter, plan_disk

if TYPE_CHECKING:
    from pathlib import Path

    from krunpy.formats.disk import Disk

KEY = bytes(range(64))
BLOCK = 4096
INTEGRITY, DISK_KEY, MOUNT = b"8 ", b"9 ", b"10 "


@dataclass(frozen=True)
class Sample:
    path: Path
    disk: Disk
    payload: bytes

    def stdin(self, **changes: object) -> bytes:
        return KEY + encode_manifest(replace(FULL, disk=replace(self.disk, **changes)))


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> DiskDriver:
    return build_disk_driver(tmp_path_factory.mktemp("driver"))


def make_sample(path: Path, blocks: int, *, encrypt: bool = True) -> Sample:
    payload = random.Random(blocks).randbytes(blocks * BLOCK)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    with DiskWriter(
        descriptor, plan_disk(len(payload), encrypt=encrypt), Secret(KEY) if encrypt else None
    ) as writer:
        writer.write(0, payload)
        disk = writer.finish()
    os.close(descriptor)
    return Sample(path, disk, payload)


@pytest.mark.parametrize("encrypt", [True, False])
@pytest.mark.parametrize("blocks", [2, 3, 127, 128, 129, 256, 257, 700])
def test_what_was_converted_comes_out_of_memory(
    driver: DiskDriver, tmp_path: Path, blocks: int, encrypt: bool
) -> None:
    sample = make_sample(tmp_path / "disk", blocks, encrypt=encrypt)

    assert driver.call("load", sample.path, stdin=sample.stdin()) == (0, sample.payload)


def test_a_tree_of_three_levels_is_read(driver: DiskDriver, tmp_path: Path) -> None:
    sample = make_sample(tmp_path / "disk", 3900, encrypt=False)

    assert driver.call("load", sample.path, stdin=sample.stdin()) == (0, sample.payload)


@pytest.mark.parametrize(("blocks", "encrypt"), [(2, False), (130, False), (4, True)])
def test_a_changed_bit_in_any_block_of_data_or_tree_is_refused(
    driver: DiskDriver, tmp_path: Path, blocks: int, encrypt: bool
) -> None:
    sample = make_sample(tmp_path / "disk", blocks, encrypt=encrypt)
    count = sample.path.stat().st_size // BLOCK

    code, lines = driver.call("flips", sample.path, stdin=sample.stdin())

    assert (code, lines) == (0, b"tried %d\n" % (count - 1))


@pytest.mark.parametrize("field", ["root_hash", "salt"])
def test_another_root_hash_or_salt_is_refused(driver: DiskDriver, tmp_path: Path, field: str) -> None:
    sample = make_sample(tmp_path / "disk", 3)
    changed = bytearray(getattr(sample.disk, field))
    changed[31] ^= 1

    code, line = driver.call("load", sample.path, stdin=sample.stdin(**{field: Digest32(bytes(changed))}))

    assert (code, line[:2]) == (1, INTEGRITY)


@pytest.mark.parametrize("cut", [0, 1, BLOCK, BLOCK + 1, 4 * BLOCK])
def test_a_disk_that_ends_early_is_refused(driver: DiskDriver, tmp_path: Path, cut: int) -> None:
    sample = make_sample(tmp_path / "disk", 3, encrypt=False)
    size = sample.path.stat().st_size
    os.truncate(sample.path, size - cut)

    code, line = driver.call("load", sample.path, stdin=sample.stdin())

    assert (code == 0) == (cut == 0)
    if cut:
        assert line.startswith(INTEGRITY)
        assert b"shorter" in line


def test_too_little_memory_is_said_before_anything_is_read(driver: DiskDriver, tmp_path: Path) -> None:
    sample = make_sample(tmp_path / "disk", 700)
    os.truncate(sample.path, 0)

    code, line = driver.call("load", sample.path, stdin=sample.stdin(), FAKE_FREE_MIB="34")

    assert code == 1
    assert line.startswith(MOUNT)
    assert b"wanted 35 MiB, free are 34" in line


def test_a_processor_without_aes_instructions_is_refused_only_for_an_encrypted_disk(
    driver: DiskDriver, tmp_path: Path
) -> None:
    secret = make_sample(tmp_path / "secret", 2)
    plain = make_sample(tmp_path / "plain", 2, encrypt=False)

    code, line = driver.call("load", secret.path, stdin=secret.stdin(), FAKE_NO_AES="1")

    assert code == 1
    assert line.startswith(DISK_KEY)
    assert b"AES instructions" in line
    assert driver.call("load", plain.path, stdin=plain.stdin(), FAKE_NO_AES="1") == (0, plain.payload)


def encrypt_sector(key: bytes, number: int, data: bytes) -> bytes:
    return Cipher(algorithms.AES(key), modes.XTS(struct.pack("<QQ", number, 0))).encryptor().update(data)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(min_size=64, max_size=64).filter(lambda key: key[:32] != key[32:]),
    st.integers(0, 2**64 - 1),
    st.sampled_from([16, 32, 512, 4096]),
    st.randoms(use_true_random=False),
)
def test_xts_agrees_with_cryptography(
    driver: DiskDriver, key: bytes, number: int, length: int, numbers: random.Random
) -> None:
    data = numbers.randbytes(length)

    stdin = key + struct.pack("<Q", number) + encrypt_sector(key, number, data)

    assert driver.call("xts", stdin=stdin) == (0, data)
