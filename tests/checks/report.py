"""Write down which tests notice that a check is off."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from itertools import groupby

from tests.checks.exempt import EXEMPT
from tests.checks.sites import HOUSE

DOCUMENT = HOUSE / "docs" / "checks.md"
SHOWN = 3  # tests of a check that the document names
HEAD = """# Every check of the verifier, and the tests that fail without it

Written by `python -m tests.checks.disable --write`, which switches off one check at a time; do not edit.
A check is a refusal in `attest/` or in a parser of evidence, each part of a condition with several, each row
of a table that a loop of checks walks over, each call of a function that refuses, and each named check of an
appraisal (`check`). *tests*: how many fail with it off; *alone*: how many of them fail by no other check than
this one and those that the same refusal passes through. Property tests, bit flips and the vectors are not
counted. A check whose absence nothing can show is listed at the end, with the reason.
"""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One check and the tests that fail without it; only: those that fail by no other refusal."""

    key: str
    place: str
    stage: str
    tests: list[str]
    only: list[str]

    def to_dict(self) -> dict[str, object]:
        return asdict(self)

    @property
    def module(self) -> str:
        return self.key.split(" ", 1)[0]

    @property
    def text(self) -> str:
        return self.key.split(" ", 1)[1]

    @property
    def shown(self) -> list[str]:
        names = [*self.only, *(name for name in self.tests if name not in self.only)]
        return list(dict.fromkeys(name.rpartition("::")[2].partition("[")[0] for name in names))


def format_table(rows: list[Row]) -> str:
    return "\n".join(
        f"{row.place or row.module} {row.text} [{row.stage}] {len(row.tests)} tests, "
        f"{len(row.only)} alone: {', '.join(row.shown)}"
        for row in rows
    )


def format_document(rows: list[Row]) -> str:
    tested = [row for row in rows if row.key not in EXEMPT]
    alone = sum(1 for row in tested if row.only)
    lines = [HEAD, f"{len(tested)} checks; {alone} have a test that fails by that refusal alone."]
    for module, group in groupby(tested, key=lambda row: row.module):
        lines += [
            "",
            f"## {module}",
            "",
            "| check | stage | tests | alone | for example |",
            "| --- " * 5 + "|",
        ]
        for row in group:
            some = ", ".join(row.shown[:SHOWN]) or "none"
            lines.append(f"| `{row.text}` | {row.stage} | {len(row.tests)} | {len(row.only)} | {some} |")
    lines += ["", "## Checks that no test can notice", "", "| check | reason |", "| --- | --- |"]
    lines += [f"| `{row.key}` | {EXEMPT[row.key]} |" for row in rows if row.key in EXEMPT]
    return "\n".join(lines) + "\n"


def read_document() -> list[str]:
    """Return the keys of the checks that the document names."""
    keys, module = [], ""
    for line in DOCUMENT.read_text().splitlines():
        if line.startswith("## "):
            module = line[3:]
        elif found := re.match(r"\| `(.*)` \| \S+ \| \d+ \| \d+ \| ", line):
            keys.append(f"{module} {found[1]}")
        elif found := re.match(r"\| `(.*)` \| ", line):
            keys.append(found[1])
    return keys
