"""The appraiser over `krunpy.attest`: which roots, which mode, and which short code a failed check means.

Hardware and simulated evidence never share a set of roots: "snp" is verified against AMD's alone,
"software" against the simulated root alone, so neither can pass for the other.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from krunpy.attest.anchors import Anchors, load_amd_anchors, split_pem
from krunpy.attest.appraise import Expectations
from krunpy.attest.judge import judge_snp
from krunpy.attest.policy import OneOf, Unchecked
from krunpy.attest.policy_document import parse_policy
from krunpy.attest.refusal import Stage
from krunpy.core.errors import FormatError
from krunpy.server.appraiser import Appraisal
from krunpy.server.refusals import Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from krunpy.attest.judge import Judgement
    from krunpy.server.appraiser import Wanted

_MANIFEST_IS_MEASURED = Unchecked(
    reason="the manifest lies in the measured initrd: the launch digest names it"
)
# checks in the order of the server's promise; every other check belongs to the policy
_CODES = {
    "not-simulated-here": Refusal.TEE_NOT_ALLOWED,
    "report-data": Refusal.REPORT_DATA_MISMATCH,
    "measurement": Refusal.LAUNCH_DIGEST_UNKNOWN,
}


class Verifier:
    """Verifies SEV-SNP evidence, and the software TEE's if a simulated root was given."""

    def __init__(self, *, hardware: Anchors, simulated: Anchors) -> None:
        """Take the roots for "snp" and those for "software"; an empty set refuses."""
        self._hardware = Anchors(hardware=hardware.hardware, simulated={})
        self._simulated = Anchors(hardware={}, simulated=simulated.simulated)

    def allows_tee(self, tee: str) -> bool:
        """Return whether there is a root that evidence of this TEE could lead to."""
        match tee:
            case "snp":
                return bool(self._hardware.hardware)
            case "software":
                return bool(self._simulated.simulated)
            case _:
                return False

    def require_policy(self, policy: Mapping[str, object]) -> None:
        """Raise FormatError if a policy has unknown or wrongly typed members."""
        parse_policy(dict(policy), source="the registration", accepts_simulated=False)

    def appraise(self, evidence: bytes, wanted: Wanted) -> Appraisal:
        """Return the appraisal of an EVIDENCE payload of "snp" or "software".

        Raises FormatError if the stored policy cannot be read.
        """
        is_software = wanted.tee == "software"
        if not self.allows_tee(wanted.tee):
            return Appraisal(
                refusal=Refusal.TEE_NOT_ALLOWED, simulated=is_software, launch_digest="", verdict={}
            )
        source = "the registration"
        judgement = judge_snp(
            evidence,
            anchors=self._simulated if is_software else self._hardware,
            now=datetime.fromtimestamp(wanted.now_s, tz=UTC),
            expected=Expectations(
                report_data=OneOf(values=frozenset({wanted.report_data}), source="this session"),
                launch_digests=OneOf(values=frozenset(wanted.launch_digests), source=source),
                host_data=_MANIFEST_IS_MEASURED,
            ),
            policy=parse_policy(dict(wanted.policy), source=source, accepts_simulated=is_software),
        )
        claims = judgement.claims
        return Appraisal(
            refusal=_find_refusal(judgement),
            simulated=judgement.verdict.simulated or is_software,
            launch_digest=claims.report.measurement.hex() if claims is not None else "",
            verdict={**judgement.verdict.to_dict(), "tee": wanted.tee},
        )


def make_appraiser(simulated_root: bytes) -> Verifier:
    """Return the verifier with AMD's pinned roots, and a simulated one in PEM or DER if it is not empty.

    Raises FormatError if a root is not what it should be.
    """
    simulated = Anchors(hardware={}, simulated={})
    if simulated_root:
        roots = split_pem(simulated_root) if simulated_root.startswith(b"-----") else [simulated_root]
        if len(roots) != 1:
            raise FormatError(
                "cannot trust the simulated root", why=f"seen {len(roots)} certificates, wanted 1"
            )
        simulated = simulated.add_simulated_root(roots[0])
    return Verifier(hardware=load_amd_anchors(), simulated=simulated)


def _find_refusal(judgement: Judgement) -> Refusal | None:
    verdict = judgement.verdict
    if judgement.claims is None:
        is_unread = any(check.stage is Stage.PARSE for check in verdict.checks)
        return Refusal.EVIDENCE_MALFORMED if is_unread else Refusal.EVIDENCE_NOT_VERIFIED
    failed = {check.name for check in verdict.checks if not check.held}
    for name, refusal in _CODES.items():
        if name in failed:
            return refusal
    return None if verdict.trusted and not failed else Refusal.POLICY_REFUSED
