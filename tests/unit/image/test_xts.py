from __future__ import annotations

import hashlib

import pytest
from disk_fakes import decrypt
from hypothesis import given, settings
from hypothesis import strategies as st

from krunpy.core.octets import Secret
from krunpy.image.xts import SectorCipher

KEY = bytes(range(64))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.binary())
def test_many_sectors_are_encrypted_as_one_by_one_with_numbers_of_512_bytes(sectors, seed) -> None:
    noise = hashlib.shake_256(seed).digest(64 + sectors * 4096)
    key, data = noise[:64], noise[64:]

    ciphertext = SectorCipher(Secret(key), 10 * 4096).encrypt(data, 0).tobytes()

    assert decrypt(key, ciphertext) == data


@pytest.mark.parametrize("position", [4096, 1 << 30, 1 << 45])
def test_the_tweak_follows_the_position_in_the_volume(position: int) -> None:
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    data = bytes(4096) + b"\xff" * 4096
    reference = b""
    for index in range(2):
        tweak = (position // 512 + 8 * index).to_bytes(16, "little")
        cipher = Cipher(algorithms.AES(KEY), modes.XTS(tweak)).encryptor()
        reference += cipher.update(data[index * 4096 : index * 4096 + 4096])

    assert SectorCipher(Secret(KEY), 8192).encrypt(data, position).tobytes() == reference


def test_a_cipher_used_again_gives_the_same_bytes() -> None:
    cipher = SectorCipher(Secret(KEY), 16384)
    first = cipher.encrypt(bytes(16384), 0).tobytes()
    cipher.encrypt(b"x" * 4096, 1 << 20)

    assert cipher.encrypt(bytes(16384), 0).tobytes() == first


@pytest.mark.parametrize(("size", "position"), [(4095, 0), (512, 0), (4096, 512)])
def test_part_of_a_sector_is_refused(size: int, position: int) -> None:
    with pytest.raises(ValueError, match="whole sectors"):
        SectorCipher(Secret(KEY), 4096).encrypt(bytes(size), position)


def test_a_short_key_is_refused() -> None:
    with pytest.raises(ValueError, match="64 bytes"):
        SectorCipher(Secret(bytes(32)), 4096)
