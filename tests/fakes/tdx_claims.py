"""TDX claims as a test sees them: of a current platform and a well-behaved TD, each field able to differ."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from krunpy.attest.policy import OneOf
from krunpy.attest.tdx_appraise import TdxExpectations, appraise_tdx
from krunpy.attest.tdx_claims import PROOF, PckIdentity, TcbStatus, TdxClaims, TdxTcb
from krunpy.attest.tdx_policy import TdAttributes, TdxPolicy
from krunpy.core.octets import Digest48, ReportData
from krunpy.formats.tdx_quote import BodyType, ExtendedTd, TdReport, TdxQuote

REPORT_DATA = b"\x01" * 64
MRTD, MRCONFIGID, MROWNER, MROWNERCONFIG = (bytes([index]) * 48 for index in range(2, 6))
RTMRS = tuple(bytes([index]) * 48 for index in range(6, 10))
FMSPC, PPID, PIID, PCK = b"\x0a" * 6, b"\x0b" * 16, b"\x0c" * 16, b"\x0d" * 32
SERVICE = b"\x0e" * 48
OTHER = b"\x7f"


def make_claims() -> TdxClaims:
    """Return claims of a current platform and a TD of the extended body, with no service TD."""
    extended = ExtendedTd(
        vm_id=0,
        td_id=bytes(32),
        dev_info=bytes(48),
        init_servtd_hash=bytes(48),
        init_servtd_attributes=bytes(8),
        init_cpu_svn=bytes(16),
        init_tee_tcb_svn=bytes([4, 1, 2, *bytes(13)]),
        init_tee_fmspc=bytes(12),
        current_servtd_hash=bytes(48),
        current_servtd_attributes=bytes(8),
    )
    td = TdReport(
        tee_tcb_svn=bytes([5, 1, 2, *bytes(13)]),
        mrseam=Digest48(bytes(48)),
        mrsignerseam=Digest48(bytes(48)),
        seam_attributes=bytes(8),
        td_attributes=TdAttributes.SEPT_VE_DISABLE,
        xfam=0x61AE7,
        mrtd=Digest48(MRTD),
        mrconfigid=Digest48(MRCONFIGID),
        mrowner=Digest48(MROWNER),
        mrownerconfig=Digest48(MROWNERCONFIG),
        rtmrs=tuple(Digest48(rtmr) for rtmr in RTMRS),
        report_data=ReportData(REPORT_DATA),
        tee_tcb_svn_2=bytes(16),
        mrservicetd=Digest48(bytes(48)),
        extended=extended,
    )
    quote = TdxQuote(
        version=5,
        body_type=BodyType.TD_1_5_EXTENDED,
        qe_svn=0,
        pce_svn=0,
        qe_vendor=bytes(16),
        user_data=bytes(20),
        td=td,
        signed=b"",
        signature=bytes(64),
        attestation_key=bytes(64),
        qe_report=bytes(258) + (8).to_bytes(2, "little") + bytes(124),
        qe_signature=bytes(64),
        qe_auth_data=b"",
        pck_chain=b"",
        padding=70,
    )
    pck = PckIdentity(
        fmspc=FMSPC,
        pceid=bytes(2),
        ppid=PPID,
        piid=PIID,
        sgx_type=1,
        components=bytes(16),
        cpu_svn=bytes(16),
        pce_svn=13,
        dynamic_platform=True,
        cached_keys=True,
        smt_enabled=True,
        ca_kind="platform",
        key_digest=PCK,
    )
    tcb = TdxTcb(
        status=TcbStatus.UP_TO_DATE,
        platform=TcbStatus.UP_TO_DATE,
        module=None,
        qe=TcbStatus.UP_TO_DATE,
        advisory_ids=frozenset(),
        tcb_date=datetime(2025, 6, 1, tzinfo=UTC),
        evaluation_number=20,
    )
    return TdxClaims(quote=quote, simulated=False, pck=pck, tcb=tcb, is_revocation_checked=True, proof=PROOF)


def one_of(*values: bytes) -> OneOf:
    return OneOf(values=frozenset(values), source="the test")


def expectations(**changes) -> TdxExpectations:
    expected = TdxExpectations(
        report_data=one_of(REPORT_DATA),
        mrtds=one_of(MRTD),
        rtmrs=tuple(one_of(rtmr) for rtmr in RTMRS),
        mrconfigids=one_of(MRCONFIGID),
    )
    return replace(expected, **changes)


def with_td(**changes) -> TdxClaims:
    claims = make_claims()
    return replace(claims, quote=replace(claims.quote, td=replace(claims.quote.td, **changes)))


def with_extended(**changes) -> TdxClaims:
    return with_td(extended=replace(make_claims().quote.td.extended, **changes))


def with_pck(**changes) -> TdxClaims:
    claims = make_claims()
    return replace(claims, pck=replace(claims.pck, **changes))


def with_tcb(**changes) -> TdxClaims:
    claims = make_claims()
    return replace(claims, tcb=replace(claims.tcb, **changes))


def with_attribute(bit: int) -> TdxClaims:
    return with_td(td_attributes=TdAttributes.SEPT_VE_DISABLE | bit)


def judge(claims: TdxClaims | None = None, policy: TdxPolicy | None = None, **changes) -> list[str]:
    """Return the names of the checks that did not hold."""
    verdict = appraise_tdx(
        claims or make_claims(), expected=expectations(**changes), policy=policy or TdxPolicy()
    )
    assert verdict.trusted is not bool(verdict.failures)
    return [check.name for check in verdict.failures]
