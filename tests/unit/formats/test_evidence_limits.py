"""What evidence may not hold: members that nobody reads, parts that are too large, and keys of another kind."""

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from krunpy.core.errors import FormatError
from krunpy.formats.evidence_azure import parse_azure_evidence
from krunpy.formats.evidence_encodings import LARGEST_EVIDENCE, recognise_evidence
from krunpy.formats.evidence_hcl import LARGEST_HCL, HardwareReport, pack_hcl_report, parse_hcl_report
from krunpy.formats.evidence_sev import SnpEvidence, make_sev_evidence, parse_sev_evidence
from krunpy.formats.evidence_text import take_base64, take_hex
from krunpy.formats.narrow import Fields
from krunpy.formats.pck_chain import encode_pem, parse_pem_chain
from krunpy.formats.snp_certs import CertKind, pack_evidence, parse_cert_table, parse_evidence
from krunpy.formats.snp_report import pack_report
from krunpy.formats.snp_tcb import Product, Tcb, pack_tcb, parse_tcb
from krunpy.formats.tdx_quote import parse_tdx_quote
from krunpy.formats.tpm_quote import pack_tpm_quote, parse_tpm_quote
from tests.fakes.amd import FakeChip
from tests.fakes.azure import make_document, make_quote, make_runtime_data
from tests.fakes.intel import FakePlatform

CHIP = FakeChip()
REPORT = pack_report(CHIP.report())
AZURE = json.dumps(make_document(CHIP))
SEV = json.dumps(make_sev_evidence(SnpEvidence(report=REPORT, blobs={CertKind.VCEK: b"vcek"})))


def why(read: Callable[..., object], *arguments: object) -> str:
    with pytest.raises(FormatError) as caught:
        read(*arguments)
    return caught.value.why


def with_member(text: str, *path: str, name: str = "more", value: object = 1) -> Fields:
    """Return a document with one member added or changed, in the object that `path` leads to."""
    document = json.loads(text)
    inner: Any = document
    for step in path:
        inner = inner[step]
    inner[name] = value
    return Fields(document, "evidence")


@pytest.mark.parametrize("path", [(), ("tpm_quote",)])
def test_a_member_that_azure_does_not_have_is_refused(path: tuple[str, ...]) -> None:
    assert why(parse_azure_evidence, with_member(AZURE, *path)) == "unknown members: more"


@pytest.mark.parametrize(
    "path",
    [
        (),
        ("attestation_report",),
        ("attestation_report", "current"),
        ("attestation_report", "reported_tcb"),
        ("attestation_report", "signature"),
        ("cert_chain", 0),
    ],
)
def test_a_member_that_a_sev_report_does_not_have_is_refused(path: tuple[str, ...]) -> None:
    assert why(parse_sev_evidence, with_member(SEV, *path)) == "unknown members: more"


def test_a_member_beside_a_raw_report_is_refused() -> None:
    document = json.dumps({"report": REPORT.hex(), "more": 1}).encode()

    assert why(recognise_evidence, document) == "unknown members: more"


@pytest.mark.parametrize("at", [8, 31, 32 + 1184])
def test_a_firmware_response_is_zero_around_its_report(at: int) -> None:
    response = bytearray((bytes(4) + (1184).to_bytes(4, "little") + bytes(24) + REPORT).ljust(4000, b"\0"))
    recognise_evidence(bytes(response))
    response[at] = 1

    assert "other than zero around its report" in why(recognise_evidence, bytes(response))


@pytest.mark.parametrize("vcek", ["-" * 16385, "-----BEGIN CERTIFICATE-----é"])
def test_a_vcek_in_text_is_ascii_and_bounded(vcek: str) -> None:
    newer = json.loads(AZURE)
    quote = {name: list(bytes.fromhex(newer["tpm_quote"][name])) for name in ("signature", "message")}
    quote["pcrs"] = [list(bytes.fromhex(pcr)) for pcr in newer["tpm_quote"]["pcrs"]]
    older = {"quote": quote, "report": list(base64.urlsafe_b64decode(newer["hcl_report"])), "vcek": vcek}

    assert why(parse_azure_evidence, Fields(older, "evidence")) == "it is no PEM of at most 16384 bytes"


def test_an_attestation_key_is_rsa() -> None:
    runtime = json.loads(make_runtime_data())
    runtime["keys"][0]["kty"] = "EC"
    raw = pack_hcl_report(HardwareReport.SNP, REPORT, json.dumps(runtime).encode())

    assert why(parse_hcl_report, raw) == "seen an attestation key that is not RSA"


@pytest.mark.parametrize("size", [0, 1235, LARGEST_HCL + 1])
def test_an_hcl_report_has_room_for_its_parts_and_no_more(size: int) -> None:
    raw = pack_hcl_report(HardwareReport.SNP, REPORT, make_runtime_data()).ljust(LARGEST_HCL, b"\0")
    parse_hcl_report(raw)

    assert why(parse_hcl_report, raw.ljust(size, b"\0")[:size]).startswith(f"seen {size} bytes, wanted 12")


