"""Every case of the vectors gets the verdict and the stage that it expects.

The folder is found in KRUNPY_VECTORS, or in ../shared/vectors beside the repository.
"""

import json
import os
from pathlib import Path

import pytest

from krunpy.core.errors import FormatError
from krunpy.formats.snp_report import pack_report, parse_report
from krunpy.formats.tdx_quote import parse_tdx_quote
from tests.vectors.run import run

DEFAULT = Path(__file__).resolve().parents[2].parent / "shared" / "vectors"
FOLDER = Path(os.environ.get("KRUNPY_VECTORS") or DEFAULT)

pytestmark = pytest.mark.skipif(
    "KRUNPY_VECTORS" not in os.environ and not FOLDER.is_dir(),
    reason="no attestation vectors: set KRUNPY_VECTORS to their folder",
)


@pytest.fixture(scope="module")
def answers() -> dict[str, dict]:
    return {answer["id"]: answer for answer in run(FOLDER)}


def test_every_snp_case_has_its_verdict_and_stage(answers: dict[str, dict]) -> None:
    snp = {name: answer for name, answer in answers.items() if answer["kind"] == "snp"}
    wrong = {}
    for name, answer in snp.items():
        case = json.loads((FOLDER / name / "case.json").read_text())
        stages = case["stage"].split("|")
        if answer["verdict"] != case["expect"] or not ({answer["stage"], "any"} & set(stages)):
            wrong[name] = (answer["verdict"], answer["stage"], case["expect"], case["stage"])

    assert snp
    assert wrong == {}


def test_every_tdx_case_has_its_verdict_stage_and_status(answers: dict[str, dict]) -> None:
    tdx = {name: answer for name, answer in answers.items() if answer["kind"] == "tdx"}
    wrong = {}
    for name, answer in tdx.items():
        case = json.loads((FOLDER / name / "case.json").read_text())
        expected = (case["expect"], case["stage"], case.get("tcb_status"))
        seen = (answer["verdict"], answer["stage"], answer["tcb_status"])
        if (
            seen[0] != expected[0]
            or not ({seen[1], "any"} & set(expected[1].split("|")))
            or (expected[2] is not None and seen[2] != expected[2])
        ):
            wrong[name] = (seen, expected)

    assert tdx
    assert wrong == {}


def test_every_measurement_is_computed(answers: dict[str, dict]) -> None:
    cases = json.loads((FOLDER / "measure" / "cases.json").read_text())

    assert cases
    assert {answer["kind"] for answer in answers.values()} >= {case["kind"] for case in cases}
    assert [answers[f"measure/{index}"]["value"] for index in range(len(cases))] == [
        case["expect"] for case in cases
    ]


def test_every_event_log_leads_to_its_registers(answers: dict[str, dict]) -> None:
    logs = json.loads((FOLDER / "eventlog" / "expected.json").read_text())

    assert logs
    for name, expected in logs.items():
        answer = answers[f"eventlog/{name}"]
        assert (answer["value"], answer["events"]) == (expected["rtmr"], expected["events"])
        assert answer["quote"] == ("matches" if "quote" in expected else None)


def test_every_report_is_read_and_written_back() -> None:
    files = [*FOLDER.glob("snp-parse/*.bin"), *FOLDER.glob("snp-real/*/report.bin")]

    assert files
    for file in files:
        raw = file.read_bytes()
        assert pack_report(parse_report(raw)) == raw, file


def test_a_tdx_quote_is_read_unless_its_case_says_that_it_cannot_be() -> None:
    wrong = []
    cases = sorted(FOLDER.glob("tdx-*/*/case.json"))
    for path in cases:
        stage = json.loads(path.read_text())["stage"]
        try:
            parse_tdx_quote((path.parent / "quote.bin").read_bytes())
        except FormatError:
            if "parse" not in stage:
                wrong.append(path.parent.name)
        else:
            if stage == "parse":
                wrong.append(path.parent.name)

    assert cases
    assert wrong == []
