"""The appraisal of TDX claims: every demand and every reference value is a check that can fail alone."""

from dataclasses import fields, replace
from datetime import date

import pytest

from krunpy.attest.policy import Unchecked
from krunpy.attest.tdx_appraise import appraise_tdx
from krunpy.attest.tdx_claims import TcbStatus, TdxClaims
from krunpy.attest.tdx_policy import TdAttributes, TdxPolicy
from krunpy.core.octets import Digest48, ReportData
from tests.fakes.tdx_claims import (
    FMSPC,
    OTHER,
    PCK,
    PIID,
    PPID,
    RTMRS,
    SERVICE,
    expectations,
    judge,
    make_claims,
    one_of,
    with_attribute,
    with_extended,
    with_pck,
    with_tcb,
    with_td,
)


def test_what_was_expected_is_trusted() -> None:
    assert judge() == []


def test_every_check_says_what_was_seen_and_wanted_and_why() -> None:
    verdict = appraise_tdx(make_claims(), expected=expectations(), policy=TdxPolicy())

    assert len(verdict.checks) > 45
    assert len({check.name for check in verdict.checks}) == len(verdict.checks)
    assert all(check.seen and check.wanted and check.source for check in verdict.checks)


def with_other_rtmr(index: int) -> TdxClaims:
    rtmrs = [Digest48(rtmr) for rtmr in RTMRS]
    rtmrs[index] = Digest48(OTHER * 48)
    return with_td(rtmrs=tuple(rtmrs))


# what the platform or the host changed, under the default policy -> the check that fails, and no other
CHANGED = {
    "report-data": with_td(report_data=ReportData(OTHER * 64)),
    "mrtd": with_td(mrtd=Digest48(OTHER * 48)),
    **{f"rtmr{index}": with_other_rtmr(index) for index in range(4)},
    "mrconfigid": with_td(mrconfigid=Digest48(OTHER * 48)),
    "mrservicetd": with_td(mrservicetd=Digest48(SERVICE)),
    "service-td-at-launch": with_extended(init_servtd_hash=SERVICE),
    "service-td-now": with_extended(current_servtd_hash=SERVICE),
    "attribute-debug": with_attribute(TdAttributes.DEBUG),
    "attribute-tud-1": with_attribute(1 << 1),
    "attribute-tud-2": with_attribute(1 << 2),
    "attribute-tud-3": with_attribute(1 << 3),
    "attribute-hgs-plus-prof": with_attribute(1 << 4),
    "attribute-perf-prof": with_attribute(1 << 5),
    "attribute-pmt-prof": with_attribute(1 << 6),
    "attribute-tud-7": with_attribute(1 << 7),
    "attribute-lass": with_attribute(1 << 27),
    "attribute-migratable": with_attribute(1 << 29),
    "attribute-tpa": with_attribute(1 << 62),
    "attribute-unknown": with_attribute(1 << 40),
    "seam-attributes": with_td(seam_attributes=b"\1" + bytes(7)),
    "xfam-required": with_td(xfam=0x61AE6),
    "xfam-allowed": with_td(xfam=0x61AE7 | 1 << 4),
    "tcb-status": with_tcb(status=TcbStatus.OUT_OF_DATE),
    "revocation": replace(make_claims(), is_revocation_checked=False),
    "not-simulated-here": replace(make_claims(), simulated=True),
}


@pytest.mark.parametrize("name", CHANGED)
def test_one_changed_claim_fails_its_check_alone(name: str) -> None:
    assert judge(CHANGED[name]) == [name]


# a demand of the policy that the claims do not meet -> the check that fails, and no other
DEMANDS = {
    "attribute-pks": {"required_attributes": TdAttributes.PKS},
    "attribute-key-locker": {"required_attributes": TdAttributes.KEY_LOCKER},
    "attribute-perfmon": {"required_attributes": TdAttributes.PERFMON},
    "attribute-sept-ve-disable": {"allowed_attributes": TdAttributes(0)},
    "xfam-required": {"required_xfam": 1 << 8},
    "xfam-allowed": {"allowed_xfam": 0x3},
    "zero-padding": {"accepts_zero_padding": False},
    "mrowner": {"mrowners": one_of(OTHER * 48)},
    "mrownerconfig": {"mrownerconfigs": one_of(OTHER * 48)},
    "mrservicetd": {"service_tds": one_of(SERVICE)},
    "tcb-status": {"tcb_statuses": frozenset({TcbStatus.SW_HARDENING_NEEDED})},
    "tcb-evaluation-number": {"min_evaluation_number": 21},
    "tcb-date": {"min_tcb_date": date(2025, 6, 2)},
    "qe-svn": {"min_qe_svn": 9},
    "pce-svn": {"min_pce_svn": 14},
    "dynamic-platform": {"accepts_dynamic_platform": False},
    "cached-keys": {"accepts_cached_keys": False},
    "smt": {"accepts_smt": False},
    "fmspc": {"fmspcs": one_of(OTHER * 6)},
    "fmspc-denied": {"denied_fmspcs": frozenset({FMSPC})},
    "ppid": {"ppids": one_of(OTHER * 16)},
    "ppid-denied": {"denied_ppids": frozenset({PPID})},
    "piid": {"piids": one_of(OTHER * 16)},
    "piid-denied": {"denied_piids": frozenset({PIID})},
    "pck-denied": {"denied_pcks": frozenset({PCK})},
    "advisory-tee.fail": {"required_advisories": frozenset({"TEE.fail"})},
}
TOGETHER = {"mrservicetd": ["mrservicetd", "service-td-at-launch", "service-td-now"]}


