"""What a relying party demands of TDX evidence besides the reference values; strict unless told otherwise.

As with SNP (`policy`), every field has a value that means something, and no document can accept simulated
evidence. The default passes what the clouds run today but for service TDs; where they differ, docs/policy.md
shows the member that turns it.

Source: Intel TDX Module Base Architecture Specification, TDATTRIBUTES, XFAM and SEAMATTRIBUTES; Intel API for
the Provisioning Certification Service, TCB status. The XFAM bits that a TD may have are the module's
XFAM_FIXED0, as google/go-tdx-guest has them too.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from enum import IntFlag

from krunpy.attest.advisories import Tee, require_canonical
from krunpy.attest.policy import NOT_CONFIGURED, Expected, OneOf
from krunpy.attest.tdx_claims import TcbStatus

TEE_TCB_SVN_SIZE = 16  # bytes
NO_SERVICE_TD = bytes(48)  # MRSERVICETD of a TD that has none
_XFAM_FIXED0, _XFAM_FIXED1 = 0x6DBE7, 0x3
_NO_SVN = bytes(TEE_TCB_SVN_SIZE)


class TdAttributes(IntFlag):
    """The known bits of TDATTRIBUTES. The first eight make a TD one that cannot be trusted."""

    DEBUG = 1
    TUD_1 = 1 << 1
    TUD_2 = 1 << 2
    TUD_3 = 1 << 3
    HGS_PLUS_PROF = 1 << 4
    PERF_PROF = 1 << 5
    PMT_PROF = 1 << 6
    TUD_7 = 1 << 7
    LASS = 1 << 27
    SEPT_VE_DISABLE = 1 << 28
    MIGRATABLE = 1 << 29
    PKS = 1 << 30
    KEY_LOCKER = 1 << 31
    TPA = 1 << 62
    PERFMON = 1 << 63


_ALLOWED = TdAttributes.SEPT_VE_DISABLE | TdAttributes.PKS | TdAttributes.KEY_LOCKER | TdAttributes.PERFMON
_UP_TO_DATE = frozenset({TcbStatus.UP_TO_DATE})
_NONE_ALLOWED = OneOf(values=frozenset({NO_SERVICE_TD}), source="the default policy: no service TD")


@dataclass(frozen=True, slots=True, kw_only=True)
class TdxPolicy:
    """The demands; the defaults are those of a TD that nobody may debug, profile, migrate or serve.

    accepts_simulated:  for development: a software TEE protects nothing.
    *_attributes:       bits of TDATTRIBUTES; a bit that is not allowed must be clear.
    *_xfam:             bits of XFAM; required ones must be set, none but allowed ones may be.
    service_tds:        MRSERVICETD, and the hashes of service TDs of the 1.5 extended body.
    accepts_zero_padding: that zero bytes may follow the quote's end; other bytes never may.
    tcb_statuses:       accepted statuses of platform, module and QE together; never Revoked.
    min_evaluation_number: tcbEvaluationDataNumber, so that nobody serves older collateral that is still valid.
    min_tcb_date:       the oldest date of a matched TCB level, with a grace for statuses that say OutOfDate.
    requires_crl:       that fresh CRLs were read.
    min_qe_svn, min_pce_svn: ISVSVN of the QE's report; PCESVN of the PCK certificate.
    min_tee_tcb_svn:    16 bytes, compared byte by byte.
    accepts_*:          what the PCK certificate says of the platform; what is not accepted must be denied there.
    fmspcs (6 bytes), ppids, piids (16): accepted platforms; denied_*: those that are known to be broken,
                        denied_pcks by the SHA-256 of their SubjectPublicKeyInfo.
    """

    source: str = "the default policy"
    accepts_simulated: bool = False
    allowed_attributes: TdAttributes = _ALLOWED
    required_attributes: TdAttributes = TdAttributes(0)  # noqa: RUF009 - an immutable value
    required_xfam: int = _XFAM_FIXED1
    allowed_xfam: int = _XFAM_FIXED0
    service_tds: Expected = _NONE_ALLOWED
    accepts_zero_padding: bool = True
    mrowners: Expected = NOT_CONFIGURED
    mrownerconfigs: Expected = NOT_CONFIGURED
    tcb_statuses: frozenset[TcbStatus] = _UP_TO_DATE
    min_evaluation_number: int = 0
    min_tcb_date: date = date.min
    requires_crl: bool = True
    min_qe_svn: int = 0
    min_pce_svn: int = 0
    min_tee_tcb_svn: bytes = _NO_SVN
    accepts_dynamic_platform: bool = True
    accepts_cached_keys: bool = True
    accepts_smt: bool = True
    fmspcs: Expected = NOT_CONFIGURED
    ppids: Expected = NOT_CONFIGURED
    piids: Expected = NOT_CONFIGURED
    denied_fmspcs: frozenset[bytes] = frozenset()
    denied_ppids: frozenset[bytes] = frozenset()
    denied_piids: frozenset[bytes] = frozenset()
    denied_pcks: frozenset[bytes] = frozenset()
    required_advisories: frozenset[str] = frozenset()
    denied_advisories: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        """Raise ValueError on what no policy may say: Revoked accepted, an unknown advisory, a short SVN."""
        if TcbStatus.REVOKED in self.tcb_statuses:
            msg = "a revoked TCB is never accepted"
            raise ValueError(msg)
        if len(self.min_tee_tcb_svn) != TEE_TCB_SVN_SIZE:
            msg = f"min_tee_tcb_svn is {TEE_TCB_SVN_SIZE} bytes, seen {len(self.min_tee_tcb_svn)}"
            raise ValueError(msg)
        for names in (self.required_advisories, self.denied_advisories):
            require_canonical(names, Tee.TDX)
