"""From an EVIDENCE payload to a verdict in one step, whatever the payload holds.

The door for a server: a refusal on the way becomes a verdict with one failed check, so that every
attempt can be kept and explained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from krunpy.attest.appraise import appraise
from krunpy.attest.evidence import read_snp_evidence
from krunpy.attest.refusal import Refusal, Stage
from krunpy.attest.revocation import Revocation, RevocationMode
from krunpy.attest.tdx_appraise import appraise_tdx
from krunpy.attest.tdx_evidence import read_tdx_evidence
from krunpy.attest.tdx_verify import verify_tdx
from krunpy.attest.verdict import make_refused_verdict
from krunpy.attest.verify import verify_snp
from krunpy.core.errors import FormatError
from krunpy.formats import snp_simulated
from krunpy.formats.snp_certs import parse_evidence
from krunpy.formats.tdx_collateral import TdxCollateral, parse_tdx_collateral

if TYPE_CHECKING:
    from datetime import datetime

    from krunpy.attest.anchors import Anchors, IntelAnchors
    from krunpy.attest.appraise import Expectations
    from krunpy.attest.policy import SnpPolicy
    from krunpy.attest.tdx_appraise import TdxExpectations
    from krunpy.attest.tdx_claims import TdxClaims
    from krunpy.attest.tdx_policy import TdxPolicy
    from krunpy.attest.verdict import Verdict
    from krunpy.attest.verify import SnpClaims


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """A verdict, and the claims it is about; None where the evidence did not verify."""

    verdict: Verdict
    claims: SnpClaims | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TdxJudgement:
    """A verdict, and the claims it is about; None where the evidence did not verify."""

    verdict: Verdict
    claims: TdxClaims | None


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
    try:
        claims = verify_snp(
            read_snp_evidence(payload),
            anchors=anchors,
            now=now,
            revocation=Revocation(mode=_mode(requires_crl=policy.requires_crl), crls=crls),
            allows_masked_chip=policy.accepts_masked_chip,
        )
    except Refusal as refusal:
        # a mark in bytes that did not verify proves nothing, but "simulated" can only make a reader warier
        marked = snp_simulated.FAMILY_ID in payload
        return Judgement(verdict=make_refused_verdict(refusal, tee="snp", simulated=marked), claims=None)
    return Judgement(verdict=appraise(claims, expected=expected, policy=policy), claims=claims)


def judge_tdx(
    payload: bytes,
    *,
    anchors: IntelAnchors,
    now: datetime,
    expected: TdxExpectations,
    policy: TdxPolicy,
    collateral: bytes | None,
) -> TdxJudgement:
    """Return the verdict on an EVIDENCE payload that holds a quote. Raises nothing for any bytes.

    anchors: the roots trusted; now: the server's clock, with a time zone.
    collateral: a document of `formats.tdx_collateral`, from a cache; None: there is none, and the verdict is
    that it could not be checked.
    """
    try:
        claims = verify_tdx(
            read_tdx_evidence(_take_quote(payload)),
            anchors=anchors,
            now=now,
            collateral=None if collateral is None else _read_collateral(collateral),
            revocation=_mode(requires_crl=policy.requires_crl),
        )
    except Refusal as refusal:
        verdict = make_refused_verdict(refusal, tee="tdx", simulated=False)
        return TdxJudgement(verdict=verdict, claims=None)
    return TdxJudgement(verdict=appraise_tdx(claims, expected=expected, policy=policy), claims=claims)


def _mode(*, requires_crl: bool) -> RevocationMode:
    return RevocationMode.REQUIRED if requires_crl else RevocationMode.IF_FRESH


def _take_quote(payload: bytes) -> bytes:
    """Return the quote of a payload; its certificates are in the quote, so the table has to be empty."""
    try:
        quote, table = parse_evidence(payload)
    except FormatError as error:
        raise Refusal(Stage.PARSE, "evidence-format", why=error.why) from error
    if table:
        raise Refusal(
            Stage.PARSE, "evidence-format", why=f"seen {len(table)} bytes of certificates beside a quote"
        )
    return quote


def _read_collateral(raw: bytes) -> TdxCollateral:
    try:
        return parse_tdx_collateral(raw)
    except FormatError as error:
        raise Refusal(Stage.COLLATERAL, "collateral-format", why=f"{error.what}: {error.why}") from error
