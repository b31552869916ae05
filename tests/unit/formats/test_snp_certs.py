"""Certificate tables, evidence payloads, DER and X.509: any bytes give a value or FormatError."""

import struct
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krunpy.core.errors import FormatError
from krunpy.formats.der import INTEGER, SEQUENCE, DerReader, encode_oid
from krunpy.formats.snp_certs import (
    CertKind,
    pack_cert_table,
    pack_evidence,
    parse_cert_table,
    parse_evidence,
)
from krunpy.formats.x509 import parse_certificate, parse_crl
from tests.fakes.amd import FakeChip, mint_crl

BLOBS = st.dictionaries(st.sampled_from(CertKind), st.binary(max_size=64))


@given(BLOBS)
def test_a_table_is_read_as_it_was_written(blobs: dict[CertKind, bytes]) -> None:
    assert parse_cert_table(pack_cert_table(blobs)).blobs == blobs


def test_guids_are_stored_in_the_order_they_are_written() -> None:
    assert pack_cert_table({CertKind.VCEK: b""}).hex().startswith("63da758de6644564adc5f4b93be8accd")


@given(st.binary(max_size=256))
def test_any_bytes_are_a_table_or_a_format_error(raw: bytes) -> None:
    try:
        parse_cert_table(raw)
    except FormatError:
        pass


def test_an_empty_table_holds_nothing() -> None:
    assert parse_cert_table(b"").blobs == {}
    assert parse_cert_table(bytes(24)).blobs == {}


def entry(kind: bytes, offset: int, length: int) -> bytes:
    return struct.pack("<16sII", kind, offset, length)


def test_unknown_kinds_are_counted_and_left_out() -> None:
    table = parse_cert_table(entry(b"\x99" * 16, 48, 4) + bytes(24) + b"blob")

    assert (table.blobs, table.unknown) == ({}, 1)


@pytest.mark.parametrize(
    "raw",
    [
        entry(CertKind.ASK.value, 48, 5) + bytes(24) + b"blob",
        entry(CertKind.ASK.value, 0, 4) + bytes(24) + b"blob",
        entry(CertKind.ASK.value, 0xFFFFFFFF, 0xFFFFFFFF) + bytes(24) + b"blob",
        entry(CertKind.ASK.value, 24, 0),
        entry(CertKind.ASK.value, 72, 1) * 2 + bytes(24) + b"blob",
        entry(b"\x99" * 16, 0, 0) * 33 + bytes(24),
        bytes(65537),
    ],
)
def test_a_broken_table_is_refused(raw: bytes) -> None:
    with pytest.raises(FormatError, match="certificate table"):
        parse_cert_table(raw)


@given(st.binary(max_size=64), st.binary(max_size=64))
def test_evidence_is_read_as_it_was_written(report: bytes, certificates: bytes) -> None:
    assert parse_evidence(pack_evidence(report, certificates)) == (report, certificates)


@given(st.binary(max_size=64))
def test_any_bytes_are_evidence_or_a_format_error(payload: bytes) -> None:
    try:
        report, certificates = parse_evidence(payload)
    except FormatError:
        return
    assert pack_evidence(report, certificates) == payload


@pytest.mark.parametrize("payload", [bytes(9), b"\1\0\0\0", b"\0\0\0\0\1\0\0\0", b"\xff" * 8])
def test_lengths_that_do_not_fill_the_evidence_are_refused(payload: bytes) -> None:
    with pytest.raises(FormatError, match="evidence"):
        parse_evidence(payload)


@pytest.mark.parametrize(
    "der",
    [
        b"",
        b"\x30",
        b"\x30\x80\0\0",
        b"\x30\x81\x01\0",
        b"\x30\x82\x00\x01\0",
        b"\x30\x84\0\0\0\1\0",
        b"\x30\x02\0",
        b"\x31\0",
    ],
)
def test_der_takes_one_form_of_a_length_only(der: bytes) -> None:
    with pytest.raises(FormatError):
        DerReader(der).read(SEQUENCE)


@pytest.mark.parametrize("value", [b"", b"\xff", b"\0\1", b"\0" + b"\x80" + bytes(40)])
def test_der_takes_one_form_of_an_integer_only(value: bytes) -> None:
    with pytest.raises(FormatError):
        DerReader(bytes((INTEGER, len(value))) + value).read_integer()


@pytest.mark.parametrize(
    ("der", "time"),
    [
        (b"\x17\x0d260102030405Z", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        (b"\x17\x0d990102030405Z", datetime(1999, 1, 2, 3, 4, 5, tzinfo=UTC)),
        (b"\x18\x0f20660102030405Z", datetime(2066, 1, 2, 3, 4, 5, tzinfo=UTC)),
    ],
)
def test_a_time_is_read(der: bytes, time: datetime) -> None:
    assert DerReader(der).read_time() == time


@pytest.mark.parametrize(
    "der",
    [b"\x17\x0d261302030405Z", b"\x17\x0b2601020304Z", b"\x17\x0d26010203040 Z", b"\x18\x0f20260102030405+"],
)
def test_what_is_no_time_is_refused(der: bytes) -> None:
    with pytest.raises(FormatError):
        DerReader(der).read_time()


def test_object_identifiers_are_encoded_as_in_certificates() -> None:
    assert encode_oid("2.5.4.3").hex() == "550403"
    assert encode_oid("1.3.6.1.4.1.3704.1.3.8").hex() == "2b060104019c78010308"


@given(st.binary(max_size=200))
def test_any_bytes_are_a_certificate_or_a_format_error(raw: bytes) -> None:
    for parse in (parse_certificate, parse_crl):
        try:
            parse(raw)
        except FormatError:
            continue


@given(st.data())
def test_a_damaged_certificate_or_crl_is_read_or_a_format_error(data: st.DataObject) -> None:
    chip_certificate, crl = GOOD
    for parse, good in ((parse_certificate, chip_certificate), (parse_crl, crl)):
        damaged = bytearray(good)
        for _ in range(data.draw(st.integers(1, 3))):
            damaged[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
        try:
            parse(bytes(damaged[: data.draw(st.integers(1, len(good)))]))
        except FormatError:
            continue


GOOD = (FakeChip().certificate, mint_crl(0x20001))


def test_a_certificate_is_read_as_it_was_minted() -> None:
    certificate = parse_certificate(GOOD[0])

    assert certificate.subject.common_name == "SEV-VCEK"
    assert certificate.issuer.common_name == "SEV-Milan"
    assert certificate.subject.organization == "Advanced Micro Devices"
    assert certificate.serial == 1
    assert certificate.not_before == datetime(2024, 1, 1, tzinfo=UTC)
    assert len(certificate.signature) == 512


def test_a_revocation_list_is_read_as_it_was_minted() -> None:
    crl = parse_crl(GOOD[1])

    assert crl.issuer.common_name == "ARK-Milan"
    assert crl.serials == {0x20001}
    assert crl.next_update == datetime(2026, 7, 1, tzinfo=UTC)


def test_an_algorithm_that_differs_outside_the_signed_part_is_refused() -> None:
    der = bytearray(GOOD[0])
    outer = bytes(der).rindex(bytes.fromhex("020130"))
    der[outer + 2] = 0x20

    with pytest.raises(FormatError, match="differs inside and outside"):
        parse_certificate(bytes(der))
