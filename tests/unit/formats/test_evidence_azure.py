"""Azure's evidence: versions 0 to 2 are read alike, and the HCL report is bounded."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krunpy.core.errors import FormatError
from krunpy.formats.evidence_azure import AzureEvidence, parse_azure_evidence
from krunpy.formats.evidence_hcl import HardwareReport, pack_hcl_report, parse_hcl_report
from krunpy.formats.narrow import Fields
from tests.fakes.amd import FakeChip
from tests.fakes.azure import NONCE, PCRS, key, make_document, make_runtime_data

CHIP = FakeChip()
DOCUMENT = json.dumps(make_document(CHIP))


def read(document: Any) -> AzureEvidence:
    return parse_azure_evidence(Fields(document, "evidence"))


def hcl(runtime: bytes, kind: HardwareReport = HardwareReport.SNP) -> bytes:
    return pack_hcl_report(kind, bytes(1184 if kind is HardwareReport.SNP else 1024), runtime)


def as_version_0(document: dict[str, Any]) -> dict[str, Any]:
    quote = document["tpm_quote"]
    numbers = {name: list(bytes.fromhex(quote[name])) for name in ("signature", "message")}
    return {
        "quote": numbers | {"pcrs": [list(bytes.fromhex(pcr)) for pcr in quote["pcrs"]]},
        "report": list(base64.urlsafe_b64decode(document["hcl_report"])),
        "vcek": "-----BEGIN CERTIFICATE-----\n",
    }


def as_tdx(document: dict[str, Any]) -> dict[str, Any]:
    del document["vcek"]
    raw = hcl(make_runtime_data(), HardwareReport.TDX)
    return document | {
        "td_quote": base64.urlsafe_b64encode(b"quote").decode(),
        "hcl_report": base64.urlsafe_b64encode(raw).decode(),
    }


@pytest.mark.parametrize("version", [1, 2])
def test_the_parts_are_read(version: int) -> None:
    evidence = read(json.loads(DOCUMENT) | {"version": version})

    assert evidence.version == version
    assert evidence.pcrs == PCRS
    assert evidence.vek == base64.urlsafe_b64decode(json.loads(DOCUMENT)["vcek"])
    assert evidence.hcl.runtime.modulus == key("ak", 2048).public_key().public_numbers().n
    assert evidence.hcl.runtime.user_data == NONCE.ljust(64, b"\0")
    assert evidence.hcl.runtime.configuration == {"secure-boot": "True"}


def test_version_0_says_the_same_in_numbers() -> None:
    newer = read(json.loads(DOCUMENT))

    older = read(as_version_0(json.loads(DOCUMENT)))

    assert (older.version, older.hcl, older.message, older.signature, older.pcrs) == (
        0, newer.hcl, newer.message, newer.signature, newer.pcrs,
    )  # fmt: skip


def test_a_quote_takes_the_place_of_the_vcek_for_tdx() -> None:
    evidence = read(as_tdx(json.loads(DOCUMENT)))

    assert evidence.hcl.kind is HardwareReport.TDX
    assert len(evidence.hcl.hardware_report) == 1024
    assert (evidence.td_quote, evidence.vek) == (b"quote", b"")


@pytest.mark.parametrize(
    "change",
    [
        {"version": 3},
        {"version": "2"},
        {"more": 1},
        {"hcl_report": "!"},
        {"hcl_report": "A" * 40000},
        {"vcek": "é"},
        {"vcek": 7},
        {"tpm_quote": {}},
        {"td_quote": ""},
    ],
)
def test_a_member_of_another_shape_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(FormatError):
        read(json.loads(DOCUMENT) | change)


@pytest.mark.parametrize("pcrs", [[], ["00" * 32] * 23, ["00" * 32] * 25, ["00" * 31] * 24, ["zz" * 32] * 24])
def test_another_number_or_size_of_registers_is_refused(pcrs: list[str]) -> None:
    document = json.loads(DOCUMENT)
    document["tpm_quote"]["pcrs"] = pcrs

    with pytest.raises(FormatError):
        read(document)


def test_an_hcl_report_of_the_other_tee_is_refused() -> None:
    document = json.loads(DOCUMENT)
    document["hcl_report"] = as_tdx(json.loads(DOCUMENT))["hcl_report"]

    with pytest.raises(FormatError, match="HCL report of TDX"):
        read(document)


def test_padding_of_zeros_is_no_part_of_the_runtime_data() -> None:
    raw = hcl(make_runtime_data())

    assert parse_hcl_report(raw + bytes(100)) == parse_hcl_report(raw)
    with pytest.raises(FormatError, match="after its end"):
        parse_hcl_report(raw + bytes(100) + b"\1")


@pytest.mark.parametrize(
    "runtime",
    [
        b"",
        b"[]",
        b"{}",
        b'{"keys":[]}',
        make_runtime_data(keys=[{"kid": "HCLEkPub", "kty": "RSA", "e": "AQAB", "n": "AQAB"}]),
        make_runtime_data(keys=[{"kid": "HCLAkPub", "kty": "EC"}]),
        make_runtime_data(keys=[{"kid": "HCLAkPub", "kty": "RSA", "e": "AQAB", "n": "AQAB"}] * 2),
        make_runtime_data(keys=[{"kid": "HCLAkPub", "kty": "RSA", "e": "AQAB", "n": "A" * 3000}]),
        make_runtime_data()[:-1] + b',"keys":[]}',
        make_runtime_data(**{"user-data": "0"}),
    ],
)
def test_runtime_data_without_exactly_one_attestation_key_is_refused(runtime: bytes) -> None:
    with pytest.raises(FormatError):
        parse_hcl_report(hcl(runtime))


@pytest.mark.parametrize(("place", "value"), [(0, 0), (1224, 3), (1228, 2), (1232, 0xFF), (1235, 0xFF)])
def test_a_head_that_says_something_else_is_refused(place: int, value: int) -> None:
    raw = bytearray(hcl(make_runtime_data()))
    raw[place] = value

    with pytest.raises(FormatError):
        parse_hcl_report(bytes(raw))


@given(st.binary(max_size=1500) | st.binary(max_size=80).map(lambda tail: hcl(b"{}")[:1216] + tail))
def test_any_bytes_are_an_hcl_report_or_a_format_error(raw: bytes) -> None:
    try:
        report = parse_hcl_report(raw)
    except FormatError:
        return
    assert report.runtime_data in raw
