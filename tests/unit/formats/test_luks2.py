from __future__ import annotations

import base64
import hashlib
import json

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from krunpy.core.errors import FormatError
from krunpy.core.octets import Secret
from krunpy.formats import luks2
from krunpy.formats.luks2 import build_header, derive_passphrase
from krunpy.formats.luks2_parse import WHOLE_DEVICE, parse_header

KEY = Secret(bytes(range(100, 164)))
HEADER = build_header(KEY, 40960)


def unlock(header: bytes, passphrase: bytes) -> bytes:
    """Open keyslot 0 as LUKS2 says, with code of its own; check the digest."""
    metadata = json.loads(header[4096:16384].rstrip(b"\0"))
    slot, digest = metadata["keyslots"]["0"], metadata["digests"]["0"]
    salt = base64.b64decode(slot["kdf"]["salt"])
    area_key = hashlib.pbkdf2_hmac("sha256", passphrase, salt, slot["kdf"]["iterations"], 64)
    offset, stripes = int(slot["area"]["offset"]), slot["af"]["stripes"]
    area = b""
    for sector in range(64 * stripes // 512):
        cipher = Cipher(algorithms.AES(area_key), modes.XTS(sector.to_bytes(16, "little"))).decryptor()
        area += cipher.update(header[offset + sector * 512 : offset + sector * 512 + 512])
    mixed = bytes(64)
    for stripe in range(stripes):
        mixed = bytes(a ^ b for a, b in zip(mixed, area[stripe * 64 : stripe * 64 + 64], strict=True))
        if stripe < stripes - 1:
            mixed = b"".join(
                hashlib.sha256(half.to_bytes(4, "big") + mixed[half * 32 : half * 32 + 32]).digest()
                for half in (0, 1)
            )
    wanted = base64.b64decode(digest["digest"])
    salt = base64.b64decode(digest["salt"])
    assert hashlib.pbkdf2_hmac("sha256", mixed, salt, digest["iterations"], 32) == wanted
    return mixed


def seal(header: bytes, metadata: object, **changes: bytes) -> bytes:
    """Return a header with other metadata or binary fields and a checksum that fits."""
    raw = metadata if isinstance(metadata, bytes) else json.dumps(metadata).encode()
    data = bytearray(header[:4096] + raw.ljust(12288, b"\0"))
    for offset, value in changes.items():
        data[int(offset[1:]) : int(offset[1:]) + len(value)] = value
    data[448:512] = bytes(64)
    data[448:480] = hashlib.sha256(data).digest()
    return bytes(data)


def describe() -> dict:
    return json.loads(HEADER[4096:16384].rstrip(b"\0"))


def test_the_passphrase_opens_the_keyslot_to_the_key() -> None:
    assert unlock(HEADER, derive_passphrase(KEY).reveal()) == KEY.reveal()


def test_another_passphrase_does_not() -> None:
    with pytest.raises(AssertionError):
        unlock(HEADER, b"wrong")


def test_one_key_gives_one_header_and_another_key_another() -> None:
    other = build_header(Secret(bytes(64)), 40960)

    assert build_header(KEY, 40960) == HEADER
    assert parse_header(other).uuid != parse_header(HEADER).uuid
    assert other[luks2.KEYSLOT_OFFSET : luks2.KEYSLOT_OFFSET + 64] not in HEADER


def test_neither_key_nor_passphrase_stands_in_the_header() -> None:
    assert len(HEADER) == luks2.PAYLOAD_OFFSET
    for secret in (KEY.reveal()[:32], KEY.reveal()[32:], derive_passphrase(KEY).reveal()):
        assert secret not in HEADER


def test_both_copies_describe_the_segment() -> None:
    first, second = parse_header(HEADER), parse_header(HEADER[16384:])

    assert first == second
    assert (first.offset, first.size, first.sector_size) == (1 << 20, 40960, 4096)
    assert (first.cipher, first.first_sector, first.keyslots) == ("aes-xts-plain64", 0, ("0",))


@pytest.mark.parametrize(("key", "size"), [(Secret(bytes(32)), 4096), (KEY, 0), (KEY, 4097)])
def test_a_header_for_part_of_a_sector_or_a_short_key_is_a_mistake(key: Secret, size: int) -> None:
    with pytest.raises(ValueError, match="whole sectors"):
        build_header(key, size)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 16384 * 8 - 1))
def test_a_flipped_bit_in_a_header_is_refused(bit: int) -> None:
    data = bytearray(HEADER[:16384])
    data[bit // 8] ^= 1 << bit % 8

    with pytest.raises(FormatError, match="cannot read the LUKS2 header"):
        parse_header(bytes(data))


@given(st.binary(max_size=5000) | st.binary(max_size=600).map(lambda head: head + HEADER[len(head) : 20000]))
def test_any_bytes_give_a_header_or_a_format_error(data: bytes) -> None:
    try:
        parse_header(data)
    except FormatError:
        return


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda v: st.lists(v) | st.dictionaries(st.text(max_size=8), v),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(
        ["keyslots", "segments", "offset", "size", "iv_tweak", "sector_size", "encryption", "type"]
    ),
    values,
)
def test_any_json_under_a_good_checksum_gives_a_header_or_a_format_error(name: str, value: object) -> None:
    metadata = describe()
    (metadata if name in metadata else metadata["segments"]["0"])[name] = value
    try:
        parse_header(seal(HEADER, metadata))
    except FormatError:
        return


@pytest.mark.parametrize(
    "raw", [b"", b"[" * 12000, b'{"a":', b"\xff\xfe", b'{"keyslots":' + b"9" * 9000 + b"}", b"[1]", b"NaN"]
)
def test_a_json_area_that_is_not_our_json_is_refused(raw: bytes) -> None:
    with pytest.raises(FormatError):
        parse_header(seal(HEADER, raw))


def test_a_segment_to_the_end_of_the_device_is_told_apart() -> None:
    metadata = describe()
    metadata["segments"]["0"]["size"] = "dynamic"

    assert parse_header(seal(HEADER, metadata)).size == WHOLE_DEVICE


def test_two_segments_are_refused() -> None:
    metadata = describe()
    metadata["segments"]["1"] = metadata["segments"]["0"]

    with pytest.raises(FormatError, match="exactly one segment"):
        parse_header(seal(HEADER, metadata))


def test_a_segment_that_is_not_encrypted_is_refused() -> None:
    metadata = describe()
    metadata["segments"]["0"]["type"] = "linear"

    with pytest.raises(FormatError, match="not of the type crypt"):
        parse_header(seal(HEADER, metadata))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"o6": b"\0\1"}, "does not begin as one"),
        ({"o8": b"\0\0\0\0\0\0\x50\0"}, "says that it has 20480"),
        ({"o8": b"\0\0\0\0\0\0\x80\0"}, "says that it has 32768"),
        ({"o72": b"sha512"}, "not SHA-256"),
        ({"o168": b"\xff"}, "UUID is not ASCII"),
    ],
)
def test_binary_fields_that_are_not_ours_are_refused(change: dict[str, bytes], why: str) -> None:
    with pytest.raises(FormatError, match=why):
        parse_header(seal(HEADER, describe(), **change))
