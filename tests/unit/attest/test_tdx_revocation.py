"""CRLs of TDX chains: whose they are, when they count, and what they name."""

from datetime import UTC, datetime

import pytest

from krunpy.attest.refusal import Refusal, Stage
from krunpy.attest.revocation import RevocationMode
from krunpy.attest.tdx_verify import verify_tdx
from krunpy.formats.tdx_collateral import TdxCollateral
from tests.fakes.intel import FakePlatform
from tests.fakes.intel_collateral import mint_collateral, mint_crl
from tests.fakes.intel_pki import (
    CA_SERIAL,
    NOW,
    PCK_SERIAL,
    PLATFORM_CA,
    PROCESSOR_CA,
    ROOT,
    SIGNER_SERIAL,
    anchors,
)

PAST = {"next_update": datetime(2026, 5, 31, tzinfo=UTC)}
FUTURE = {"this_update": datetime(2026, 6, 2, tzinfo=UTC)}


def is_checked(collateral: TdxCollateral, mode: RevocationMode = RevocationMode.REQUIRED) -> bool:
    evidence = FakePlatform().evidence()
    claims = verify_tdx(evidence, anchors=anchors(), now=NOW, collateral=collateral, revocation=mode)
    return claims.is_revocation_checked


def refused(code: str, collateral: TdxCollateral, mode: RevocationMode = RevocationMode.REQUIRED) -> None:
    with pytest.raises(Refusal) as caught:
        is_checked(collateral, mode)
    assert (caught.value.stage, caught.value.code) == (Stage.REVOCATION, code)


REVOKED = {
    "PCK": {"pck_crl": mint_crl(PLATFORM_CA, "ca", 99, PCK_SERIAL)},
    "PCK CA": {"root_crl": mint_crl(ROOT, "root", CA_SERIAL)},
    "TCB signer": {"root_crl": mint_crl(ROOT, "root", SIGNER_SERIAL)},
}
FAULTS = {
    "root CRL of a CA": ("crl-issuer", {"root_crl": mint_crl(PLATFORM_CA, "root")}),
    "root CRL by another key": ("crl-signature", {"root_crl": mint_crl(ROOT, "evil")}),
    "root CRL past": ("crl-stale", {"root_crl": mint_crl(ROOT, "root", **PAST)}),
    "root CRL future": ("crl-stale", {"root_crl": mint_crl(ROOT, "root", **FUTURE)}),
    "root CRL with a critical extension": (
        "crl-extension",
        {"root_crl": mint_crl(ROOT, "root", critical="2.5.29.28")},
    ),
    "no root CRL": ("crl-format", {"root_crl": b"\x30\0"}),
    "PCK CRL of the other CA": ("crl-issuer", {"pck_crl": mint_crl(PROCESSOR_CA, "ca")}),
    "PCK CRL by the root": ("crl-signature", {"pck_crl": mint_crl(PLATFORM_CA, "root")}),
    "PCK CRL past": ("crl-stale", {"pck_crl": mint_crl(PLATFORM_CA, "ca", **PAST)}),
    "PCK CRL future": ("crl-stale", {"pck_crl": mint_crl(PLATFORM_CA, "ca", **FUTURE)}),
    "no PCK CRL": ("crl-format", {"pck_crl": b"\x30\0"}),
}


def test_fresh_crls_that_name_others_pass() -> None:
    collateral = mint_collateral(
        root_crl=mint_crl(ROOT, "root", PCK_SERIAL, 99), pck_crl=mint_crl(PLATFORM_CA, "ca", CA_SERIAL)
    )

    assert is_checked(collateral)


@pytest.mark.parametrize("mode", [RevocationMode.REQUIRED, RevocationMode.IF_FRESH])
@pytest.mark.parametrize("who", REVOKED)
def test_a_revoked_certificate_is_refused_wherever_crls_are_read(who: str, mode: RevocationMode) -> None:
    refused("revoked", mint_collateral(**REVOKED[who]), mode)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_a_crl_is_refused_where_one_is_required(fault: str) -> None:
    code, crls = FAULTS[fault]

    refused(code, mint_collateral(**crls))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_a_crl_leaves_the_chain_unchecked_where_none_is_required(fault: str) -> None:
    assert not is_checked(mint_collateral(**FAULTS[fault][1]), RevocationMode.IF_FRESH)


def test_a_stale_crl_still_revokes() -> None:
    stale = mint_crl(PLATFORM_CA, "ca", PCK_SERIAL, **PAST)

    refused("revoked", mint_collateral(pck_crl=stale), RevocationMode.IF_FRESH)


def test_no_crl_is_read_where_that_is_wanted() -> None:
    assert not is_checked(mint_collateral(**REVOKED["PCK"]), RevocationMode.OFF)
    assert is_checked(mint_collateral(), RevocationMode.IF_FRESH)
