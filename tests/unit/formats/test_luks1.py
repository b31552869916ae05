"""LUKS1 headers: opened by our own reader, which knows nothing of how they are made."""

from __future__ import annotations

import pytest

from krunpy.core.octets import Secret
from krunpy.formats.luks1 import ITERATIONS, PAYLOAD_OFFSET, build_header, derive_key
from krunpy.formats.luks_open import open_volume, parse_volume

SEED = Secret(bytes(range(32)))
PASSPHRASE = Secret(b"secret")


@pytest.fixture(scope="module")
def header() -> bytes:
    return build_header(SEED, PASSPHRASE, ITERATIONS)


def opened(header: bytes, passphrase: Secret) -> Secret | None:
    return open_volume(parse_volume(header), lambda offset, size: header[offset : offset + size], passphrase)


def test_the_passphrase_gives_the_volume_key(header: bytes) -> None:
    assert opened(header, PASSPHRASE) == derive_key(SEED)


def test_another_passphrase_gives_nothing(header: bytes) -> None:
    assert opened(header, Secret(b"secreT")) is None


def test_one_changed_bit_of_the_slot_s_area_loses_the_key(header: bytes) -> None:
    changed = bytearray(header)
    changed[100_000] ^= 1

    assert opened(bytes(changed), PASSPHRASE) is None


def test_it_says_where_the_payload_is_and_what_the_slot_costs(header: bytes) -> None:
    volume = parse_volume(header)

    assert len(header) == volume.offset == PAYLOAD_OFFSET
    assert [slot.kdf.cost for slot in volume.keyslots] == [ITERATIONS]
    assert (volume.sector_size, volume.key_size) == (512, 64)


def test_the_same_gives_the_same_and_another_seed_nothing_in_common(header: bytes) -> None:
    other = build_header(Secret(bytes(32)), PASSPHRASE, ITERATIONS)

    assert build_header(SEED, PASSPHRASE, ITERATIONS) == header
    fields = {
        "digest": slice(112, 132),
        "digest salt": slice(132, 164),
        "uuid": slice(168, 204),
        "slot salt": slice(216, 248),
        "area": slice(4096, 260_096),
    }
    for name, place in fields.items():
        assert header[place] != other[place], name
        assert any(header[place]), name


def test_neither_key_nor_passphrase_lies_in_it(header: bytes) -> None:
    assert derive_key(SEED).reveal()[:16] not in header
    assert PASSPHRASE.reveal() not in header
    assert SEED.reveal()[:16] not in header


@pytest.mark.parametrize(("seed", "iterations"), [(bytes(31), 1000), (bytes(32), 999)])
def test_a_short_seed_or_a_cheap_slot_is_a_mistake_of_the_caller(seed: bytes, iterations: int) -> None:
    with pytest.raises(ValueError, match="wanted a seed"):
        build_header(Secret(seed), PASSPHRASE, iterations)
