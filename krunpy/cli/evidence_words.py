"""`krunpy evidence` in its usual form, read without typer, whose imports would cost more than the verification.

It takes the options of `krunpy.cli.evidence` and no others. A command line that it does not understand whole,
wrong ones among them, is left to typer, which says what is wrong with it.
"""

from __future__ import annotations

import io
import os
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from krunpy.cli.lean import run_lean

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# long name -> field of VerifyWords
TEXTS = {
    "--chain": "chain",
    "--vek": "vek",
    "--collateral": "collateral",
    "--event-log": "event_log",
    "--at": "at",
    "--policy": "policy",
    "--nonce": "nonce",
    "--report-data": "report_data",
}
# reference values: the option that gives one -> length in bytes
SNP_VALUES = {"--measurement": 48, "--host-data": 32}
TDX_VALUES = {
    "--measurement": 48, "--mrconfigid": 48, "--rtmr0": 48, "--rtmr1": 48, "--rtmr2": 48, "--rtmr3": 48,
}  # fmt: skip
VALUES = SNP_VALUES | TDX_VALUES
LISTS = ("--crl", *VALUES)  # may be given several times


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyWords:
    """The command line of `krunpy evidence verify`, as text; an empty string or tuple was not given.

    values: reference values in hex by their option; one that was not given is missing, or has none.
    """

    file: str
    chain: str = ""
    vek: str = ""
    collateral: str = ""
    event_log: str = ""
    crl: tuple[str, ...] = ()
    at: str = ""
    policy: str = ""
    nonce: str = ""
    report_data: str = ""
    values: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    json: bool = False


def parse_verify(words: Sequence[str]) -> VerifyWords | None:
    """Return what the words after `verify` ask for, or None if typer has to look at them."""
    texts: dict[str, str] = {}
    lists: dict[str, list[str]] = {}
    files: list[str] = []
    as_json = False
    rest = iter(words)
    for word in rest:
        if word == "--json":
            as_json = True
        elif not word.startswith("-") or word == "-":
            files.append(word)
        else:
            name, equals, value = word.partition("=")
            given = value if equals else next(rest, None)
            if not given or (name not in TEXTS and name not in LISTS):
                return None
            if name in LISTS:
                lists.setdefault(name, []).append(given)
            else:
                texts[TEXTS[name]] = given
    if len(files) != 1:
        return None
    return VerifyWords(
        file=files[0],
        crl=tuple(lists.pop("--crl", ())),
        values={name: tuple(values) for name, values in lists.items()},
        json=as_json,
        chain=texts.get("chain", ""),
        vek=texts.get("vek", ""),
        collateral=texts.get("collateral", ""),
        event_log=texts.get("event_log", ""),
        at=texts.get("at", ""),
        policy=texts.get("policy", ""),
        nonce=texts.get("nonce", ""),
        report_data=texts.get("report_data", ""),
    )


def parse_show(words: Sequence[str]) -> tuple[str, bool] | None:
    """Return the file and whether JSON is wanted, from the words after `show`; None if typer has to look."""
    files = [word for word in words if not word.startswith("-") or word == "-"]
    flags = [word for word in words if word.startswith("-") and word != "-"]
    if len(files) != 1 or not set(flags) <= {"--json"}:
        return None
    return files[0], bool(flags)


def run_words(words: Sequence[str]) -> int | None:
    """Run what follows `evidence` and return the exit status, or None if typer has to look at it."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names in certificates may be any text
    return run_lean(lambda: _run(words))


def _run(words: Sequence[str]) -> int | None:
    if words[:1] == ["show"]:
        shown = parse_show(words[1:])
        if shown is None:
            return None
        from krunpy.cli.evidence_show import show_file

        return show_file(shown[0], as_json=shown[1])
    if words[:1] == ["verify"]:
        wanted = parse_verify(words[1:])
        if wanted is None:
            return None
        from krunpy.cli.evidence_verify import verify_file
        from krunpy.core.settings import load_settings

        return verify_file(wanted, load_settings(os.environ))
    return None
