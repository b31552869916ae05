"""Verdicts on evidence of made-up hardware: each exit status, and the one thing that leads to it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from krunpy.attest.anchors import load_amd_anchors, load_intel_anchors
from krunpy.attest.policy_sections import parse_policies
from krunpy.cli.evidence_cache import complete_given
from krunpy.cli.evidence_given import Given
from krunpy.cli.evidence_judge import Outcome, find_outcome, judge_evidence
from krunpy.core.octets import HostData, ReportData
from krunpy.formats.evidence_encodings import recognise_evidence
from krunpy.formats.snp_certs import CertKind, pack_cert_table, pack_evidence, parse_evidence
from krunpy.formats.snp_report import GuestPolicy, SigningKey
from krunpy.formats.snp_tcb import Product
from krunpy.tee.authority import open_authority
from krunpy.tee.software import UnsafeSoftwareTee
from tests.fakes import amd, collateral_samples
from tests.fakes.amd import FakeChip
from tests.fakes.azure import NONCE, make_document, make_tdx_document
from tests.fakes.intel import FakePlatform

CHIP = FakeChip()
DEFAULT = parse_policies({}, source="the default policy", accepts_simulated=False)
GIVEN = Given(anchors=amd.anchors(), intel_anchors=load_intel_anchors(), now=amd.NOW, policies=DEFAULT)


def judge(data: bytes, **given: Any) -> tuple[Outcome, str]:
    """Return the outcome for evidence of made-up hardware, and the code of the first failure."""
    verdict = judge_evidence(recognise_evidence(data).evidence, replace(GIVEN, **given))
    return find_outcome(verdict), verdict.code


def policies(**snp: object) -> Any:
    return parse_policies({"snp": snp}, source="p.toml", accepts_simulated=False)


def test_evidence_that_holds_is_trusted() -> None:
    assert judge(CHIP.payload()) == (Outcome.TRUSTED, "")


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"policy": GuestPolicy.RESERVED_ONE | GuestPolicy.DEBUG}, "policy-debug"),
        ({"policy": GuestPolicy.RESERVED_ONE | GuestPolicy.MIGRATE_MA}, "policy-migrate-ma"),
        ({"vmpl": 1}, "vmpl"),
        ({"vmpl": 0xFFFFFFFF}, "vmpl"),
    ],
)
def test_what_the_default_policy_forbids_is_valid_but_not_trusted(changes: dict[str, Any], code: str) -> None:
    assert judge(CHIP.payload(**changes)) == (Outcome.NOT_TRUSTED, code)


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"nonce": b"other"}, "report-data"),
        ({"nonce": bytes(63) + b"\1"}, "report-data"),
        ({"report_data": b"\1" * 64}, "report-data"),
        ({"values": {"--measurement": frozenset({b"\1" * 48})}}, "measurement"),
        ({"values": {"--host-data": frozenset({b"\1" * 32})}}, "host-data"),
        ({"policies": policies(min_tcb={"snp": 255})}, "tcb-reported"),
        ({"policies": policies(require_single_socket=True)}, "policy-single-socket"),
    ],
)
def test_what_was_asked_for_and_is_not_there_is_not_trusted(given: dict[str, Any], code: str) -> None:
    assert judge(CHIP.payload(), **given) == (Outcome.NOT_TRUSTED, code)


@pytest.mark.parametrize(
    "given",
    [
        {"nonce": b"nonce"},
        {"report_data": b"nonce".ljust(64, b"\0")},
        {"values": {"--measurement": frozenset({b"\1" * 48, bytes(48)})}},
        {"values": {"--host-data": frozenset({bytes(32)})}},
        {"policies": policies(min_tcb={"snp": 1})},
    ],
)
def test_what_was_asked_for_and_is_there_is_trusted(given: dict[str, Any]) -> None:
    payload = CHIP.payload(report_data=ReportData(b"nonce".ljust(64, b"\0")))

    assert judge(payload, **given) == (Outcome.TRUSTED, "")


def test_a_report_signed_by_another_key_is_invalid() -> None:
    assert judge(FakeChip(signer="other").payload()) == (Outcome.INVALID, "signature")


def test_a_chain_to_another_root_is_invalid() -> None:
    outcome, _ = judge(CHIP.payload(), anchors=load_amd_anchors())

    assert outcome is Outcome.INVALID


def test_a_malformed_report_is_invalid_even_without_a_certificate() -> None:
    raw = bytearray(CHIP.sign(CHIP.report()))
    raw[0x4C] = 1  # reserved

    assert judge(bytes(raw)) == (Outcome.INVALID, "report-format")


def test_a_report_without_a_certificate_cannot_be_checked() -> None:
    assert judge(CHIP.sign(CHIP.report())) == (Outcome.NOT_CHECKED, "chain-missing")


def test_a_certificate_of_the_other_kind_does_not_stand_in_for_the_missing_one() -> None:
    report, _ = parse_evidence(CHIP.payload())
    table = pack_cert_table({CertKind.VLEK: FakeChip(kind=SigningKey.VLEK).certificate})

    assert judge(pack_evidence(report, table)) == (Outcome.NOT_CHECKED, "chain-missing")


def test_certificates_may_be_given_in_any_order() -> None:
    chain = (amd.mint_root(Product.MILAN), CHIP.intermediate)
    report = CHIP.sign(CHIP.report())

    assert judge(report, vek=CHIP.certificate, chain=chain) == (Outcome.TRUSTED, "")
    assert judge(report, chain=(CHIP.certificate, *chain)) == (Outcome.TRUSTED, "")


def test_a_chain_that_was_given_is_used_and_not_the_evidences() -> None:
    other = FakeChip(product=Product.GENOA)

    assert judge(CHIP.payload(), chain=(other.intermediate,))[0] is Outcome.INVALID
    assert judge(CHIP.payload(), chain=(amd.mint_root(Product.GENOA),))[0] is Outcome.INVALID
    assert judge(CHIP.payload(), vek=other.certificate)[0] is Outcome.INVALID


def test_a_revocation_list_that_was_given_has_to_count() -> None:
    assert judge(CHIP.payload(), crls=(amd.mint_crl(),)) == (Outcome.TRUSTED, "")
    assert judge(CHIP.payload(), crls=(amd.mint_crl(0x10001),)) == (Outcome.INVALID, "revoked")
    assert judge(CHIP.payload(), crls=(amd.mint_crl(signer="evil"),)) == (Outcome.INVALID, "crl-signature")


def test_a_revocation_list_that_the_policy_requires_and_nobody_gave_cannot_be_checked() -> None:
    assert judge(CHIP.payload(), policies=policies(require_crl=True)) == (Outcome.NOT_CHECKED, "crl-missing")


def test_an_expired_certificate_is_invalid() -> None:
    assert judge(CHIP.payload(), now=amd.LATER.replace(year=2040)) == (
        Outcome.INVALID,
        "certificate-validity",
    )


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Evidence of a software TEE on which nothing was loaded, with the policy of a production guest."""
    tee = UnsafeSoftwareTee(open_authority(str(tmp_path_factory.mktemp("authority")), now=amd.NOW))
    tee.launch_start()
    tee.launch_finish(HostData(bytes(32)))
    return tee.report(ReportData(bytes(64)))


