"""Judge one TDX case of the vectors: what a relying party with the case's clock, root and policy would say."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from krunpy.attest.anchors import load_intel_anchors, make_intel_anchors, split_pem
from krunpy.attest.policy import OneOf, Unchecked
from krunpy.attest.refusal import Refusal, Stage
from krunpy.attest.tdx_appraise import TdxExpectations, appraise_tdx
from krunpy.attest.tdx_evidence import read_tdx_evidence
from krunpy.attest.tdx_policy_document import parse_tdx_policy
from krunpy.attest.tdx_verify import verify_tdx
from krunpy.core.errors import FormatError
from krunpy.formats.tdx_collateral import TdxCollateral, parse_tdx_collateral

if TYPE_CHECKING:
    from pathlib import Path

    from krunpy.attest.tdx_claims import TdxClaims

RTMRS = ("rtmr0", "rtmr1", "rtmr2", "rtmr3")
REFERENCE_VALUES = {"report_data": 64, "mrtd": 48, "mrconfigid": 48, **dict.fromkeys(RTMRS, 48)}
ANY = Unchecked(reason="the case names none")


def values_of(policy: dict, name: str) -> OneOf | None:
    """Return the case's reference values, None if it names none. Raises FormatError."""
    if name not in policy:
        return None
    listed = policy[name] if isinstance(policy[name], list) else [policy[name]]
    try:
        values = frozenset(bytes.fromhex(text) for text in listed)
    except (TypeError, ValueError):
        values = frozenset({b""})
    if any(len(value) != REFERENCE_VALUES[name] for value in values):
        raise FormatError(f"cannot read {name}", why="it is not hex of its length")
    return OneOf(values=values, source="the case")


def own_value(seen: bytes) -> OneOf:
    return OneOf(values=frozenset({bytes(seen)}), source="the case names none")


def expectations_of(policy: dict, claims: TdxClaims) -> TdxExpectations:
    td = claims.quote.td
    rtmrs = [values_of(policy, name) or ANY for name in RTMRS]
    return TdxExpectations(
        report_data=values_of(policy, "report_data") or own_value(td.report_data),
        mrtds=values_of(policy, "mrtd") or own_value(td.mrtd),
        rtmrs=(rtmrs[0], rtmrs[1], rtmrs[2], rtmrs[3]),
        mrconfigids=values_of(policy, "mrconfigid") or ANY,
    )


def read_collateral(folder: Path, case: dict) -> TdxCollateral | None:
    if not case.get("collateral"):
        return None
    try:
        return parse_tdx_collateral((folder / case["collateral"]).read_bytes())
    except FormatError as error:
        raise Refusal(Stage.COLLATERAL, "collateral-format", why=error.why) from error


def verify_case(folder: Path, case: dict) -> TdxClaims:
    """Return the claims of a case. Raises Refusal."""
    anchor = case.get("trust_anchor")
    anchors = (
        make_intel_anchors(split_pem((folder / anchor).read_bytes())) if anchor else load_intel_anchors()
    )
    return verify_tdx(
        read_tdx_evidence((folder / "quote.bin").read_bytes()),
        anchors=anchors,
        now=datetime.fromisoformat(case["verify_time"]),
        collateral=read_collateral(folder, case),
    )


def judge_tdx_case(folder: Path, case: dict) -> tuple[str, str, str | None]:
    """Return verdict, stage and TCB status; without collateral, signatures are all that can be judged."""
    try:
        claims = verify_case(folder, case)
    except Refusal as refusal:
        return "reject", str(refusal.stage), None
    if claims.tcb is None:
        return "accept-signature-only", "-", None
    status = str(claims.tcb.status)
    policy = case.get("policy") or {}
    demands = {name: value for name, value in policy.items() if name not in REFERENCE_VALUES}
    try:
        verdict = appraise_tdx(
            claims,
            expected=expectations_of(policy, claims),
            policy=parse_tdx_policy(demands, source="the case", accepts_simulated=False),
        )
    except FormatError:  # a demand that we do not know is one that we cannot meet
        return "reject", str(Stage.POLICY), status
    if verdict.trusted:
        return "accept", "-", status
    stages = {check.stage for check in verdict.failures}
    return "reject", next(str(stage) for stage in Stage if stage in stages), status
