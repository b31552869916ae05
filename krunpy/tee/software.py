"""A stand-in for the AMD Secure Processor on machines without SEV-SNP. It protects nothing.

Same algorithms and same bytes as the hardware; the launch digest is folded from the pages it is handed
while the launcher loads them, never from a claim. Its reports carry the marks of `formats.snp_simulated`
and are signed under this installation's own root.

Source: AMD SEV-SNP Firmware ABI (publication 56860), sections 8.16 to 8.18 and 7.3.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from krunpy.core.errors import StateError
from krunpy.formats import snp_simulated
from krunpy.formats.launch_digest import ZERO_DIGEST, PageType, fold_page
from krunpy.formats.snp_certs import pack_evidence
from krunpy.formats.snp_report import SIGNED_SIZE, GuestPolicy, PlatformInfo, SnpReport, pack_report
from krunpy.formats.snp_tcb import Tcb, pack_tcb
from krunpy.tee.authority import PRODUCT, TCB

if TYPE_CHECKING:
    from krunpy.core.octets import HostData, LaunchDigest, ReportData
    from krunpy.tee.authority import Authority

# what krunpy asks of SNP by default: SMT allowed, no debugging, no migration, ABI 0.0
DEFAULT_POLICY = GuestPolicy.RESERVED_ONE | GuestPolicy.SMT

_REPORT_VERSION = 3
_CPUID = (0x19, 0x01, 0x01)  # a Milan B1
_FIRMWARE = (1, 58, 1)
_HIGHEST_VMPL = 3
_SCALAR = 72  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """Lies for tests of the verifier; every one of them must be refused.

    debug_policy: the report says that the host may read the guest.
    tcb:          the platform's TCB version in the report; None is the one that the VCEK was made for.
    chip_id:      64 bytes of another chip; None is the VCEK's.
    """

    debug_policy: bool = False
    tcb: Tcb | None = None
    chip_id: bytes | None = None


class _Step(StrEnum):
    NEW = "not started"
    LOADING = "loading"
    RUNNING = "finished"


class UnsafeSoftwareTee:
    """One simulated guest context: start, update, finish, then reports. No step can be repeated or undone."""

    def __init__(self, authority: Authority, *, faults: Faults | None = None) -> None:
        self._authority = authority
        self._faults = faults or Faults()
        self._step = _Step.NEW
        self._digest = ZERO_DIGEST
        self._policy = 0
        self._host_data: HostData | None = None
        self._report_id = secrets.token_bytes(32)  # one per guest instance

    def launch_start(self, policy: int = DEFAULT_POLICY) -> None:
        """Begin a launch under a guest policy of 64 bits. Raises StateError if one was begun."""
        self._require(_Step.NEW, "start")
        self._policy = policy | (GuestPolicy.DEBUG if self._faults.debug_policy else 0)
        self._step = _Step.LOADING

    def launch_update(self, kind: PageType, gpa: int, contents: bytes) -> None:
        """Add pages to the guest and its digest.

        gpa and contents are as `formats.launch_digest.fold_page` takes them.

        Raises StateError before start or after finish, FormatError on pages that cannot be.
        """
        self._require(_Step.LOADING, "update")
        self._digest = fold_page(self._digest, kind, contents, gpa)

    def launch_finish(self, host_data: HostData) -> LaunchDigest:
        """End the launch and return its digest; from now on nothing can be added. Raises StateError."""
        self._require(_Step.LOADING, "finish")
        self._host_data = host_data
        self._step = _Step.RUNNING
        return self._digest

    def report(self, report_data: ReportData, *, vmpl: int = 0) -> bytes:
        """Return the EVIDENCE payload: a signed report and the certificate table.

        vmpl: 0 to 3.

        Raises StateError before finish.
        """
        self._require(_Step.RUNNING, "report")
        if not 0 <= vmpl <= _HIGHEST_VMPL:
            msg = f"vmpl is 0 to 3, seen {vmpl}"
            raise ValueError(msg)
        signed = pack_report(self._make_report(report_data, vmpl))[:SIGNED_SIZE]
        r, s = decode_dss_signature(self._authority.key.sign(signed, ec.ECDSA(hashes.SHA384())))
        signature = r.to_bytes(_SCALAR, "little") + s.to_bytes(_SCALAR, "little")
        report = signed + signature + bytes(0x4A0 - SIGNED_SIZE - len(signature))
        return pack_evidence(report, self._authority.certificates)

    def _require(self, step: _Step, action: str) -> None:
        if self._step is not step:
            raise StateError(f"cannot {action} the launch", why=f'seen "{self._step}", wanted "{step}"')

    def _make_report(self, report_data: ReportData, vmpl: int) -> SnpReport:
        tcb = pack_tcb(self._faults.tcb or TCB, PRODUCT)
        if self._host_data is None:
            raise StateError("cannot report", why="no host_data was given")
        return SnpReport(
            version=_REPORT_VERSION,
            policy=self._policy,
            family_id=snp_simulated.FAMILY_ID,
            vmpl=vmpl,
            current_tcb=tcb,
            platform_info=PlatformInfo.SMT_ENABLED | PlatformInfo.ALIAS_CHECK_COMPLETE,
            report_data=report_data,
            measurement=self._digest,
            host_data=self._host_data,
            report_id=self._report_id,
            reported_tcb=tcb,
            cpuid=_CPUID,
            chip_id=self._faults.chip_id or self._authority.chip_id,
            committed_tcb=tcb,
            current_firmware=_FIRMWARE,
            committed_firmware=_FIRMWARE,
            launch_tcb=tcb,
        )
