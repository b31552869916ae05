"""Revocation lists: which are believed, and what they revoke in which mode."""

from datetime import timedelta

import pytest

from krunpy.attest.evidence import UnverifiedSnp, read_snp_evidence
from krunpy.attest.refusal import Refusal, Stage
from krunpy.attest.revocation import Revocation, RevocationMode
from krunpy.attest.verify import SnpClaims, verify_snp
from krunpy.formats.snp_certs import CertKind, pack_cert_table, pack_evidence
from krunpy.formats.snp_tcb import Product
from tests.fakes import amd
from tests.fakes.amd import NOW, FakeChip, mint_crl

NONE = Revocation()


def verify(evidence: UnverifiedSnp, revocation: Revocation = NONE) -> SnpClaims:
    return verify_snp(evidence, anchors=amd.anchors(), now=NOW, revocation=revocation)


def refused(evidence: UnverifiedSnp, revocation: Revocation = NONE) -> tuple[str, str]:
    with pytest.raises(Refusal) as caught:
        verify(evidence, revocation)
    return caught.value.stage, caught.value.code


REQUIRED = {
    "no CRL": ((), "crl-missing"),
    "garbage": ((b"\x30\x00",), "crl-format"),
    "a CRL of another issuer": ((mint_crl(issuer="SEV-Milan"),), "crl-issuer"),
    "a CRL signed by another key": ((mint_crl(signer="evil"),), "crl-signature"),
    "a CRL signed by the ASK": ((mint_crl(signer="ask"),), "crl-signature"),
    "a CRL with a critical extension": ((mint_crl(critical="1.2.3.4"),), "crl-extension"),
    "a stale CRL": ((mint_crl(next_update=NOW - timedelta(1)),), "crl-stale"),
    "a CRL from the future": ((mint_crl(this_update=NOW + timedelta(1)),), "crl-stale"),
    "a CRL that names the ASK": ((mint_crl(0x10001),), "revoked"),
    "a CRL that names the leaf": ((mint_crl(1),), "revoked"),
    "one of two CRLs that names the ASK": ((mint_crl(), mint_crl(0x10001)), "revoked"),
}


@pytest.mark.parametrize("case", REQUIRED)
def test_where_a_crl_is_required_evidence_is_refused_for(case: str) -> None:
    crls, code = REQUIRED[case]
    revocation = Revocation(mode=RevocationMode.REQUIRED, crls=crls)

    assert refused(FakeChip().evidence(), revocation) == (Stage.REVOCATION, code)


def test_a_fresh_crl_that_names_others_is_a_claim() -> None:
    crls = (mint_crl(0x20001),)

    for mode, checked in (
        (RevocationMode.REQUIRED, True),
        (RevocationMode.IF_FRESH, True),
        (RevocationMode.OFF, False),
    ):
        claims = verify(FakeChip().evidence(), Revocation(mode=mode, crls=crls))

        assert claims.is_revocation_checked is checked


def test_a_stale_crl_is_not_a_check_where_none_is_required() -> None:
    stale = Revocation(mode=RevocationMode.IF_FRESH, crls=(mint_crl(next_update=NOW - timedelta(1)),))

    assert not verify(FakeChip().evidence(), stale).is_revocation_checked


def test_a_fresh_crl_revokes_where_none_is_required() -> None:
    crl = Revocation(mode=RevocationMode.IF_FRESH, crls=(mint_crl(0x10001),))

    assert refused(FakeChip().evidence(), crl) == (Stage.REVOCATION, "revoked")


def test_the_first_genoa_ask_is_refused_without_a_crl() -> None:
    chip = FakeChip(product=Product.GENOA, ask={"serial": 0x20001})

    assert refused(chip.evidence()) == (Stage.REVOCATION, "revoked")


def test_a_crl_that_came_with_the_evidence_is_read() -> None:
    chip = FakeChip()
    table = {
        CertKind.VCEK: chip.certificate,
        CertKind.ASK: chip.intermediate,
        CertKind.CRL: mint_crl(0x10001),
    }
    evidence = read_snp_evidence(pack_evidence(chip.sign(chip.report()), pack_cert_table(table)))

    assert verify(evidence).is_revocation_checked is False
    assert refused(evidence, Revocation(mode=RevocationMode.IF_FRESH)) == (Stage.REVOCATION, "revoked")
