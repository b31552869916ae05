"""Run a folder of attestation cases: `python -m tests.vectors.run DIR` prints one JSON line per case.

DIR is laid out as the vectors' README says. What a case expects (`expect`, `stage`, `tcb_status`, the
registers of an event log) is never read here: the case is stripped of it before anything looks at it.
"""

from __future__ import annotations

import json
import sys
from datetime import datetime
from pathlib import Path

from krunpy.attest.anchors import load_amd_anchors, make_anchors, split_pem
from krunpy.attest.appraise import Expectations, appraise
from krunpy.attest.evidence import read_snp_parts
from krunpy.attest.policy import OneOf, Unchecked
from krunpy.attest.policy_document import parse_policy
from krunpy.attest.refusal import Refusal, Stage
from krunpy.attest.revocation import Revocation, RevocationMode
from krunpy.attest.verify import SnpClaims, verify_snp
from krunpy.core.errors import FormatError
from tests.vectors.measure_cases import answer_eventlog_case, answer_measure_case
from tests.vectors.tdx_cases import judge_tdx_case

HIDDEN = {"expect", "stage", "tcb_status", "facts", "why", "rtmr", "events"}
REFERENCE_VALUES = {"report_data": 64, "measurement": 48, "host_data": 32}
ALIASES = {"bl": "bootloader", "ucode": "microcode"}


def load_json(path: Path) -> object:
    return json.loads(path.read_text())


def strip_answers(case: dict) -> dict:
    return {key: value for key, value in case.items() if key not in HIDDEN}


def read_optional(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def values_of(policy: dict, name: str, seen: bytes) -> OneOf:
    """Return the case's reference values; where it names none, the field is not the case's subject."""
    if name not in policy:
        return OneOf(values=frozenset({bytes(seen)}), source="the case names none")
    listed = policy[name] if isinstance(policy[name], list) else [policy[name]]
    return OneOf(values=frozenset(bytes.fromhex(text) for text in listed), source="the case")


def expectations_of(policy: dict, claims: SnpClaims) -> Expectations:
    report = claims.report
    return Expectations(
        report_data=values_of(policy, "report_data", report.report_data),
        launch_digests=values_of(policy, "measurement", report.measurement),
        host_data=values_of(policy, "host_data", b"")
        if "host_data" in policy
        else Unchecked(reason="the case names none"),
    )


def policy_of(policy: dict):
    document = {name: value for name, value in policy.items() if name not in REFERENCE_VALUES}
    for name, value in document.items():
        if name.endswith("_tcb"):
            document[name] = {ALIASES.get(part, part): level for part, level in value.items()}
    return parse_policy(document, source="the case", accepts_simulated=False)


def judge_snp_case(folder: Path, case: dict) -> tuple[str, str]:
    """Return verdict and stage."""
    policy = case.get("policy") or {}
    anchor = case.get("trust_anchor")
    anchors = make_anchors(split_pem((folder / anchor).read_bytes())) if anchor else load_amd_anchors()
    chain = split_pem(read_optional(folder / "chain.pem") or b"")
    crl = (folder / case["crl"]).read_bytes() if case.get("crl") else None
    mode = RevocationMode.REQUIRED if policy.get("require_crl") else RevocationMode.IF_FRESH
    try:
        evidence = read_snp_parts(
            (folder / "report.bin").read_bytes(),
            leaf=(folder / "vek.der").read_bytes(),
            intermediate=chain[0] if chain else None,
            root=chain[1] if len(chain) > 1 else None,
        )
        claims = verify_snp(
            evidence,
            anchors=anchors,
            now=datetime.fromisoformat(case["verify_time"]),
            revocation=Revocation(mode=mode, crls=(crl,) if crl else ()),
            allows_masked_chip=bool(policy.get("allow_masked_chip")),
        )
    except Refusal as refusal:
        return "reject", str(refusal.stage)
    try:
        demands = policy_of(policy)
    except FormatError:  # a demand that we do not know is one that we cannot meet
        return "reject", str(Stage.POLICY)
    verdict = appraise(claims, expected=expectations_of(policy, claims), policy=demands)
    return ("accept", "-") if verdict.trusted else ("reject", str(verdict.failures[0].stage))


def judge_case(folder: Path, case: dict) -> dict:
    match case["kind"]:
        case "snp":
            verdict, stage, status = *judge_snp_case(folder, case), None
        case "tdx":
            verdict, stage, status = judge_tdx_case(folder, case)
        case _:
            verdict, stage, status = "unsupported", "-", None
    return {
        "id": folder.name,
        "kind": case["kind"],
        "verdict": verdict,
        "stage": stage,
        "tcb_status": status,
    }


def answer_folder(path: Path) -> list[dict]:
    """Return the answers to a cases.json of predictions, or to an expected.json of event logs."""
    listed = load_json(path)
    if path.name == "cases.json":
        return [
            attempt(answer_measure_case, path.parent, index, strip_answers(case))
            for index, case in enumerate(listed)
        ]
    return [
        attempt(answer_eventlog_case, path.parent, name, strip_answers(case)) for name, case in listed.items()
    ]


def attempt(answer, folder: Path, *rest) -> dict:
    """Return the answer; one that cannot be tried, as a file or member is missing, ends no run."""
    try:
        return answer(folder, *rest)
    except (OSError, KeyError, FormatError) as error:
        case = rest[-1]
        name = folder.name if len(rest) == 1 else f"{folder.name}/{rest[0]}"
        return {"id": name, "kind": case.get("kind"), "verdict": "unsupported", "why": repr(error)}


def run_case(root: Path, path: Path) -> dict:
    answer = attempt(judge_case, path.parent, strip_answers(load_json(path)))
    return answer | {"id": path.parent.relative_to(root).as_posix()}


def run(root: Path) -> list[dict]:
    """Return the answer to every case below a folder. Raises SystemExit if there is none."""
    answers = [run_case(root, path) for path in sorted(root.rglob("case.json"))]
    for path in sorted([*root.rglob("cases.json"), *root.rglob("eventlog/expected.json")]):
        answers += answer_folder(path)
    if not answers:
        raise SystemExit(f"no cases below {root}")
    return answers


if __name__ == "__main__":
    for line in run(Path(sys.argv[1])):
        print(json.dumps(line))
