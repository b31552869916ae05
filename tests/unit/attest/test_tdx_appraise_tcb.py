"""What Intel's collateral says of a TCB, and what its absence means; advisories; policies that must not be."""

from dataclasses import replace

import pytest

from krunpy.attest.refusal import Stage
from krunpy.attest.tdx_appraise import appraise_tdx
from krunpy.attest.tdx_claims import TcbStatus
from krunpy.attest.tdx_policy import TdAttributes, TdxPolicy
from krunpy.core.octets import Digest48
from tests.fakes.tdx_claims import (
    PIID,
    PPID,
    SERVICE,
    expectations,
    judge,
    make_claims,
    one_of,
    with_attribute,
    with_tcb,
    with_td,
)


@pytest.mark.parametrize("status", [status for status in TcbStatus if status is not TcbStatus.UP_TO_DATE])
def test_no_status_but_up_to_date_passes_by_default(status: TcbStatus) -> None:
    assert judge(with_tcb(status=status)) == ["tcb-status"]


@pytest.mark.parametrize("status", [status for status in TcbStatus if status is not TcbStatus.REVOKED])
def test_a_status_that_the_policy_names_passes(status: TcbStatus) -> None:
    assert judge(with_tcb(status=status), TdxPolicy(tcb_statuses=frozenset({status}))) == []


def test_the_tcb_status_fails_at_its_own_stage_before_the_policy_is_asked() -> None:
    claims = replace(with_td(mrservicetd=Digest48(SERVICE)), tcb=with_tcb(status=TcbStatus.OUT_OF_DATE).tcb)

    verdict = appraise_tdx(claims, expected=expectations(), policy=TdxPolicy())

    assert [(check.name, check.stage) for check in verdict.failures] == [
        ("tcb-status", Stage.TCB),
        ("mrservicetd", Stage.POLICY),
    ]


def test_without_collateral_the_verdict_is_neither_trusted_nor_refused() -> None:
    claims = replace(make_claims(), tcb=None, is_revocation_checked=False)
    policy = TdxPolicy(required_advisories=frozenset({"INTEL-SA-00837"}))

    verdict = appraise_tdx(claims, expected=expectations(), policy=policy)

    assert not verdict.trusted
    assert verdict.could_not_check
    assert [check.name for check in verdict.failures] == [
        "collateral",
        "tcb-status",
        "tcb-evaluation-number",
        "tcb-date",
        "revocation",
        "advisory-intel-sa-00837",
    ]
    assert verdict.failures[0].stage is Stage.COLLATERAL
    assert verdict.heading == "could not check: collateral"
    assert verdict.to_dict()["could_not_check"] is True


def test_without_collateral_what_is_wrong_is_still_refused() -> None:
    claims = replace(with_attribute(TdAttributes.DEBUG), tcb=None)

    verdict = appraise_tdx(claims, expected=expectations(), policy=TdxPolicy())

    assert not verdict.could_not_check
    assert "attribute-debug" in [check.name for check in verdict.failures]


def test_intels_advisories_are_denied_and_required_by_id() -> None:
    listed = with_tcb(advisory_ids=frozenset({"INTEL-SA-00837"}))
    named = frozenset({"INTEL-SA-00837"})

    assert judge(listed) == []
    assert judge(listed, TdxPolicy(denied_advisories=named)) == ["advisory-intel-sa-00837"]
    assert judge(listed, TdxPolicy(required_advisories=named)) == ["advisory-intel-sa-00837"]
    assert judge(policy=TdxPolicy(denied_advisories=named, required_advisories=named)) == []


def test_an_advisory_that_an_old_level_does_not_name_is_not_shown_to_be_mended() -> None:
    named = frozenset({"INTEL-SA-00837"})
    old = with_tcb(status=TcbStatus.OUT_OF_DATE)
    accepted = frozenset({TcbStatus.OUT_OF_DATE})

    assert judge(old, TdxPolicy(tcb_statuses=accepted, denied_advisories=named)) == []
    policy = TdxPolicy(tcb_statuses=accepted, required_advisories=named)
    assert judge(old, policy) == ["advisory-intel-sa-00837"]


def test_a_list_of_known_platforms_is_what_helps_against_tee_fail() -> None:
    named = frozenset({"TEE.fail"})

    assert judge(policy=TdxPolicy(required_advisories=named, ppids=one_of(PPID))) == []
    assert judge(policy=TdxPolicy(required_advisories=named, piids=one_of(PIID))) == []
    assert judge(policy=TdxPolicy(denied_advisories=named)) == ["advisory-tee.fail"]


@pytest.mark.parametrize(
    "demand",
    [
        {"tcb_statuses": frozenset({TcbStatus.UP_TO_DATE, TcbStatus.REVOKED})},
        {"min_tee_tcb_svn": b"\1"},
        {"required_advisories": frozenset({"AMD-SB-3015"})},
        {"denied_advisories": frozenset({"INTEL-SA-837"})},
    ],
)
def test_a_policy_that_must_not_be_cannot_be_made(demand: dict) -> None:
    with pytest.raises(ValueError, match=r"revoked|16 bytes|is not the id"):
        TdxPolicy(**demand)
