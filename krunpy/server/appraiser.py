"""What the server asks of a verifier: evidence and what is wanted in, an appraisal out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from krunpy.attest.tdx_claims import TdxClaims
    from krunpy.attest.verify import SnpClaims
    from krunpy.core.octets import Digest32, ReportData
    from krunpy.formats.manifest import ManifestIn
    from krunpy.formats.snp_tcb import Product
    from krunpy.server.reference import ReferenceValue
    from krunpy.server.refusals import Refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the evidence has to show. Nothing here is left out.

    tee:              "software", "snp" or "tdx", as the guest said and the manifest allows.
    manifest_in:      HOST_DATA: host_data or mrconfigid has to name manifest_hash; the launch digest does not.
                      None: the protocol has no manifest, and nothing in the evidence names the workload.
    product:          where the report cannot say it (SNP, version 2) and the guest does; the chain has to agree.
    reference_values: those of this one workload for this TEE.
    policy:           the registration's.
    now_s:            seconds since 1970.
    """

    tee: str
    report_data: ReportData
    manifest_hash: Digest32
    manifest_in: ManifestIn | None
    product: Product | None
    reference_values: tuple[ReferenceValue, ...]
    policy: Mapping[str, object]
    now_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Appraisal:
    """How it ended. refusal: None if the guest is trusted.

    claims:        of verified evidence, None if it was not verified; their type says who signed them.
    launch_digest: MRTD for TDX, in hex, from verified evidence; empty if it was not verified.
    verdict:       every check with what was seen and what was wanted, ready for JSON.
    """

    refusal: Refusal | None
    simulated: bool
    claims: SnpClaims | TdxClaims | None
    launch_digest: str
    verdict: dict[str, object]


class Appraiser(Protocol):
    """Verifies and appraises. No clock of its own; collateral that is missing it asks of a source."""

    def allows_tee(self, tee: str) -> bool:
        """Return whether evidence of this TEE can be accepted at all."""

    def require_policy(self, policy: Mapping[str, object]) -> None:
        """Raise FormatError if a registration's policy cannot be understood whole."""

    def appraise(self, evidence: bytes, wanted: Wanted) -> Appraisal:
        """Return the appraisal of an EVIDENCE payload; refused evidence is an appraisal, not an exception."""
