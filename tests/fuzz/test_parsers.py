"""Every parser of bytes from outside gives a value or the error it may give, on any bytes."""

import ast
import contextlib
import importlib.util
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.parsers import EXPECTED, INNER, PARSERS
from tests.fuzz.run import MISSING, run_one

FORMATS = Path(__file__).parent.parent.parent / "krunpy" / "formats"


def test_every_parser_of_the_formats_is_fuzzed() -> None:
    parsers = {
        f"{path.stem}.{node.name}"
        for path in FORMATS.glob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and re.match("parse_|recognise_", node.name)
    }

    assert len(parsers) > 35
    assert parsers - INNER <= set(PARSERS)


@pytest.mark.parametrize("name", PARSERS)
@settings(max_examples=40)
@given(data=st.data())
def test_any_bytes_are_a_value_or_the_expected_error(name: str, data: st.DataObject) -> None:
    parser = PARSERS[name]
    examples = parser.examples()
    raw = data.draw(st.binary(max_size=300) | st.sampled_from(examples))
    if raw in examples and raw:
        at = data.draw(st.integers(0, len(raw) - 1))
        raw = raw[:at] + data.draw(st.binary(max_size=8)) + raw[at + data.draw(st.integers(0, 8)) :]

    with contextlib.suppress(*EXPECTED):
        parser.parse(raw)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason=MISSING)
def test_a_second_of_fuzzing_finds_nothing() -> None:
    count, finding = run_one("snp_report.parse_report", 1)

    assert finding == ""
    assert count > 100
