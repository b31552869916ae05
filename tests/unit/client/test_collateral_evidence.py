import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krunpy.attest.anchors import load_amd_anchors, load_intel_anchors
from krunpy.attest.evidence import read_snp_evidence
from krunpy.attest.verify import verify_snp
from krunpy.client.collateral_check import Roots, check_contents
from krunpy.client.collateral_evidence import (
    EvidenceCollateral,
    list_needed,
)
from krunpy.client.collateral_http import Answer
from krunpy.client.collateral_item import AmdChain, AmdCrl, PckCa, TdxTcbInfo, Vcek, list_tdx_items
from krunpy.client.collateral_source import read_answer
from krunpy.core.errors import FormatError
from krunpy.formats.snp_certs import (
    CertKind,
    pack_cert_table,
    pack_evidence,
    parse_cert_table,
    parse_evidence,
)
from krunpy.formats.snp_report import SigningKey, parse_report
from krunpy.formats.snp_tcb import Product
from krunpy.formats.tdx_collateral import parse_tdx_collateral
from krunpy.formats.tdx_tcb_info import parse_tcb_info
from tests.fakes import amd
from tests.fakes.collateral_samples import (
    CHAIN,
    CRL,
    MILAN,
    NOW,
    TDX,
    VCEK,
    good_replies,
    good_server,
    make_client,
    path_of,
    roots,
    vcek_der,
)
from tests.fakes.collateral_server import CollateralServer, make_tdx_replies
from tests.fakes.intel import FakePlatform

DEFAULT = Path(__file__).resolve().parents[3].parent / "shared" / "vectors"
VECTORS = Path(os.environ.get("KRUNPY_VECTORS") or DEFAULT)


def bare_payload(**changes):
    """Return SNP evidence whose host gave no certificates."""
    return pack_evidence(MILAN.sign(MILAN.report(**changes)), b"")


# --- what is needed


def test_a_bare_report_needs_its_vcek_chain_and_crl():
    assert list_needed(MILAN.sign(MILAN.report())) == (VCEK, CHAIN, CRL)


def test_evidence_that_brings_its_vcek_needs_no_other():
    assert list_needed(MILAN.payload()) == (CHAIN, CRL)


def test_a_report_signed_by_a_vlek_needs_that_chain():
    chip = amd.FakeChip(kind=SigningKey.VLEK)

    assert list_needed(chip.payload()) == (
        AmdChain(product=Product.MILAN, key=SigningKey.VLEK),
        AmdCrl(product=Product.MILAN, key=SigningKey.VLEK),
    )


def test_a_turin_report_names_its_chip_by_eight_bytes():
    chip = amd.FakeChip(product=Product.TURIN)

    vcek = list_needed(chip.sign(chip.report()))[0]

    assert vcek == Vcek(product=Product.TURIN, hwid=chip.chip_id[:8], tcb=amd.TCB[Product.TURIN])


def test_a_report_of_version_2_needs_to_be_told_its_product():
    raw = MILAN.sign(MILAN.report(version=2, cpuid=(0, 0, 0)))

    assert list_needed(raw, Product.MILAN)[0] == VCEK
    with pytest.raises(FormatError, match="states no product"):
        list_needed(raw)


def test_a_report_of_version_2_states_its_product_by_its_certificate():
    assert list_needed(MILAN.payload(version=2, cpuid=(0, 0, 0))) == (CHAIN, CRL)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"cpuid": (0x19, 0x50, 0)}, "no root is known"),
        ({"chip_id": bytes(64)}, "not all zero"),
        ({"signing_key": SigningKey.NONE}, "no key signed it"),
    ],
)
def test_a_report_that_does_not_say_what_it_needs_is_refused(changes, why):
    with pytest.raises(FormatError, match=why):
        list_needed(MILAN.sign(MILAN.report(**changes)))


def test_a_product_that_contradicts_the_report_is_refused():
    with pytest.raises(FormatError, match="states Milan, and Genoa was given"):
        list_needed(MILAN.sign(MILAN.report()), Product.GENOA)


def test_a_quote_needs_the_collateral_of_its_platform():
    assert list_needed(FakePlatform().quote()) == TDX


@given(st.binary(max_size=3000))
def test_any_bytes_need_something_or_are_refused(data):
    with pytest.raises(FormatError):
        list_needed(data)


@pytest.mark.skipif(not VECTORS.is_dir(), reason="no attestation vectors: set KRUNPY_VECTORS to their folder")
def test_real_evidence_needs_what_was_published_for_it():
    quotes = [path for path in VECTORS.glob("tdx-real/*/quote.bin") if "collateral" in _case(path)]
    reports = [path for path in VECTORS.glob("snp-real/*/report.bin") if _case(path)["stage"] == "-"]

    assert quotes
    assert reports
    for path in quotes:
        collateral = json.loads((path.parent / _case(path)["collateral"]).read_text())
        fmspc = bytes.fromhex(json.loads(collateral["tcb_info"])["fmspc"])
        if "fmspc" not in path.parent.name and _case(path)["expect"] == "accept":
            assert list_needed(path.read_bytes())[0] == TdxTcbInfo(fmspc=fmspc), path
    for path in reports:
        raw = path.read_bytes()
        product = Product(_case(path)["facts"]["prod"])
        try:
            needed = list_needed(raw, product)
        except FormatError as error:
            assert "not all zero" in error.why, path  # noqa: PT017 - a chip that hides itself
            continue
        assert {item.product for item in needed} == {product}, path


