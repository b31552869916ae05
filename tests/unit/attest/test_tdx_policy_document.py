"""TDX policies as JSON: strict defaults, known members only, nothing that accepts simulation or Revoked."""

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krunpy.attest.policy import OneOf
from krunpy.attest.tdx_claims import TcbStatus
from krunpy.attest.tdx_policy import TdAttributes, TdxPolicy
from krunpy.attest.tdx_policy_document import parse_tdx_policy
from krunpy.core.errors import FormatError


def parse(**document: object) -> TdxPolicy:
    return parse_tdx_policy(document, source="the test", accepts_simulated=False)


def one_of(*values: bytes) -> OneOf:
    return OneOf(values=frozenset(values), source="the test")


def test_an_empty_document_is_the_default_policy() -> None:
    assert parse() == TdxPolicy(source="the test")


def test_every_member_reaches_its_demand() -> None:
    policy = parse(
        allow_debug=True,
        allow_lass=True,
        allow_migratable=True,
        allow_pks=False,
        allow_key_locker=False,
        allow_tpa=True,
        allow_perfmon=False,
        require_sept_ve_disable=True,
        require_xfam="0xe7",
        allow_xfam=0x600E7,
        allow_mr_service_td=["01" * 48],
        allow_zero_padding=False,
        mrowner=["02" * 48],
        mrownerconfig=["03" * 48],
        allowed_tcb_status=["UpToDate", "SWHardeningNeeded"],
        min_tcb_eval_data_number=18,
        min_tcb_date="2025-05-14",
        require_crl=False,
        min_qe_svn=7,
        min_pce_svn=13,
        min_tee_tcb_svn="0501" + "00" * 14,
        allow_dynamic_platform=False,
        allow_cached_keys=False,
        allow_smt=False,
        fmspcs=["0a" * 6],
        ppids=["0b" * 16],
        piids=["0c" * 16],
        denied_fmspcs=["1a" * 6],
        denied_ppids=["1b" * 16],
        denied_piids=["1c" * 16],
        denied_pcks=["1d" * 32],
        require_advisories=["TEE.fail"],
        deny_advisories=["INTEL-SA-00837"],
    )

    assert policy == TdxPolicy(
        source="the test",
        allowed_attributes=TdAttributes.SEPT_VE_DISABLE
        | TdAttributes.DEBUG
        | TdAttributes.LASS
        | TdAttributes.MIGRATABLE
        | TdAttributes.TPA,
        required_attributes=TdAttributes.SEPT_VE_DISABLE,
        required_xfam=0xE7,
        allowed_xfam=0x600E7,
        service_tds=one_of(bytes(48), b"\1" * 48),
        accepts_zero_padding=False,
        mrowners=one_of(b"\2" * 48),
        mrownerconfigs=one_of(b"\3" * 48),
        tcb_statuses=frozenset({TcbStatus.UP_TO_DATE, TcbStatus.SW_HARDENING_NEEDED}),
        min_evaluation_number=18,
        min_tcb_date=date(2025, 5, 14),
        requires_crl=False,
        min_qe_svn=7,
        min_pce_svn=13,
        min_tee_tcb_svn=bytes([5, 1, *bytes(14)]),
        accepts_dynamic_platform=False,
        accepts_cached_keys=False,
        accepts_smt=False,
        fmspcs=one_of(b"\x0a" * 6),
        ppids=one_of(b"\x0b" * 16),
        piids=one_of(b"\x0c" * 16),
        denied_fmspcs=frozenset({b"\x1a" * 6}),
        denied_ppids=frozenset({b"\x1b" * 16}),
        denied_piids=frozenset({b"\x1c" * 16}),
        denied_pcks=frozenset({b"\x1d" * 32}),
        required_advisories=frozenset({"TEE.fail"}),
        denied_advisories=frozenset({"INTEL-SA-00837"}),
    )


@pytest.mark.parametrize(
    "document",
    [
        {"allow_simulated": True},
        {"accepts_simulated": True},
        {"allow_debug": 1},
        {"allow_perf_prof": True},
        {"allowed_tcb_status": ["Revoked"]},
        {"allowed_tcb_status": ["uptodate"]},
        {"allowed_tcb_status": "UpToDate"},
        {"allow_xfam": -1},
        {"allow_xfam": 1 << 64},
        {"allow_xfam": "e7"},
        {"allow_mr_service_td": ["00"]},
        {"min_tcb_date": "yesterday"},
        {"min_tcb_date": 20250514},
        {"min_tcb_date": None},
        {"min_tee_tcb_svn": "05"},
        {"min_qe_svn": 1 << 16},
        {"fmspcs": ["0A" * 6]},
        {"denied_pcks": ["1d" * 31]},
        {"require_advisories": ["AMD-SB-3015"]},
        {"deny_advisories": ["INTEL-SA-837"]},
        {"allow_smt": None},
        {"vmpl": 0},
    ],
)
def test_a_document_with_an_unknown_or_wrong_member_is_refused(document: dict) -> None:
    with pytest.raises(FormatError):
        parse(**document)


MEMBERS = ["allow_debug", "allow_xfam", "allowed_tcb_status", "min_tcb_date", "fmspcs", "require_advisories"]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(MEMBERS), VALUES))
def test_any_document_is_a_policy_or_a_format_error(document: dict) -> None:
    try:
        policy = parse(**document)
    except FormatError:
        return
    assert isinstance(policy, TdxPolicy)
