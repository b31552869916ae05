"""docs/policy.md and the readers of policies name the same members, defaults and advisories."""

import re
from pathlib import Path

import pytest

from krunpy.attest import policy_document, tdx_policy_document
from krunpy.attest.advisories import ADVISORIES, find_advisory
from krunpy.attest.policy_sections import load_policy_document, parse_policies
from krunpy.core.errors import FormatError

GUIDE = (Path(__file__).resolve().parents[3] / "docs" / "policy.md").read_text()


def section(title: str) -> str:
    return GUIDE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def rows(title: str) -> list[list[str]]:
    lines = [line for line in section(title).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def described(title: str) -> set[str]:
    return {name for row in rows(title) for name in re.findall(r"`([a-z0-9_]+)`", row[0])}


SNP_MEMBERS = {
    *policy_document._ALLOWED_BITS,
    *policy_document._REQUIRED_BITS,
    *policy_document._readers("the test"),
}
TDX_MEMBERS = {
    *tdx_policy_document._ALLOWED_BITS,
    *tdx_policy_document._readers("the test"),
    "require_sept_ve_disable",
}


def test_the_guide_names_every_member_and_no_other() -> None:
    assert described("`snp`") == SNP_MEMBERS
    assert described("`tdx`") == TDX_MEMBERS


@pytest.mark.parametrize(("title", "members"), [("snp", SNP_MEMBERS), ("tdx", TDX_MEMBERS)])
def test_every_member_that_the_guide_names_is_read(title: str, members: set[str]) -> None:
    for name in members:
        with pytest.raises(FormatError, match=f"{name}"):
            parse_policies({title: {name: None}}, source="the test", accepts_simulated=False)


def test_the_booleans_that_the_guide_calls_default_are_the_defaults() -> None:
    for title in ("snp", "tdx"):
        default = parse_policies({}, source="the test", accepts_simulated=False)
        for names, value, _ in rows(f"`{title}`"):
            if value in {"true", "false"}:
                members = dict.fromkeys(re.findall(r"`([a-z0-9_]+)`", names), value == "true")
                assert parse_policies({title: members}, source="the test", accepts_simulated=False) == default
                turned = {name: not is_set for name, is_set in members.items()}
                assert parse_policies({title: turned}, source="the test", accepts_simulated=False) != default


def test_the_guides_example_is_a_policy() -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", GUIDE, re.DOTALL)

    policies = parse_policies(load_policy_document(example), source="the test", accepts_simulated=False)

    assert policies.snp.required_advisories == {"AMD-SB-3015", "AMD-SB-3019"}
    assert policies.tdx.min_evaluation_number == 18


def test_the_guide_lists_the_table_of_advisories_and_its_floors() -> None:
    listed = {row[0]: row for row in rows("Advisories") if not row[0].startswith("INTEL")}

    assert set(listed) == {advisory.id for advisory in ADVISORIES}
    for advisory in ADVISORIES:
        row = listed[advisory.id]
        assert tuple(filter(None, row[1].split(", "))) == advisory.aliases
        for product, floor in advisory.floors.items():
            assert f"{product} {floor.snp}" in row[3]
        assert ("fill in" in row[3]) is (advisory.has_floors and len(advisory.floors) < 3)
        assert all(find_advisory(advisory.id, tee) is advisory for tee in advisory.tees)