def test_simulated_evidence_is_valid_but_never_trusted(simulated: bytes) -> None:
    verdict = judge_evidence(recognise_evidence(simulated).evidence, GIVEN)

    assert find_outcome(verdict) is Outcome.NOT_TRUSTED
    assert [check.name for check in verdict.failures] == ["not-simulated-here"]
    assert verdict.heading.startswith("SIMULATED - NOT CONFIDENTIAL: refused")


def test_forged_simulated_evidence_is_invalid(simulated: bytes) -> None:
    changed = bytearray(simulated)
    changed[4 + 0x50] ^= 1  # report_data, in the payload

    assert judge(bytes(changed)) == (Outcome.INVALID, "signature")


# --- Azure


def test_azure_is_trusted_for_its_challenge_alone() -> None:
    data = json.dumps(make_document(CHIP)).encode()
    chain = (CHIP.intermediate,)

    assert judge(data, chain=chain, nonce=NONCE) == (Outcome.TRUSTED, "")
    assert judge(data, chain=chain, nonce=b"other") == (Outcome.NOT_TRUSTED, "vtpm-nonce")
    assert judge(data, chain=chain, report_data=bytes(64)) == (Outcome.NOT_TRUSTED, "report-data")


@pytest.mark.parametrize(
    ("lie", "code"),
    [
        ({"signer": "evil"}, "vtpm-signature"),
        ({"report_data": bytes(64)}, "runtime-data"),
        ({"pcrs": (b"\1" * 32,) * 24}, "vtpm-pcrs"),
    ],
)
def test_azure_with_a_broken_link_is_invalid(lie: dict[str, Any], code: str) -> None:
    data = json.dumps(make_document(CHIP, **lie)).encode()

    assert judge(data, chain=(CHIP.intermediate,), nonce=NONCE) == (Outcome.INVALID, code)


@pytest.mark.parametrize(
    ("make", "member"),
    [(lambda: make_document(CHIP), "vcek"), (lambda: make_tdx_document(FakePlatform()), "td_quote")],
)
def test_azure_with_an_empty_part_is_invalid(make: Callable[[], dict[str, Any]], member: str) -> None:
    data = json.dumps(make() | {member: ""}).encode()

    assert judge(data, chain=(CHIP.intermediate,), nonce=NONCE)[0] is Outcome.INVALID


# --- what the cache has


def test_what_the_evidence_came_without_is_taken_from_the_cache(tmp_path: Path) -> None:
    cache = collateral_samples.open_cache(tmp_path)
    report = CHIP.sign(CHIP.report())
    given = replace(GIVEN, anchors=collateral_samples.roots().amd)
    nothing = complete_given(report, given, cache)
    cache.keep(collateral_samples.VCEK, collateral_samples.vcek_der())

    completed = complete_given(report, given, cache)

    assert nothing.names == ()
    assert len(completed.names) == 1
    assert judge_evidence(recognise_evidence(report).evidence, completed.given).trusted


def test_what_was_given_is_not_replaced_from_the_cache(tmp_path: Path) -> None:
    cache = collateral_samples.open_cache(tmp_path)
    cache.keep(collateral_samples.VCEK, collateral_samples.vcek_der())

    completed = complete_given(CHIP.sign(CHIP.report()), replace(GIVEN, vek=b"mine"), cache)

    assert (completed.given.vek, completed.names) == (b"mine", ())


def test_evidence_that_does_not_say_what_it_needs_gets_nothing(tmp_path: Path) -> None:
    masked = CHIP.sign(CHIP.report(chip_id=bytes(64)))

    assert complete_given(masked, GIVEN, collateral_samples.open_cache(tmp_path)).names == ()
