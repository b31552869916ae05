"""From an EVIDENCE payload to a verdict in one step, whatever the payload holds.

The door for a server: a refusal on the way becomes a verdict with one failed check, so that every
attempt can be kept and explained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from krunpy.attest.appraise import appraise
from krunpy.attest.evidence import read_snp_evidence
from krunpy.attest.refusal import Refusal
from krunpy.attest.revocation import Revocation, RevocationMode
from krunpy.attest.verdict import make_refused_verdict
from krunpy.attest.verify import verify_snp
from krunpy.formats import snp_simulated

if TYPE_CHECKING:
    from datetime import datetime

    from krunpy.attest.anchors import Anchors
    from krunpy.attest.appraise import Expectations
    from krunpy.attest.policy import SnpPolicy
    from krunpy.attest.verdict import Verdict
    from krunpy.attest.verify import SnpClaims


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A verdict, and the claims it is about; None where the evidence did not verify."""

    verdict: Verdict
    claims: SnpClaims | None


def judge_snp(
    payload: bytes,
    *,
    anchors: Anchors,
    now: datetime,
    expected: Expectations,
    policy: SnpPolicy,
    crls: tuple[bytes, ...] = (),
) -> Judgement:
    """Return the verdict on an EVIDENCE payload. Raises nothing for any bytes.

    anchors: the roots trusted; now: the server's clock, with a time zone; crls: in DER, from a cache.
    """
    mode = RevocationMode.REQUIRED if policy.requires_crl else RevocationMode.IF_FRESH
    try:
        claims = verify_snp(
            read_snp_evidence(payload),
            anchors=anchors,
            now=now,
            revocation=Revocation(mode=mode, crls=crls),
            allows_masked_chip=policy.accepts_masked_chip,
        )
    except Refusal as refusal:
        # a mark in bytes that did not verify proves nothing, but "simulated" can only make a reader warier
        marked = snp_simulated.FAMILY_ID in payload
        return Judgement(verdict=make_refused_verdict(refusal, tee="snp", simulated=marked), claims=None)
    return Judgement(verdict=appraise(claims, expected=expected, policy=policy), claims=claims)
