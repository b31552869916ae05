"""From recognised evidence and what the operator gave to a verdict, and from that to an exit status.

It reads no file and prints nothing.
"""

from __future__ import annotations

from dataclasses import replace
from enum import IntEnum
from typing import TYPE_CHECKING, assert_never

from krunpy.attest.appraise import Expectations, appraise
from krunpy.attest.azure import appraise_vtpm, read_vcek, verify_vtpm
from krunpy.attest.evidence import UnverifiedSnp, read_snp_parts
from krunpy.attest.policy import OneOf
from krunpy.attest.refusal import Refusal, Stage
from krunpy.attest.revocation import Revocation, RevocationMode
from krunpy.attest.verdict import Verdict, make_refused_verdict
from krunpy.attest.verify import verify_snp
from krunpy.cli.evidence_given import (
    Given,
    expect_measurement,
    expect_nonce,
    expect_report_data,
    expect_runtime_hash,
    expect_value,
    say_any,
)
from krunpy.core.errors import FormatError
from krunpy.formats import snp_simulated
from krunpy.formats.evidence_azure import AzureEvidence
from krunpy.formats.evidence_encodings import TdxEvidence, is_of_tdx
from krunpy.formats.evidence_sev import SnpEvidence
from krunpy.formats.snp_certs import LEAF_KINDS, CertKind
from krunpy.formats.x509 import Certificate, parse_certificate

if TYPE_CHECKING:
    from collections.abc import Iterable

    from krunpy.attest.anchors import Anchors
    from krunpy.attest.verify import SnpClaims
    from krunpy.formats.evidence_encodings import Evidence

_LEAF_NAMES = ("SEV-VCEK", "SEV-VLEK")
_ROOT_PREFIX = "ARK-"


class Outcome(IntEnum):
    """The exit status of `krunpy evidence verify`."""

    TRUSTED = 0
    NOT_TRUSTED = 3  # it is what it says, but not what was wanted
    INVALID = 4  # malformed, or a signature, binding or chain does not hold
    NOT_CHECKED = 5  # a certificate or collateral was not at hand


def find_outcome(verdict: Verdict) -> Outcome:
    """Return what a verdict means for the exit status."""
    if verdict.trusted:
        return Outcome.TRUSTED
    if verdict.could_not_check:
        return Outcome.NOT_CHECKED
    known = (check for check in verdict.failures if not check.unknown)
    if all(check.stage in {Stage.POLICY, Stage.TCB} for check in known):
        return Outcome.NOT_TRUSTED
    return Outcome.INVALID


def judge_evidence(evidence: Evidence, given: Given) -> Verdict:
    """Return the verdict on evidence; what does not verify is a verdict with one failed check.

    Raises FormatError if a certificate of `given` is malformed.
    """
    try:
        match evidence:
            case SnpEvidence():
                return _judge_snp(evidence, given)
            case TdxEvidence():
                from krunpy.cli.evidence_judge_tdx import judge_quote

                return judge_quote(evidence, given)
            case AzureEvidence():
                return _judge_azure(evidence, given)
            case _:
                assert_never(evidence)
    except Refusal as refusal:
        # a mark in bytes that did not verify proves nothing, but "simulated" can only make a reader warier
        marked = isinstance(evidence, SnpEvidence) and snp_simulated.FAMILY_ID in evidence.report
        return make_refused_verdict(refusal, tee="tdx" if is_of_tdx(evidence) else "snp", simulated=marked)


# --- SNP


def _judge_snp(evidence: SnpEvidence, given: Given) -> Verdict:
    roots = (evidence.blobs.get(CertKind.ARK), *given.chain)
    claims = _verify(_find_certificates(evidence, given), given, roots)
    return _appraise(claims, given, expect_report_data(given, bytes(claims.report.report_data)))