@pytest.mark.parametrize("name", DEMANDS)
def test_a_demand_that_is_not_met_fails_its_check_alone(name: str) -> None:
    assert judge(policy=TdxPolicy(**DEMANDS[name])) == TOGETHER.get(name, [name])


OWN_TESTS = {"collateral", "tee-tcb-svn", "tee-tcb-svn-at-launch"}


def test_every_check_of_a_verdict_has_a_test_that_makes_it_fail_alone() -> None:
    verdict = appraise_tdx(make_claims(), expected=expectations(), policy=TdxPolicy())

    assert {check.name for check in verdict.checks} == {*CHANGED, *DEMANDS, *OWN_TESTS}


def test_every_field_of_a_policy_can_make_a_verdict_fail() -> None:
    turned = {field for demand in DEMANDS.values() for field in demand}
    elsewhere = {"source", "accepts_simulated", "requires_crl", "min_tee_tcb_svn", "denied_advisories"}

    assert {field.name for field in fields(TdxPolicy)} == turned | elsewhere


@pytest.mark.parametrize("at", range(16))
def test_every_byte_of_the_least_tcb_svn_counts(at: int) -> None:
    claims = make_claims()
    extended = replace(claims.quote.td.extended, init_tee_tcb_svn=claims.quote.td.tee_tcb_svn)
    floor = bytearray(claims.quote.td.tee_tcb_svn)
    floor[at] += 1

    # Never compared as one number: a high byte elsewhere does not make up for a low one.
    lifted = bytes(255 if index != at else byte for index, byte in enumerate(claims.quote.td.tee_tcb_svn))

    policy = TdxPolicy(min_tee_tcb_svn=bytes(floor))
    both = ["tee-tcb-svn", "tee-tcb-svn-at-launch"]
    assert judge(with_td(extended=extended), policy) == both
    assert judge(with_td(tee_tcb_svn=lifted, extended=extended), policy) == both


def test_a_td_launched_on_an_older_tcb_is_refused_where_a_newer_is_wanted() -> None:
    policy = TdxPolicy(min_tee_tcb_svn=bytes([5, *bytes(15)]))

    assert judge(policy=policy) == ["tee-tcb-svn-at-launch"]


def test_an_older_tcb_svn_is_refused_though_the_launch_was_on_a_newer() -> None:
    policy = TdxPolicy(min_tee_tcb_svn=bytes([4, *bytes(15)]))

    assert judge(with_td(tee_tcb_svn=bytes([3, 1, 2, *bytes(13)])), policy) == ["tee-tcb-svn"]


@pytest.mark.parametrize("name", ["report_data", "mrtds", "mrconfigids"])
def test_an_empty_set_of_reference_values_accepts_nothing(name: str) -> None:
    assert len(judge(**{name: one_of()})) == 1


def test_registers_can_be_left_open_and_the_verdict_says_why() -> None:
    anything = Unchecked(reason="the shape of the machine is not pinned")

    verdict = appraise_tdx(
        make_claims(), expected=expectations(rtmrs=(anything, *expectations().rtmrs[1:])), policy=TdxPolicy()
    )

    (check,) = [check for check in verdict.checks if check.name == "rtmr0"]
    assert (check.wanted, check.source, check.held) == ("any", anything.reason, True)


def test_the_default_policy_passes_a_td_1_0_without_sept_ve_disable() -> None:
    old = with_td(td_attributes=0, tee_tcb_svn_2=None, mrservicetd=None, extended=None)

    assert judge(old) == []
    required = TdxPolicy(required_attributes=TdAttributes.SEPT_VE_DISABLE)
    assert judge(old, required) == ["attribute-sept-ve-disable"]


def test_what_a_policy_allows_is_accepted() -> None:
    policy = TdxPolicy(
        accepts_simulated=True,
        allowed_attributes=TdAttributes.DEBUG | TdAttributes.SEPT_VE_DISABLE,
        service_tds=one_of(bytes(48), SERVICE),
        requires_crl=False,
    )
    claims = with_td(
        td_attributes=TdAttributes.DEBUG | TdAttributes.SEPT_VE_DISABLE, mrservicetd=Digest48(SERVICE)
    )

    assert judge(replace(claims, simulated=True, is_revocation_checked=False), policy) == []


@pytest.mark.parametrize("said", [True, None])
@pytest.mark.parametrize(
    ("name", "field", "demand"),
    [
        ("dynamic-platform", "dynamic_platform", "accepts_dynamic_platform"),
        ("cached-keys", "cached_keys", "accepts_cached_keys"),
        ("smt", "smt_enabled", "accepts_smt"),
    ],
)
def test_a_platform_must_deny_what_the_policy_does_not_accept(
    name: str, field: str, demand: str, said: object
) -> None:
    policy = TdxPolicy(**{demand: False})

    assert judge(with_pck(**{field: said}), policy) == [name]
    assert judge(with_pck(**{field: False}), policy) == []


def test_a_platform_without_piid_is_refused_where_the_policy_names_some() -> None:
    assert judge(with_pck(piid=None)) == []
    assert judge(with_pck(piid=None), TdxPolicy(piids=one_of(PIID))) == ["piid"]
