"""The appraiser over `krunpy.attest`: which roots, which mode, and which short code a failed check means.

Hardware and simulated evidence never share a set of roots: "snp" is verified against AMD's alone, "tdx"
against Intel's, "software" against the simulated root alone, so none can pass for another.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from krunpy.attest.anchors import Anchors, IntelAnchors, load_amd_anchors, load_intel_anchors
from krunpy.attest.appraise import Expectations
from krunpy.attest.judge import judge_snp, judge_tdx
from krunpy.attest.policy import OneOf, Unchecked
from krunpy.attest.policy_sections import parse_policies
from krunpy.attest.refusal import Stage
from krunpy.attest.tdx_appraise import TdxExpectations
from krunpy.formats.manifest import ManifestIn, make_host_data, make_mrconfigid
from krunpy.server.appraiser import Appraisal
from krunpy.server.collateral import BoundedSource, NoCollateral
from krunpy.server.reference import SnpReferenceValue, TdxReferenceValue
from krunpy.server.refusals import Refusal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from krunpy.attest.judge import Judgement, TdxJudgement
    from krunpy.attest.policy import Expected
    from krunpy.attest.policy_sections import Policies
    from krunpy.server.appraiser import Wanted
    from krunpy.server.collateral import CollateralSource

_SOURCE = "the registration"
_MANIFEST_IS_MEASURED = Unchecked(
    reason="the manifest lies in the measured initrd: the launch digest names it"
)
_CONFIG_IS_OPEN = Unchecked(
    reason="a reference value leaves it open: the manifest lies in the measured initrd"
)
_NO_MANIFEST = Unchecked(
    reason="this protocol has no manifest: the launch digest names kernel, initrd and machine, and no workload"
)
_NO_INTEL = IntelAnchors(roots={})
_THE_MANIFEST = "the registration's manifest"
# checks in the order of the server's promise; every other check belongs to the policy
_CODES = {
    "not-simulated-here": Refusal.TEE_NOT_ALLOWED,
    "report-data": Refusal.REPORT_DATA_MISMATCH,
    "measurement": Refusal.LAUNCH_DIGEST_UNKNOWN,
    "host-data": Refusal.HOST_DATA_MISMATCH,
    **dict.fromkeys(
        ("mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "mrconfigid"), Refusal.LAUNCH_DIGEST_UNKNOWN
    ),
}
_CLASS_CODES = _CODES | {"mrconfigid": Refusal.HOST_DATA_MISMATCH}


class Verifier:
    """Verifies SEV-SNP and TDX evidence, and the software TEE's if a simulated root was given."""

    def __init__(
        self,
        *,
        hardware: Anchors,
        simulated: Anchors,
        intel: IntelAnchors = _NO_INTEL,
        collateral: CollateralSource | None = None,
    ) -> None:
        """Take the roots for "snp", "software" and "tdx"; an empty set refuses.

        collateral: asked for what evidence came without; None: what needs it cannot be checked.
        """
        self._hardware = Anchors(hardware=hardware.hardware, simulated={})
        self._simulated = Anchors(hardware={}, simulated=simulated.simulated)
        self._intel = intel
        self._collateral = BoundedSource(collateral) if collateral else NoCollateral()

    def allows_tee(self, tee: str) -> bool:
        """Return whether there is a root that evidence of this TEE could lead to."""
        match tee:
            case "snp":
                return bool(self._hardware.hardware)
            case "tdx":
                return bool(self._intel.roots)
            case "software":
                return bool(self._simulated.simulated)
            case _:
                return False

    def require_policy(self, policy: Mapping[str, object]) -> None:
        """Raise FormatError if a policy has unknown or wrongly typed members."""
        parse_policies(dict(policy), source=_SOURCE, accepts_simulated=False)

    def appraise(self, evidence: bytes, wanted: Wanted) -> Appraisal:
        """Return the appraisal of an EVIDENCE payload of a TEE.

        Raises FormatError if the stored policy cannot be read.
        """
        is_software = wanted.tee == "software"
        if not self.allows_tee(wanted.tee):
            return Appraisal(
                refusal=Refusal.TEE_NOT_ALLOWED,
                simulated=is_software,
                claims=None,
                launch_digest="",
                verdict={},
            )
        policies = parse_policies(dict(wanted.policy), source=_SOURCE, accepts_simulated=is_software)
        if wanted.tee == "tdx":
            return self._appraise_tdx(evidence, wanted, policies)
        judgement = self._judge_snp(evidence, wanted, policies)
        claims = judgement.claims
        return Appraisal(
            refusal=_find_refusal(judgement, wanted),
            simulated=judgement.verdict.simulated or is_software,
            claims=claims,
            launch_digest=claims.report.measurement.hex() if claims is not None else "",
            verdict={**judgement.verdict.to_dict(), "tee": wanted.tee},
        )

    def _judge_snp(self, evidence: bytes, wanted: Wanted, policies: Policies) -> Judgement:
        """Return the judgement, with the VCEK and the CRL that the evidence came without if these can be had."""

        def judge(payload: bytes, crls: tuple[bytes, ...] = ()) -> Judgement:
            return judge_snp(
                payload,
                anchors=self._simulated if wanted.tee == "software" else self._hardware,
                now=datetime.fromtimestamp(wanted.now_s, tz=UTC),
                expected=_expect_snp(wanted),
                policy=policies.snp,
                crls=crls,
            )

        judgement = judge(evidence)
        if judgement.verdict.code == "chain-missing":
            is_snp = wanted.tee == "snp"
            completed = self._collateral.complete_snp(evidence, wanted.product) if is_snp else None
            if completed is None:
                return judgement  # nothing vouches for it: AMD is not asked for its CRL
            evidence, judgement = completed, judge(completed)
        if judgement.verdict.could_not_check:
            crls = self._collateral.find_crls(evidence)
            judgement = judge(evidence, crls) if crls else judgement
        return judgement

    def _appraise_tdx(self, evidence: bytes, wanted: Wanted, policies: Policies) -> Appraisal:
        values = tuple(value for value in wanted.reference_values if isinstance(value, TdxReferenceValue))

        def judge(collateral: bytes | None) -> TdxJudgement:
            return judge_tdx(
                evidence,
                anchors=self._intel,
                now=datetime.fromtimestamp(wanted.now_s, tz=UTC),
                expected=_expect_tdx(wanted, values),
                policy=policies.tdx,
                collateral=collateral,
            )

        judgement = judge(None)
        # nothing is fetched for a quote that is refused without
        if judgement.verdict.could_not_check and (found := self._collateral.find_tdx(evidence)) is not None:
            judgement = judge(found)
        claims, refusal = judgement.claims, _find_refusal(judgement, wanted)
        if (
            refusal is None
            and claims is not None
            and not any(value.fits(claims.quote.td) for value in values)
        ):
            refusal = Refusal.LAUNCH_DIGEST_UNKNOWN  # every register is known, but not all of one value
        return Appraisal(
            refusal=refusal,
            simulated=judgement.verdict.simulated,
            claims=claims,
            launch_digest=claims.quote.td.mrtd.hex() if claims is not None else "",
            verdict=judgement.verdict.to_dict(),
        )