def _verify(evidence: UnverifiedSnp, given: Given, roots: Iterable[bytes | None] = ()) -> SnpClaims:
    policy = given.policies.snp
    is_required = policy.requires_crl or bool(given.crls)
    return verify_snp(
        evidence,
        anchors=_add_simulated(given.anchors, roots),
        now=given.now,
        revocation=Revocation(
            mode=RevocationMode.REQUIRED if is_required else RevocationMode.IF_FRESH, crls=given.crls
        ),
        allows_masked_chip=policy.accepts_masked_chip,
    )


def _add_simulated(anchors: Anchors, roots: Iterable[bytes | None]) -> Anchors:
    """Trust a software TEE's own root: the policy refuses simulated evidence, and the verdict says just that."""
    for root in roots:
        if root is not None:
            try:
                return anchors.add_simulated_root(root)
            except FormatError:
                continue  # a root of hardware, or none: it is compared with the pinned ones
    return anchors


def _find_certificates(evidence: SnpEvidence, given: Given) -> UnverifiedSnp:
    """Return the report with the certificates that were given for it, else those that came with it."""
    crl = evidence.blobs.get(CertKind.CRL)
    unverified = read_snp_parts(
        evidence.report, leaf=b"", intermediate=None, root=None, crls=() if crl is None else (crl,)
    )
    chain = _Chain(given.chain)
    leaf = given.vek or chain.leaf or evidence.blobs.get(LEAF_KINDS[unverified.report.signing_key])
    if leaf is None:
        raise Refusal(
            Stage.CHAIN,
            "chain-missing",
            why="the evidence came without the certificate of the key that signed it, and none was given",
            next="give it with --vek, or fetch a VCEK from AMD: `krunpy collateral fetch FILE`",
        )
    return replace(
        unverified,
        leaf=leaf,
        intermediate=chain.find_issuer(leaf) or evidence.blobs.get(CertKind.ASK),
        root=chain.root or evidence.blobs.get(CertKind.ARK),
    )


class _Chain:
    """Certificates that the operator gave, in any order, told apart by their names."""

    def __init__(self, ders: Iterable[bytes]) -> None:
        self._intermediates: list[tuple[bytes, Certificate]] = []
        self.leaf: bytes | None = None
        self.root: bytes | None = None
        for der in ders:
            certificate = parse_certificate(der)
            name = certificate.subject.common_name.removeprefix(snp_simulated.COMMON_NAME_PREFIX)
            if name in _LEAF_NAMES:
                self.leaf = der
            elif name.startswith(_ROOT_PREFIX):
                self.root = der
            else:
                self._intermediates.append((der, certificate))

    def find_issuer(self, leaf: bytes) -> bytes | None:
        """Return the intermediate that issued the leaf; another if none did, to be refused; None without any."""
        if not self._intermediates:
            return None
        try:
            issuer = parse_certificate(leaf).issuer.der
        except FormatError:
            issuer = b""  # the leaf will be refused
        ders = [der for der, certificate in self._intermediates if certificate.subject.der == issuer]
        return ders[0] if ders else self._intermediates[0][0]


def _appraise(claims: SnpClaims, given: Given, report_data: OneOf) -> Verdict:
    report = claims.report
    expected = Expectations(
        report_data=report_data,
        launch_digests=expect_measurement(given, bytes(report.measurement)),
        host_data=expect_value(given, "--host-data"),
    )
    return say_any(appraise(claims, expected=expected, policy=given.policies.snp))


# --- Azure


def _judge_azure(evidence: AzureEvidence, given: Given) -> Verdict:
    if is_of_tdx(evidence):
        from krunpy.cli.evidence_judge_tdx import judge_azure_quote

        return judge_azure_quote(evidence, given)
    leaf = given.vek or read_vcek(evidence)
    chain = _Chain(given.chain)
    unverified = read_snp_parts(
        evidence.hcl.hardware_report, leaf=leaf, intermediate=chain.find_issuer(leaf), root=chain.root
    )
    claims = _verify(unverified, given)
    vtpm = verify_vtpm(evidence, report_data=bytes(claims.report.report_data))
    verdict = _appraise(claims, given, expect_runtime_hash(given, evidence))
    return replace(verdict, checks=verdict.checks + appraise_vtpm(vtpm, nonce=expect_nonce(given)))
