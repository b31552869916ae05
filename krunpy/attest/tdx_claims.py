"""What verified TDX evidence says: the quote, the platform that signed it, and the status of its TCB.

Nothing is verified or appraised here. A status other than UpToDate is a claim like any other: whether it
is good enough is for a policy.

Source: Intel TDX DCAP Quoting Library API, appendix A; Intel SGX PCK Certificate and Certificate Revocation
List Profile Specification, section 1.3.5; Intel API for the Provisioning Certification Service, TCB status.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from datetime import datetime

    from krunpy.formats.tdx_quote import TdxQuote

PROOF = object()  # for `verify_tdx`, which alone makes claims


class TcbStatus(StrEnum):
    """How current a TCB is, in Intel's spelling; the last two are of a TD that outlived an update."""

    UP_TO_DATE = "UpToDate"
    SW_HARDENING_NEEDED = "SWHardeningNeeded"
    CONFIGURATION_NEEDED = "ConfigurationNeeded"
    CONFIGURATION_AND_SW_HARDENING_NEEDED = "ConfigurationAndSWHardeningNeeded"
    OUT_OF_DATE = "OutOfDate"
    OUT_OF_DATE_CONFIGURATION_NEEDED = "OutOfDateConfigurationNeeded"
    REVOKED = "Revoked"
    TD_RELAUNCH_ADVISED = "TDRelaunchAdvised"
    TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED = "TDRelaunchAdvisedConfigurationNeeded"


@dataclass(frozen=True, slots=True, kw_only=True)
class PckIdentity:
    """The platform as its PCK certificate names it.

    fmspc:   6 bytes, family, model, stepping, platform type and custom SKU; pceid: 2 bytes.
    ppid:    16 bytes; piid: 16 bytes of a multi-package platform, None if the certificate has none.
    sgx_type: 0 standard, 1 scalable, 2 scalable with integrity.
    components: 16 bytes, the security version of each TCB component; cpu_svn: 16 bytes.
    dynamic_platform, cached_keys, smt_enabled: None where the certificate does not say.
    key_digest: SHA-256 of the PCK as SubjectPublicKeyInfo.
    """

    fmspc: bytes
    pceid: bytes
    ppid: bytes
    piid: bytes | None
    sgx_type: int
    components: bytes
    cpu_svn: bytes
    pce_svn: int
    dynamic_platform: bool | None
    cached_keys: bool | None
    smt_enabled: bool | None
    ca_kind: Literal["platform", "processor"]
    key_digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class TdxTcb:
    """What Intel's signed collateral says of the TCB.

    status: of platform, TDX module and QE together; module: None if TCB Info has no identity for it.
    advisory_ids: Intel's ids that the matched levels name; tcb_date: the oldest of the matched levels'.
    evaluation_number: tcbEvaluationDataNumber, the lower of TCB Info's and the QE identity's.
    """

    status: TcbStatus
    platform: TcbStatus
    module: TcbStatus | None
    qe: TcbStatus
    advisory_ids: frozenset[str]
    tcb_date: datetime
    evaluation_number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TdxClaims:
    """What verified evidence says. Only `verify_tdx` makes one.

    simulated: a software TEE signed it: nothing is confidential.
    tcb: None if no collateral was given, so that nothing but signatures is known.
    is_revocation_checked: fresh CRLs of root and PCK CA were read and name no certificate used.
    """

    quote: TdxQuote
    simulated: bool
    pck: PckIdentity
    tcb: TdxTcb | None
    is_revocation_checked: bool
    proof: object

    def __post_init__(self) -> None:
        if self.proof is not PROOF:
            msg = "claims come from verify_tdx alone"
            raise TypeError(msg)
