"""Policy documents: JSON or TOML, one section for each TEE, and the flat form that is all SNP."""

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krunpy.attest.policy import SnpPolicy
from krunpy.attest.policy_document import parse_policy
from krunpy.attest.policy_sections import LARGEST_POLICY, Policies, load_policy_document, parse_policies
from krunpy.attest.tdx_policy import TdAttributes, TdxPolicy
from krunpy.core.errors import FormatError


def parse(value: object) -> Policies:
    return parse_policies(value, source="the test", accepts_simulated=False)


TOML = """
[snp]
products = ["Genoa"]
min_tcb.Genoa = { snp = 23 }

[tdx]
require_sept_ve_disable = true
min_tcb_date = 2025-05-14
"""
JSON = """ {
  "snp": {"products": ["Genoa"], "min_tcb": {"Genoa": {"snp": 23}}},
  "tdx": {"require_sept_ve_disable": true, "min_tcb_date": "2025-05-14"}}"""


def test_toml_and_json_say_the_same() -> None:
    policies = parse(load_policy_document(TOML))

    assert policies == parse(load_policy_document(JSON.encode()))
    assert policies.snp.min_reported_tcb
    assert policies.tdx.required_attributes == TdAttributes.SEPT_VE_DISABLE
    assert policies.tdx.min_tcb_date == date(2025, 5, 14)


def test_a_document_without_sections_is_all_snp() -> None:
    flat = {"allow_smt": False, "require_crl": True}

    policies = parse(flat)

    assert policies.snp == parse_policy(flat, source="the test", accepts_simulated=False)
    assert policies.tdx == TdxPolicy(source="the test")


def test_a_tee_that_has_no_section_has_the_default_policy() -> None:
    assert parse({"tdx": {}}) == parse({"snp": {}}) == parse({})
    assert parse({}) == Policies(snp=SnpPolicy(source="the test"), tdx=TdxPolicy(source="the test"))


@pytest.mark.parametrize(
    "value",
    [
        {"snp": {}, "vmpl": 0},
        {"tdx": {}, "allow_debug": True},
        {"snp": {"tdx": {}}},
        {"tdx": {"unheard_of": 1}},
        {"snp": {"unheard_of": 1}},
        {"tdx": None},
        {"sgx": {}},
        [],
        None,
        "{}",
    ],
)
def test_no_part_of_a_document_goes_unread(value: object) -> None:
    with pytest.raises(FormatError):
        parse(value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"\xff", "neither JSON nor TOML"),
        ("{", "neither JSON nor TOML"),
        ("a = ", "neither JSON nor TOML"),
        ("a = 1\na = 2", "neither JSON nor TOML"),
        ('{"vmpl": 0, "vmpl": 3}', "named twice"),
        ('{"snp": {"vmpl": 0, "vmpl": 3}}', "named twice"),
        ('{"vmpl": NaN}', "NaN"),
        ('{"vmpl": ' + "[" * 100_000, "nested too deeply"),
        ("a = " + "[" * 100_000, "nested too deeply"),
        (b" " * (LARGEST_POLICY + 1), "at most 262144"),
        ("\ud800", "neither JSON nor TOML"),
    ],
)
def test_a_text_that_is_no_document_is_refused(text: bytes | str, why: str) -> None:
    with pytest.raises(FormatError, match=why):
        load_policy_document(text)


@given(st.binary() | st.text())
def test_any_text_is_a_document_or_a_format_error(text: bytes | str) -> None:
    try:
        parse(load_policy_document(text))
    except FormatError:
        return
