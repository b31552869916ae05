"""The tool that switches checks off notices what no test notices, and its list is the one of today."""

import ast
import json
import os
import subprocess
import sys
from typing import Any

import pytest

from krunpy.attest.appraise import Expectations, appraise
from krunpy.attest.azure import appraise_vtpm, hash_runtime_data, verify_vtpm
from krunpy.attest.policy import OneOf, SnpPolicy
from krunpy.attest.tdx_appraise import appraise_tdx
from krunpy.attest.tdx_policy import TdxPolicy
from krunpy.attest.verify import verify_snp
from krunpy.formats.evidence_azure import parse_azure_evidence
from krunpy.formats.narrow import Fields
from tests.checks.exempt import EXEMPT
from tests.checks.report import read_document
from tests.checks.sites import HOUSE, MODULES, SWITCHES, find_sites, instrument
from tests.checks.switches import Switches
from tests.fakes import amd
from tests.fakes.azure import make_document
from tests.fakes.tdx_claims import expectations, make_claims

ONE_SITE = "attest.tdx_revocation _require_absent: operand now <= crl.next_update"
ITS_TESTS = "test_a_fault_of_a_crl"


def run_tool(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.checks.disable", *words, "tests/unit/attest/test_tdx_revocation.py"],
        cwd=HOUSE,
        env=os.environ | {"PYTHONPATH": str(HOUSE)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_tool_lists_the_tests_of_a_check() -> None:
    result = run_tool("--json", "--only", "tdx_revocation _require_absent: operand")

    rows = json.loads(result.stdout)
    assert result.returncode == 0, result.stderr
    assert len(rows) == 2
    assert all(row["tests"] and row["stage"] == "revocation" for row in rows)


def test_the_tool_notices_a_check_that_no_test_notices() -> None:
    result = run_tool("--only", ONE_SITE, "--without", ITS_TESTS)

    assert result.returncode == 1
    assert "no test notices: krunpy/attest/tdx_revocation.py:" in result.stderr
    assert ONE_SITE in result.stderr


def find_names() -> set[str]:
    """Return the keys of the named checks, from one appraisal of each kind."""
    nothing = OneOf(values=frozenset(), source="test")
    snp = appraise(
        verify_snp(amd.FakeChip().evidence(), anchors=amd.anchors(), now=amd.NOW),
        expected=Expectations(report_data=nothing, launch_digests=nothing, host_data=nothing),
        policy=SnpPolicy(),
    )
    tdx = appraise_tdx(make_claims(), expected=expectations(), policy=TdxPolicy())
    evidence = parse_azure_evidence(Fields(make_document(amd.FakeChip()), "evidence"))
    vtpm = verify_vtpm(evidence, report_data=hash_runtime_data(evidence))
    names = {f"attest.appraise check {check.name}" for check in snp.checks}
    names |= {f"attest.tdx_appraise check {check.name}" for check in tdx.checks}
    names |= {f"attest.azure check {check.name}" for check in appraise_vtpm(vtpm, nonce=nothing)}
    return {name for name in names if "advisory-intel-" not in name} | {
        "attest.tdx_appraise check advisory-intel-*"
    }


def test_the_document_names_exactly_the_checks_of_today() -> None:
    sites = {site.key for module in MODULES for site in find_sites(module)}

    keys = read_document()
    assert len(sites) > 400
    assert len(keys) == len(set(keys))
    assert set(keys) == sites | find_names(), "run `python -m tests.checks.disable --write`"
    assert set(EXEMPT) <= set(keys)


EXAMPLE = """
def judge(a, lo, x, hi, table):
    if a == 1 or not lo <= x <= hi:
        raise ValueError("one of three")
    for name, value in (("left", table[0]), ("right", table[1])):
        if value:
            raise ValueError(name)
    require_even(x)
    if x > 90:
        raise ValueError("high")
    return "fine"


def require_even(x):
    if x % 2:
        raise ValueError("odd")
"""
GOOD = {"a": 0, "lo": 0, "x": 2, "hi": 9, "table": (0, 0)}
SWITCHED = {
    "judge: operand a == 1": {"a": 1},
    "judge: operand lo <= x": {"lo": 3},
    "judge: operand x <= hi": {"hi": 1},
    "judge: row ('left', table[0])": {"table": (1, 0)},
    "judge: row ('right', table[1])": {"table": (0, 1)},
    "judge: call require_even(x)": {"x": 3},
    "judge: raise high": {"x": 92, "hi": 99},
    "require_even: raise odd": {"x": 3},
}


@pytest.mark.parametrize("off", SWITCHED)
def test_a_switch_turns_off_its_check_and_no_other(off: str) -> None:
    tree, sites = instrument("example", EXAMPLE)
    switches = Switches()
    space: dict[str, Any] = {SWITCHES: switches}
    exec(compile(tree, "example", "exec"), space)

    def accepts(**changes: Any) -> bool:
        try:
            return space["judge"](**(GOOD | changes)) == "fine"
        except ValueError:
            return False

    key = f"example {off}"
    assert key in {site.key for site in sites}
    assert isinstance(tree, ast.Module)
    assert accepts()
    switches.start(None)
    assert not accepts(**SWITCHED[off])
    assert key in switches.reached
    switches.start(key)
    assert accepts(**SWITCHED[off])
    assert not any(
        accepts(**changes) for other, changes in SWITCHED.items() if changes != SWITCHED[off] and other != off
    )
