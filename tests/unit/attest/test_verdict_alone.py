"""What a verdict says of one claim, where every other claim is as it should be."""

from dataclasses import replace

import pytest

from krunpy.attest.appraise import Expectations, appraise
from krunpy.attest.azure import read_vcek
from krunpy.attest.policy import OneOf, SnpPolicy, Unchecked
from krunpy.attest.refusal import Refusal, Stage
from krunpy.attest.tdx_appraise import appraise_tdx
from krunpy.attest.tdx_policy import TdxPolicy
from krunpy.attest.verdict import Check, Verdict
from krunpy.attest.verify import verify_snp
from krunpy.formats.evidence_azure import parse_azure_evidence
from krunpy.formats.narrow import Fields
from tests.fakes import amd
from tests.fakes.azure import make_document
from tests.fakes.tdx_claims import expectations, make_claims


def make_verdict(*, held: bool, unknown: bool = False) -> Verdict:
    check = Check(
        name="it", stage=Stage.POLICY, seen="1", wanted="0", source="test", held=held, unknown=unknown
    )
    return Verdict(tee="snp", simulated=False, checks=(check,))


def test_a_trusted_verdict_is_not_one_that_could_not_check() -> None:
    assert not make_verdict(held=True).could_not_check


def test_a_verdict_that_refuses_is_not_one_that_could_not_check() -> None:
    assert not make_verdict(held=False).could_not_check
    assert make_verdict(held=False, unknown=True).could_not_check


def test_a_verdict_without_checks_trusts_nothing() -> None:
    assert not Verdict(tee="snp", simulated=False, checks=()).trusted


@pytest.mark.parametrize("name", ["current", "committed"])
def test_each_version_of_the_firmware_has_its_minimum(name: str) -> None:
    other = "committed" if name == "current" else "current"
    firmware = {f"{name}_firmware": (1, 50, 0), f"{other}_firmware": (1, 60, 0)}
    claims = verify_snp(amd.FakeChip().evidence(**firmware), anchors=amd.anchors(), now=amd.NOW)
    report = claims.report
    accepted = Expectations(
        report_data=OneOf(values=frozenset({bytes(report.report_data)}), source="test"),
        launch_digests=OneOf(values=frozenset({bytes(report.measurement)}), source="test"),
        host_data=Unchecked(reason="test"),
    )
    policy = SnpPolicy(min_firmware=(1, 55, 0), rejects_provisional_firmware=False)

    verdict = appraise(claims, expected=accepted, policy=policy)

    assert [check.name for check in verdict.failures] == [f"firmware-{name}"]


def test_missing_collateral_is_a_check_of_its_own() -> None:
    claims = replace(make_claims(), tcb=None)

    checks = {
        check.name: check
        for check in appraise_tdx(claims, expected=expectations(), policy=TdxPolicy()).checks
    }

    assert (checks["collateral"].held, checks["collateral"].stage) == (False, Stage.COLLATERAL)


@pytest.mark.parametrize(
    ("vek", "why"),
    [
        (b"-----BEGIN CERTIFICATE-----\n", "the VCEK in PEM holds no certificate"),
        (b"-----BEGIN CERTIFICATE-----\nA\n-----END CERTIFICATE-----\n", "a certificate is not base64"),
    ],
)
def test_a_vcek_in_pem_is_a_certificate(vek: bytes, why: str) -> None:
    evidence = parse_azure_evidence(Fields(make_document(amd.FakeChip()), "evidence"))

    with pytest.raises(Refusal) as caught:
        read_vcek(replace(evidence, vek=vek))
    assert (caught.value.stage, caught.value.code, caught.value.why) == (Stage.PARSE, "evidence-format", why)
