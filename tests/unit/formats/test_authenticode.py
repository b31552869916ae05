"""Authenticode: what a PE image's digest covers, and what it leaves out."""

import contextlib
import struct
from hashlib import sha384

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krunpy.core.errors import FormatError
from krunpy.formats.authenticode import hash_authenticode, list_hashed_parts
from tests.fakes.pe import HEADERS, build_pe

SECTIONS = [b"first" * 20, b"", b"second" * 20]
IMAGE = build_pe(SECTIONS)
OPTIONAL = 0x280 + 24


def test_headers_sections_and_what_trails_are_hashed_in_order() -> None:
    image = build_pe(SECTIONS, trailing=b"tail", certificates=b"c" * 16)
    checksum, entry = OPTIONAL + 64, OPTIONAL + 112 + 32

    wanted = image[:checksum] + image[checksum + 4 : entry] + image[entry + 8 : HEADERS]
    wanted += SECTIONS[0] + SECTIONS[2] + b"tail"

    assert b"".join(list_hashed_parts(image)) == wanted
    assert hash_authenticode(image) == sha384(wanted).digest()


def test_neither_checksum_nor_certificates_change_the_digest() -> None:
    assert hash_authenticode(build_pe(SECTIONS, checksum=7, certificates=b"c" * 16)) == hash_authenticode(
        IMAGE
    )


def test_every_other_byte_does() -> None:
    skipped = {*range(OPTIONAL + 64, OPTIONAL + 68), *range(OPTIONAL + 112 + 32, OPTIONAL + 112 + 40)}
    digest = hash_authenticode(IMAGE)

    for at in set(range(len(IMAGE))) - skipped:
        changed = bytearray(IMAGE)
        changed[at] ^= 0x01
        with contextlib.suppress(FormatError):
            assert hash_authenticode(bytes(changed)) != digest, at


def test_an_image_without_a_certificate_entry_is_hashed() -> None:
    image = bytearray(IMAGE)
    struct.pack_into("<I", image, OPTIONAL + 108, 4)

    parts = b"".join(list_hashed_parts(bytes(image)))

    assert len(parts) == len(image) - 4


def changed(at: int, kind: str, *values: int) -> bytes:
    image = bytearray(IMAGE)
    struct.pack_into(kind, image, at, *values)
    return bytes(image)


@pytest.mark.parametrize(
    ("image", "why"),
    [
        (b"", "headers reach"),
        (b"ELF" + bytes(100), "MZ"),
        (changed(60, "<I", 0xFFFFFFF0), "headers reach"),
        (changed(0x280, "<I", 1), "PE32"),
        (changed(OPTIONAL, "<H", 0x107), "PE32"),
        (changed(OPTIONAL + 60, "<I", 1 << 30), "headers of"),
        (changed(OPTIONAL + 60, "<I", 8), "headers of"),
        (changed(0x280 + 6, "<H", 0xFFFF), "section|headers reach"),
        (changed(OPTIONAL + 152 + 16, "<I", 1 << 20), "section of"),
        (changed(OPTIONAL + 152 + 20, "<I", 1 << 20), "section of"),
        (changed(OPTIONAL + 112 + 32, "<II", 1, 16), "of certificates"),
    ],
)
def test_what_is_no_pe_image_is_refused(image: bytes, why: str) -> None:
    with pytest.raises(FormatError, match=why):
        hash_authenticode(image)


@given(st.integers(min_value=0, max_value=HEADERS), st.binary(max_size=48))
def test_any_damage_gives_a_digest_or_a_format_error(at: int, junk: bytes) -> None:
    with contextlib.suppress(FormatError):
        hash_authenticode(IMAGE[:at] + junk + IMAGE[at + len(junk) :])
