"""Real quotes of the clouds under the default policy, and the written policy that turns each the other way."""

import json
import os
from datetime import datetime
from pathlib import Path

import pytest

from krunpy.attest.anchors import load_intel_anchors
from krunpy.attest.judge import TdxJudgement, judge_tdx
from krunpy.attest.policy import OneOf, Unchecked
from krunpy.attest.policy_sections import load_policy_document, parse_policies
from krunpy.attest.tdx_appraise import TdxExpectations
from krunpy.formats.snp_certs import pack_evidence
from krunpy.formats.tdx_quote import parse_tdx_quote

DEFAULT = Path(__file__).resolve().parents[3].parent / "shared" / "vectors"
FOLDER = Path(os.environ.get("KRUNPY_VECTORS") or DEFAULT)

pytestmark = pytest.mark.skipif(
    "KRUNPY_VECTORS" not in os.environ and not FOLDER.is_dir(),
    reason="no attestation vectors: set KRUNPY_VECTORS to their folder",
)

GCP, AZURE, ALIBABA = "google-cos113-v4-E", "coco-azure-v4-E", "automata-ali-v5-F"
_ANY = Unchecked(reason="the test is about the platform")


def read_case(name: str) -> tuple[bytes, bytes | None, datetime]:
    folder = FOLDER / "tdx-real" / name
    case = json.loads((folder / "case.json").read_text())
    collateral = (folder / case["collateral"]).read_bytes() if case.get("collateral") else None
    return (folder / "quote.bin").read_bytes(), collateral, datetime.fromisoformat(case["verify_time"])


def expectations_of(quote: bytes) -> TdxExpectations:
    td = parse_tdx_quote(quote).td
    return TdxExpectations(
        report_data=OneOf(values=frozenset({td.report_data}), source="the test"),
        mrtds=OneOf(values=frozenset({td.mrtd}), source="the test"),
        rtmrs=(_ANY, _ANY, _ANY, _ANY),
        mrconfigids=_ANY,
    )


def judge(name: str, text: str = "", **changes) -> TdxJudgement:
    quote, collateral, now = read_case(name)
    policies = parse_policies(load_policy_document(text), source="the test", accepts_simulated=False)
    inputs = {"payload": pack_evidence(quote, b""), "collateral": collateral} | changes
    return judge_tdx(
        inputs["payload"],
        anchors=load_intel_anchors(),
        now=now,
        expected=expectations_of(quote),
        policy=policies.tdx,
        collateral=inputs["collateral"],
    )


def failures(judgement: TdxJudgement) -> list[str]:
    return [check.name for check in judgement.verdict.failures]


def test_gcp_pads_its_quotes_with_zeros_and_passes() -> None:
    quote, _, _ = read_case(GCP)

    assert quote.endswith(bytes(3000))
    assert failures(judge(GCP)) == []


def test_a_policy_can_refuse_gcps_padding() -> None:
    text = "[tdx]\nallow_zero_padding = false"
    quote, _, _ = read_case(GCP)

    assert failures(judge(GCP, text)) == ["zero-padding"]
    unpadded = quote[: len(quote) - parse_tdx_quote(quote).padding]
    assert failures(judge(GCP, text, payload=pack_evidence(unpadded, b""))) == []


def test_padding_of_other_bytes_than_zero_is_never_accepted() -> None:
    quote, _, _ = read_case(GCP)

    judgement = judge(GCP, payload=pack_evidence(quote[:-1] + b"\1", b""))

    assert [(check.name, str(check.stage)) for check in judgement.verdict.failures] == [
        ("quote-format", "parse")
    ]


def test_azure_runs_without_sept_ve_disable_and_only_its_old_tcb_is_refused() -> None:
    assert failures(judge(AZURE)) == ["tcb-status"]
    assert failures(judge(AZURE, '[tdx]\nallowed_tcb_status = ["UpToDate", "OutOfDate"]')) == []


def test_a_policy_can_require_sept_ve_disable_of_azure() -> None:
    text = '[tdx]\nallowed_tcb_status = ["UpToDate", "OutOfDate"]\nrequire_sept_ve_disable = true'

    assert failures(judge(AZURE, text)) == ["attribute-sept-ve-disable"]


def test_alibabas_service_td_is_refused_unless_the_policy_names_it() -> None:
    quote, _, _ = read_case(ALIBABA)
    service = parse_tdx_quote(quote).td.mrservicetd

    assert failures(judge(ALIBABA)) == ["mrservicetd"]
    assert failures(judge(ALIBABA, f'[tdx]\nallow_mr_service_td = ["{service.hex()}"]')) == []


def test_a_service_td_that_is_allowed_need_not_be_there() -> None:
    assert failures(judge(GCP, f'[tdx]\nallow_mr_service_td = ["{"01" * 48}"]')) == []


def test_a_quote_without_collateral_could_not_be_checked() -> None:
    judgement = judge(GCP, collateral=None)

    assert judgement.claims is not None
    assert judgement.verdict.could_not_check
    assert not judgement.verdict.trusted


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"payload": b""}, "evidence-format"),
        ({"payload": pack_evidence(b"", b"")}, "quote-format"),
        ({"payload": pack_evidence(b"\0" * 1184, b"")}, "quote-format"),
        ({"collateral": b""}, "collateral-format"),
        ({"collateral": b"{}"}, "collateral-format"),
    ],
)
def test_what_cannot_be_read_is_a_refused_verdict(changes: dict, code: str) -> None:
    judgement = judge(GCP, **changes)

    assert judgement.claims is None
    assert failures(judgement) == [code]
    assert not judgement.verdict.could_not_check


def test_certificates_beside_a_quote_are_refused() -> None:
    quote, _, _ = read_case(GCP)

    assert failures(judge(GCP, payload=pack_evidence(quote, bytes(24)))) == ["evidence-format"]


def test_collateral_of_another_time_is_no_evidence_against_a_quote() -> None:
    verdict = judge("phala-v4-B-expired").verdict

    assert (verdict.trusted, verdict.code, verdict.could_not_check) == (False, "collateral-stale", True)
