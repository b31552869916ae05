"""Certificates and revocation lists have one form: whatever is left over, given twice or too much is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krunpy.core.errors import FormatError
from krunpy.formats.der import DerReader
from krunpy.formats.x509 import (
    LARGEST_CERTIFICATE,
    LARGEST_CRL,
    OID_COMMON_NAME,
    OID_ORGANIZATION,
    parse_certificate,
    parse_crl,
)

BOOLEAN, INTEGER, BITS, OCTETS, OID, TEXT, TIME = 0x01, 0x02, 0x03, 0x04, 0x06, 0x0C, 0x17
SEQUENCE, SET = 0x30, 0x31


def der(tag: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    size = len(body).to_bytes((len(body).bit_length() + 7) // 8 or 1, "big")
    length = size if len(body) < 0x80 else bytes([0x80 + len(size)]) + size
    return bytes([tag]) + length + body


def attribute(oid: bytes, text: str, *, in_pair: bytes = b"", in_set: bytes = b"") -> bytes:
    return der(SET, der(SEQUENCE, der(OID, oid), der(TEXT, text.encode()), in_pair), in_set)


def extension(number: int, *more: bytes) -> bytes:
    return der(SEQUENCE, der(OID, bytes([0x55, number])), der(OCTETS, b""), *more)


ALGORITHM = der(SEQUENCE, der(OID, b"\x2a\x03"))
NAME = der(SEQUENCE, attribute(OID_COMMON_NAME, "a"), attribute(OID_ORGANIZATION, "b"))
WHEN = der(TIME, b"260101000000Z")
KEY = der(SEQUENCE, b"")
SIGNATURE = der(BITS, b"\0sig")
EXTRA = der(0x05)  # NULL, where nothing may be left


def certificate(
    *,
    version: bytes = der(INTEGER, b"\2"),
    subject: bytes = NAME,
    validity: bytes = WHEN * 2,
    extensions: bytes = b"",
    after: bytes = b"",
    outside: bytes = b"",
) -> bytes:
    listed = der(0xA3, extensions) if extensions else b""
    parts = [der(0xA0, version), der(INTEGER, b"\1"), ALGORITHM, NAME, der(SEQUENCE, validity), subject, KEY]
    return der(SEQUENCE, der(SEQUENCE, *parts, listed, after), ALGORITHM, SIGNATURE, outside)


def crl(
    *,
    version: bytes = b"\1",
    algorithm: bytes = ALGORITHM,
    revoked: bytes = b"",
    after: bytes = b"",
    extensions: bytes = b"",
) -> bytes:
    listed = der(SEQUENCE, revoked) if revoked else b""
    body = [der(INTEGER, version), algorithm, NAME, WHEN, WHEN, listed, extensions, after]
    return der(SEQUENCE, der(SEQUENCE, *body), ALGORITHM, SIGNATURE)


def test_what_is_built_here_is_otherwise_right() -> None:
    read = parse_certificate(certificate(extensions=der(SEQUENCE, extension(1))))
    revoked = parse_crl(crl(revoked=der(SEQUENCE, der(INTEGER, b"\7"), WHEN, der(SEQUENCE))))

    assert (read.subject.common_name, read.subject.organization) == ("a", "b")
    assert set(read.extensions) == {b"\x55\x01"}
    assert revoked.serials == {7}


SEVENTEEN = [attribute(bytes([0x55, number]), "") for number in range(17)]
THIRTY_THREE = [extension(number) for number in range(33)]
CERTIFICATES = {
    "a name with an attribute twice": (certificate(subject=der(SEQUENCE, SEVENTEEN[0] * 2)), "twice"),
    "a name with 17 attributes": (certificate(subject=der(SEQUENCE, *SEVENTEEN)), "over 16"),
    "more in an attribute": (
        certificate(subject=der(SEQUENCE, attribute(OID_COMMON_NAME, "a", in_pair=EXTRA))),
        "2 bytes after",
    ),
    "two attributes in a set": (
        certificate(subject=der(SEQUENCE, attribute(OID_COMMON_NAME, "a", in_set=EXTRA))),
        "2 bytes after",
    ),
    "an extension twice": (certificate(extensions=der(SEQUENCE, extension(1) * 2)), "twice"),
    "33 extensions": (certificate(extensions=der(SEQUENCE, *THIRTY_THREE)), "over 32"),
    "more in an extension": (certificate(extensions=der(SEQUENCE, extension(1, EXTRA))), "2 bytes after"),
    "more beside the extensions": (certificate(extensions=der(SEQUENCE) + EXTRA), "2 bytes after"),
    "more behind the extensions": (
        certificate(extensions=der(SEQUENCE, extension(1)), after=EXTRA),
        "2 bytes after",
    ),
    "version 2": (certificate(version=der(INTEGER, b"\1")), "not version 3"),
    "more beside the version": (certificate(version=der(INTEGER, b"\2") + EXTRA), "2 bytes after"),
    "a third time": (certificate(validity=WHEN * 3), "15 bytes after"),
    "more behind the signature": (certificate(outside=EXTRA), "2 bytes after"),
    "more behind it": (certificate() + EXTRA, "2 bytes after"),
    "over 4 KiB": (
        certificate(subject=der(SEQUENCE, attribute(OID_COMMON_NAME, "a" * LARGEST_CERTIFICATE))),
        "at most 4096",
    ),
}
REVOKED = der(INTEGER, b"\7") + WHEN
CRLS = {
    "version 1": (crl(version=b"\0"), "not version 2"),
    "another algorithm inside": (crl(algorithm=der(SEQUENCE)), "differs"),
    "more in an entry": (crl(revoked=der(SEQUENCE, REVOKED, der(SEQUENCE), EXTRA)), "2 bytes after"),
    "more behind the extensions": (crl(extensions=der(0xA0, der(SEQUENCE)), after=EXTRA), "2 bytes after"),
    "over 64 KiB": (crl(revoked=der(SEQUENCE, REVOKED) * (LARGEST_CRL // 20)), "at most 65536"),
}


@pytest.mark.parametrize("case", CERTIFICATES)
def test_a_certificate_is_refused_for(case: str) -> None:
    raw, why = CERTIFICATES[case]

    with pytest.raises(FormatError) as caught:
        parse_certificate(raw)
    assert why in caught.value.why


@pytest.mark.parametrize("case", CRLS)
def test_a_revocation_list_is_refused_for(case: str) -> None:
    raw, why = CRLS[case]

    with pytest.raises(FormatError) as caught:
        parse_crl(raw)
    assert why in caught.value.why


@pytest.mark.parametrize(
    ("raw", "tag", "why"),
    [
        (b"\x1f\x00", 0x1F, "wanted 0x1f"),  # a tag that goes on in the next byte
        (b"\x30\x80", 0x30, "a length of 0 bytes"),  # indefinite
        (b"\x30\x84\1\0\0\0", 0x30, "a length of 4 bytes"),
        (b"\x30\x82\1", 0x30, "a length of 2 bytes"),  # cut
        (b"\x30\x82\x00\x80" + bytes(0x80), 0x30, "not minimal"),
        (b"\x30\x81\x7f" + bytes(0x7F), 0x30, "not minimal"),
    ],
)
def test_a_header_has_one_form(raw: bytes, tag: int, why: str) -> None:
    with pytest.raises(FormatError) as caught:
        DerReader(raw).read(tag)
    assert why in caught.value.why


@given(st.binary(max_size=64), st.sampled_from(["integer", "boolean", "bits", "text", "time"]))
def test_any_bytes_are_an_element_or_a_format_error(raw: bytes, kind: str) -> None:
    reader = DerReader(raw)
    try:
        getattr(reader, f"read_{kind}")()
        reader.require_end()
    except FormatError:
        return
    assert raw[1] < 0x80
