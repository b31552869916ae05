"""Collateral: signed by Intel's signer, of the kind and version that we read, and of now."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from krunpy.attest.refusal import Refusal, Stage
from krunpy.attest.tdx_collateral import verify_collateral
from krunpy.attest.tdx_verify import verify_tdx
from krunpy.formats.tdx_collateral import TdxCollateral
from tests.fakes.intel import FakePlatform
from tests.fakes.intel_collateral import mint_collateral, qe_identity, tcb_info
from tests.fakes.intel_pki import NOW, SIGNER_CERT, anchors, mint, mint_root

GOOD = mint_collateral()


def refused(code: str, collateral: TdxCollateral, now: datetime = NOW) -> None:
    with pytest.raises(Refusal) as caught:
        verify_collateral(collateral, anchors(), now)
    assert (caught.value.stage, caught.value.code) == (Stage.COLLATERAL, code)


def test_good_collateral_is_read() -> None:
    signed = verify_collateral(GOOD, anchors(), NOW)

    assert signed.tcb_info.evaluation_number == 20
    assert signed.qe_identity.evaluation_number == 21
    assert [link.what for link in signed.signers] == ["TCB signing certificate"] * 2


@pytest.mark.parametrize("part", ["tcb_info", "qe_identity"])
def test_a_document_that_was_edited_after_signing_is_refused(part: str) -> None:
    edited = getattr(GOOD, part).replace(b'"UpToDate"', b'"Revoked"', 1)

    refused("collateral-signature", replace(GOOD, **{part: edited}))


@pytest.mark.parametrize("part", ["tcb_info", "qe_identity"])
def test_a_document_with_one_more_blank_is_refused(part: str) -> None:
    refused("collateral-signature", replace(GOOD, **{part: getattr(GOOD, part) + b" "}))


@pytest.mark.parametrize("part", ["info_signer", "identity_signer"])
def test_a_document_that_another_key_signed_is_refused(part: str) -> None:
    refused("collateral-signature", mint_collateral(**{part: "pck"}))


@pytest.mark.parametrize("part", ["info_chain", "identity_chain"])
def test_a_document_of_a_platforms_key_is_refused(part: str) -> None:
    signer = part.replace("chain", "signer")

    refused("chain-length", mint_collateral(**{part: FakePlatform().chain, signer: "pck"}))


@pytest.mark.parametrize("part", ["tcb_info_issuer_chain", "qe_identity_issuer_chain"])
def test_a_chain_that_is_no_pem_is_refused(part: str) -> None:
    refused("collateral-format", replace(GOOD, **{part: b"-----BEGIN"}))


def test_the_signatures_of_the_two_documents_are_not_the_same() -> None:
    refused("collateral-signature", replace(GOOD, tcb_info_signature=GOOD.qe_identity_signature))


@pytest.mark.parametrize(
    "changes",
    [
        {"info": {"id": "SGX"}},
        {"info": {"version": 2}},
        {"info": {"tcbType": 1}},
        {"identity": {"id": "QE"}},
        {"identity": {"id": "QVE"}},
        {"identity": {"version": 1}},
        {"info": json.dumps(tcb_info()).encode().replace(b'{"id"', b'{"id": "TDX", "id"', 1)},
        {"identity": json.dumps(qe_identity()).encode().replace(b'{"id"', b'{"id": "TD_QE", "id"', 1)},
    ],
    ids=[
        *("SGX TCB Info", "version 2", "TCB type 1", "SGX QE", "QVE", "identity version 1"),
        *("duplicate in info", "duplicate in identity"),
    ],
)
def test_a_signed_document_of_another_kind_is_refused(changes: dict) -> None:
    refused("collateral-format", mint_collateral(**changes))


@pytest.mark.parametrize("part", ["info", "identity"])
@pytest.mark.parametrize(
    "times", [{"nextUpdate": "2026-05-31T23:59:59Z"}, {"issueDate": "2026-06-01T00:00:01Z"}], ids=str
)
def test_a_document_of_another_time_is_refused(part: str, times: dict) -> None:
    refused("collateral-stale", mint_collateral(**{part: times}))


@pytest.mark.parametrize("now", [datetime(2026, 5, 20, tzinfo=UTC), datetime(2026, 6, 19, tzinfo=UTC)])
def test_the_limits_of_a_documents_time_belong_to_it(now: datetime) -> None:
    assert verify_collateral(GOOD, anchors(), now).tcb_info.evaluation_number == 20


def test_a_document_that_was_verified_before_is_stale_all_the_same() -> None:
    verify_collateral(GOOD, anchors(), NOW)

    refused("collateral-stale", GOOD, datetime(2026, 7, 1, tzinfo=UTC))


@pytest.mark.parametrize("part", ["info_chain", "identity_chain"])
def test_a_signer_of_another_time_is_refused(part: str) -> None:
    old = mint(replace(SIGNER_CERT, not_after=datetime(2026, 5, 31, tzinfo=UTC)))
    collateral = mint_collateral(**{part: (old, mint_root())})

    with pytest.raises(Refusal) as caught:
        verify_tdx(FakePlatform().evidence(), anchors=anchors(), now=NOW, collateral=collateral)

    assert (caught.value.stage, caught.value.code) == (Stage.VALIDITY, "certificate-validity")