@pytest.mark.parametrize(
    ("take", "text", "reason"),
    [
        (take_hex, "00" * 9, "it is no ASCII of at most 16 characters"),
        (take_base64, "A" * 20, "it is no ASCII of at most 16 characters"),
        (take_hex, "é0", "it is no ASCII of at most 16 characters"),
        (take_base64, "AAAAAAAAAAAA", "seen 9 bytes, wanted at most 8"),
    ],
)
def test_a_member_in_text_is_ascii_and_bounded(take: Callable[..., bytes], text: str, reason: str) -> None:
    assert why(take, Fields({"a": text}, "evidence"), "a", 8) == reason


def test_a_list_of_strings_holds_strings() -> None:
    with pytest.raises(FormatError, match="seen 7, wanted a string"):
        Fields({"a": ["b", 7]}, "it").take_strings("a", limit=2)


def test_a_certificate_table_has_at_most_32_entries() -> None:
    entries = b"".join(
        bytes([number + 1]) * 16 + (34 * 24).to_bytes(4, "little") + bytes(4) for number in range(33)
    )

    assert parse_cert_table(entries[24:] + bytes(48)).unknown == 32
    assert why(parse_cert_table, entries + bytes(24)) == "seen over 32 entries"


@pytest.mark.parametrize(
    ("payload", "what"),
    [
        (pack_evidence(bytes(65537), b""), "report"),
        (pack_evidence(b"", bytes(65537)), "certificates"),
        (b"\2\0\0\0\1", "report"),
        (b"\0\0\0\0\2\0\0\0\1", "certificates"),
    ],
)
def test_a_part_of_a_payload_is_bounded_and_there(payload: bytes, what: str) -> None:
    assert why(parse_evidence, payload).endswith(f"bytes of {what}, more than there are")


@pytest.mark.parametrize("size", [0, 7, 9])
def test_a_tcb_version_is_eight_bytes(size: int) -> None:
    assert why(parse_tcb, bytes(size), Product.MILAN) == f"seen {size} bytes, wanted 8"


def test_no_product_before_turin_can_be_given_an_fmc() -> None:
    with pytest.raises(ValueError, match="Milan has no fmc"):
        pack_tcb(Tcb(fmc=1), Product.MILAN)


@pytest.mark.parametrize("version", [3, 6])
def test_a_quote_of_another_version_is_refused(version: int) -> None:
    raw = FakePlatform().quote()
    parse_tdx_quote(raw)

    assert why(parse_tdx_quote, version.to_bytes(2, "little") + raw[2:]).startswith(
        f"seen version {version},"
    )


@pytest.mark.parametrize(
    ("at", "grow", "reason"),
    [
        (6, 67, "seen a part of 67 bytes, wanted at most 66"),  # the signer
        (6 + 2 + 34, 65, "seen a part of 65 bytes, wanted at most 64"),  # the nonce
    ],
)
def test_a_part_of_a_tpm_quote_is_bounded(at: int, grow: int, reason: str) -> None:
    message = pack_tpm_quote(make_quote(nonce=b""))
    old = int.from_bytes(message[at : at + 2], "big")
    longer = message[:at] + grow.to_bytes(2, "big") + bytes(grow) + message[at + 2 + old :]

    assert why(parse_tpm_quote, longer) == reason


def test_a_bitmap_of_registers_is_bounded() -> None:
    message = pack_tpm_quote(make_quote())
    at = message.index(b"\x00\x0b\x03\xff\xff\xff")
    longer = message[: at + 2] + b"\x05\xff\xff\xff\0\0" + message[at + 6 :]

    assert why(parse_tpm_quote, longer) == "seen a bitmap of 5 bytes, wanted at most 4"


def test_a_tpm_quote_that_is_cut_is_refused() -> None:
    assert why(parse_tpm_quote, pack_tpm_quote(make_quote())[:-1]).endswith("wanted 32")


def test_a_tpm_quote_with_a_tail_is_refused() -> None:
    assert why(parse_tpm_quote, pack_tpm_quote(make_quote()) + b"\0") == "seen 1 bytes after its end"


def test_a_chain_of_over_16_kib_is_refused() -> None:
    assert why(parse_pem_chain, encode_pem(bytes(16384))).endswith("wanted at most 16384")


def test_a_chain_of_five_is_refused() -> None:
    four = b"\n".join([encode_pem(b"a")] * 4)
    assert len(parse_pem_chain(four)) == 4

    assert why(parse_pem_chain, four + b"\n" + encode_pem(b"a")) == "seen 5 certificates, wanted at most 4"


def test_evidence_is_bounded() -> None:
    longer = REPORT.hex().encode() + b"\n" * (LARGEST_EVIDENCE - 2 * len(REPORT))
    recognise_evidence(longer)

    assert why(recognise_evidence, longer + b"\n").endswith(f"wanted at most {LARGEST_EVIDENCE}")
