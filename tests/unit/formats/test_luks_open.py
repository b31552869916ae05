from __future__ import annotations

import base64
import hashlib
import json
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from krunpy.core.errors import FormatError
from krunpy.core.octets import Secret
from krunpy.formats.luks2 import BINARY_SIZE, HEADER_SIZE, KEYSLOT_OFFSET, build_header, derive_passphrase
from krunpy.formats.luks_open import find_obstacle, merge_key, open_volume, parse_volume
from tests.unit.image.legacydisks import KEY, PASSPHRASE, encrypt, make_luks1, split_key

if TYPE_CHECKING:
    from krunpy.formats.luks_open_slots import Volume

DISK_KEY = Secret(bytes(range(64)))


def opened(raw: bytes, passphrase: bytes) -> Secret | None:
    return open_volume(
        parse_volume(raw), lambda offset, size: raw[offset : offset + size], Secret(passphrase)
    )


def changed(raw: bytes, path: tuple[str, ...], value: object) -> bytes:
    """A LUKS2 header with another value at a path of its JSON, and the right checksum."""
    document = json.loads(raw[BINARY_SIZE:HEADER_SIZE].rstrip(b"\0"))
    place = document
    for name in path[:-1]:
        place = place.setdefault(name, {})
    place[path[-1]] = value
    area = json.dumps(document).encode().ljust(HEADER_SIZE - BINARY_SIZE, b"\0")
    copy = bytearray(raw[:BINARY_SIZE] + area)
    copy[448:512] = bytes(64)
    copy[448:480] = hashlib.sha256(copy).digest()
    return bytes(copy) + raw[HEADER_SIZE:]


def luks2() -> bytes:
    return build_header(DISK_KEY, 1 << 20)


def with_argon2(variant: str, **values: int) -> bytes:
    """Our header, its slot sealed under Argon2id of PASSPHRASE."""
    numbers = {"time": 4, "memory": 64, "cpus": 2} | values
    kdf = {"type": variant, "salt": base64.b64encode(b"s" * 32).decode(), **numbers}
    raw = bytearray(changed(luks2(), ("keyslots", "0", "kdf"), kdf))
    area_key = Argon2id(salt=b"s" * 32, length=64, iterations=4, lanes=2, memory_cost=64).derive(PASSPHRASE)
    area = encrypt(area_key, split_key(DISK_KEY.reveal(), "sha256"))
    raw[KEYSLOT_OFFSET : KEYSLOT_OFFSET + len(area)] = area
    return bytes(raw)


@pytest.mark.parametrize("hash_name", ["sha1", "sha256", "sha512"])
@pytest.mark.parametrize("key", [KEY, KEY[:32]], ids=["AES-256", "AES-128"])
def test_luks1_opens_with_its_passphrase_only(hash_name: str, key: bytes) -> None:
    raw = make_luks1(hash_name=hash_name, key=key)

    assert opened(raw, PASSPHRASE) == Secret(key)
    assert opened(raw, PASSPHRASE + b"!") is None


def test_luks2_of_ours_opens_with_its_passphrase_only() -> None:
    assert opened(luks2(), derive_passphrase(DISK_KEY).reveal()) == DISK_KEY
    assert opened(luks2(), b"wrong") is None


def test_argon2id_opens() -> None:
    assert opened(with_argon2("argon2id"), PASSPHRASE) == DISK_KEY


def test_argon2i_is_not_tried() -> None:
    raw = with_argon2("argon2i")

    assert opened(raw, PASSPHRASE) is None
    assert find_obstacle(parse_volume(raw).keyslots[0]) == "its key derivation is argon2i"


def first_obstacle(volume: Volume) -> str:
    return find_obstacle(volume.keyslots[0])


@pytest.mark.parametrize(
    "values",
    [{"memory": 2**32 - 1}, {"memory": 1 << 20, "time": 1000}, {"cpus": 65}, {"memory": 8, "cpus": 2}],
)
def test_an_argon2_that_costs_too_much_is_not_tried(values: dict[str, int]) -> None:
    volume = parse_volume(with_argon2("argon2id", **values))

    assert first_obstacle(volume)
    assert open_volume(volume, lambda _offset, _size: b"", Secret(b"x")) is None


def test_iterations_without_end_are_not_done() -> None:
    volume = parse_volume(make_luks1(iterations=2**32 - 1))

    assert "4294967295 iterations" in first_obstacle(volume)
    assert open_volume(volume, lambda _offset, _size: b"", Secret(b"x")) is None


def test_a_digest_that_costs_too_much_is_refused() -> None:
    raw = changed(luks2(), ("digests", "0", "iterations"), 2**32 - 1)

    with pytest.raises(FormatError, match="costs 42949"):
        opened(raw, b"x")


def test_slots_that_together_cost_too_much_are_refused() -> None:
    slot = json.loads(luks2()[BINARY_SIZE:HEADER_SIZE].rstrip(b"\0"))["keyslots"]["0"]
    slot["kdf"]["iterations"] = 19_000_000
    raw = changed(luks2(), ("keyslots",), {str(number): slot for number in range(4)})
    raw = changed(raw, ("digests", "0", "keyslots"), ["0", "1", "2", "3"])

    with pytest.raises(FormatError, match="at most 60000000"):
        opened(raw, b"x")


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (("segments", "0", "integrity"), {"type": "hmac(sha256)"}, "integrity tags"),
        (("segments", "0", "encryption"), "cipher_null-ecb", "cipher"),
        (("config", "requirements"), {"mandatory": ["online-reencrypt"]}, "online-reencrypt"),
        (("digests", "0", "digest"), "AAAAAAAAAAA=", "the digest of its key is 8 bytes"),
        (("keyslots", "0", "area", "encryption"), "aes-cbc-essiv:sha256", "its area"),
        (("keyslots", "0", "af", "stripes"), 1, "stripes"),
        (("keyslots", "0", "key_size"), 1 << 30, "key size"),
        (("digests", "0", "segments"), ["1"], "no digest"),
    ],
)
def test_what_is_not_opened_is_refused_by_name(path: tuple[str, ...], value: object, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        parse_volume(changed(luks2(), path, value))


@pytest.mark.parametrize(
    ("offset", "value", "reason"),
    [
        (8, b"null", "cipher"),
        (40, b"ecb\0", "cipher"),
        (72, b"md5\0\0\0\0", "hash"),
        (108, (16).to_bytes(4, "big"), "key size"),
        (164, bytes(4), "0 iterations"),
        (208, b"\0\0\0\1", "state"),
        (208 + 48 + 40, (1).to_bytes(4, "big"), "its area"),
        (208 + 48 + 44, (1).to_bytes(4, "big"), "stripes"),
    ],
)
def test_a_luks1_header_that_is_not_sound_is_refused(offset: int, value: bytes, reason: str) -> None:
    raw = bytearray(make_luks1())
    raw[offset : offset + len(value)] = value

    with pytest.raises(FormatError, match=reason):
        parse_volume(bytes(raw))


def test_every_stripe_is_needed_for_the_key() -> None:
    split = bytearray(split_key(KEY, "sha256"))
    assert merge_key(bytes(split), 64, "sha256") == KEY
    split[0] ^= 1

    assert merge_key(bytes(split), 64, "sha256") != KEY