@pytest.mark.skipif(not VECTORS.is_dir(), reason="no attestation vectors: set KRUNPY_VECTORS to their folder")
def test_real_collateral_passes_our_checks():
    real = Roots(amd=load_amd_anchors(), intel=load_intel_anchors())
    documents = list(VECTORS.glob("tdx-real/collateral/*.json"))
    leaves = [path for path in VECTORS.glob("snp-real/*/report.bin") if _case(path)["expect"] == "accept"]

    assert documents
    for path in documents:
        collateral = parse_tdx_collateral(path.read_bytes())
        fmspc = parse_tcb_info(collateral.tcb_info).fmspc
        replies = make_tdx_replies(collateral, fmspc=fmspc.hex(), ca="platform")
        for item in list_tdx_items(fmspc, PckCa.PLATFORM):
            reply = replies[path_of(item)]
            headers = {name.lower(): value for name, value in reply.headers}
            contents = read_answer(item, Answer(status=200, headers=headers, body=reply.body))
            assert check_contents(item, contents, real).expires.year >= 2023, path
    checked = 0
    for path in leaves:
        vcek = (
            list_needed(path.read_bytes(), Product(_case(path)["facts"]["prod"]))[0]
            if _names_chip(path)
            else None
        )
        if isinstance(vcek, Vcek):
            assert check_contents(vcek, (path.parent / "vek.der").read_bytes(), real).expires.year > 2025, (
                path
            )
            checked += 1
    assert checked


def _names_chip(path):
    return any(parse_report(path.read_bytes()).chip_id)


def _case(path):
    return json.loads((path.parent / "case.json").read_text())


# --- evidence made whole, for a server


def make_source(directory, url):
    """Return a server's source, and the list of what it notes."""
    notes = []
    return EvidenceCollateral(make_client(directory, url), notes.append), notes


def test_evidence_without_certificates_verifies_with_what_is_fetched(tmp_path):
    payload = bare_payload()
    with good_server().running() as server:
        whole = make_source(tmp_path, server.url)[0].complete_snp(payload, None)

    claims = verify_snp(read_snp_evidence(whole), anchors=roots().amd, now=NOW)
    assert claims.report.chip_id == MILAN.chip_id
    assert parse_evidence(whole)[0] == parse_evidence(payload)[0]
    assert server.asked == [path_of(VCEK)]


def test_certificates_that_came_are_kept(tmp_path):
    raw = MILAN.sign(MILAN.report())
    table = pack_cert_table({CertKind.ARK: amd.mint_root(Product.MILAN)})
    with good_server().running() as server:
        whole = make_source(tmp_path, server.url)[0].complete_snp(pack_evidence(raw, table), None)

    blobs = parse_cert_table(parse_evidence(whole)[1]).blobs
    assert blobs == {CertKind.VCEK: vcek_der(), CertKind.ARK: amd.mint_root(Product.MILAN)}


@pytest.mark.parametrize(
    "payload", [MILAN.payload, lambda: b"nonsense", lambda: bare_payload(chip_id=bytes(64))]
)
def test_what_cannot_be_completed_is_left_and_nobody_asked(tmp_path, payload):
    given_payload = payload()
    with good_server().running() as server:
        assert make_source(tmp_path, server.url)[0].complete_snp(given_payload, None) == given_payload

    assert server.asked == []


def test_what_cannot_be_had_is_nothing_and_noted(tmp_path):
    with CollateralServer().running() as server:
        source, notes = make_source(tmp_path, server.url)

        assert source.complete_snp(bare_payload(), None) is None
        assert source.find_crls(MILAN.payload()) == ()
        assert source.find_tdx(pack_evidence(FakePlatform().quote(), b"")) is None

    assert [note.exit_code for note in notes] == [5, 5, 5]
    assert "VCEK of Milan" in notes[0].what


def test_the_crl_of_evidence_is_its_products(tmp_path):
    with good_server().running() as server:
        source, _ = make_source(tmp_path, server.url)

        assert source.find_crls(MILAN.payload()) == (good_replies()[path_of(CRL)].body,)
        assert source.find_crls(b"nonsense") == ()
        assert source.find_crls(bare_payload(signing_key=SigningKey.NONE)) == ()

    assert server.asked == [path_of(CRL)]


def test_the_collateral_of_a_quote_is_fetched(tmp_path):
    platform = FakePlatform()
    with good_server().running() as server:
        source, _ = make_source(tmp_path, server.url)
        document = source.find_tdx(pack_evidence(platform.quote(), b""))
        none = source.find_tdx(b"nonsense")

    assert none is None
    assert platform.claims(collateral=parse_tdx_collateral(document)).tcb is not None
    assert len(server.asked) == 4