def make_appraiser(simulated_root: bytes, *, collateral: CollateralSource | None = None) -> Verifier:
    """Return the verifier with the pinned roots, and a simulated one in DER if it is not empty.

    collateral: as for `Verifier`.

    Raises FormatError if a root is not what it should be.
    """
    simulated = Anchors(hardware={}, simulated={})
    if simulated_root:
        simulated = simulated.add_simulated_root(simulated_root)
    return Verifier(
        hardware=load_amd_anchors(),
        simulated=simulated,
        intel=load_intel_anchors(),
        collateral=collateral,
    )


def _one_of(*values: bytes) -> OneOf:
    return OneOf(values=frozenset(values), source=_SOURCE)


def _expect_snp(wanted: Wanted) -> Expectations:
    values = [value for value in wanted.reference_values if isinstance(value, SnpReferenceValue)]
    return Expectations(
        report_data=OneOf(values=frozenset({wanted.report_data}), source="this session"),
        launch_digests=_one_of(*(value.launch_digest for value in values)),
        host_data=_expect_host_data(wanted, values),
    )


def _expect_host_data(wanted: Wanted, values: list[SnpReferenceValue]) -> Expected:
    if wanted.manifest_in is ManifestIn.HOST_DATA:
        return OneOf(values=frozenset({make_host_data(wanted.manifest_hash)}), source=_THE_MANIFEST)
    named = [value.host_data for value in values]
    if None in named:
        return _MANIFEST_IS_MEASURED if wanted.manifest_in is not None else _NO_MANIFEST
    return _one_of(*(value for value in named if value is not None))


def _expect_tdx(wanted: Wanted, values: tuple[TdxReferenceValue, ...]) -> TdxExpectations:
    rtmr0, rtmr1, rtmr2, rtmr3 = (_one_of(*(value.rtmrs[index] for value in values)) for index in range(4))
    return TdxExpectations(
        report_data=OneOf(values=frozenset({wanted.report_data}), source="this session"),
        mrtds=_one_of(*(value.mrtd for value in values)),
        rtmrs=(rtmr0, rtmr1, rtmr2, rtmr3),
        mrconfigids=_expect_mrconfigid(wanted, values),
    )


def _expect_mrconfigid(wanted: Wanted, values: tuple[TdxReferenceValue, ...]) -> Expected:
    if wanted.manifest_in is ManifestIn.HOST_DATA:
        return OneOf(values=frozenset({make_mrconfigid(wanted.manifest_hash)}), source=_THE_MANIFEST)
    mrconfigids = [value.mrconfigid for value in values]
    if None in mrconfigids:
        return _CONFIG_IS_OPEN
    return _one_of(*(value for value in mrconfigids if value is not None))


def _find_refusal(judgement: Judgement | TdxJudgement, wanted: Wanted) -> Refusal | None:
    verdict = judgement.verdict
    if verdict.could_not_check:
        return Refusal.COULD_NOT_CHECK
    if judgement.claims is None:
        is_unread = any(check.stage is Stage.PARSE for check in verdict.checks)
        return Refusal.EVIDENCE_MALFORMED if is_unread else Refusal.EVIDENCE_NOT_VERIFIED
    failed = {check.name for check in verdict.checks if not check.held}
    codes = _CLASS_CODES if wanted.manifest_in is ManifestIn.HOST_DATA else _CODES
    for name, refusal in codes.items():
        if name in failed:
            return refusal
    return None if verdict.trusted and not failed else Refusal.POLICY_REFUSED
