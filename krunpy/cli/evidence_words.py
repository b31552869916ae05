"""`krunpy evidence` in its usual form, read without typer, whose imports would cost more than the verification.

It takes the options of `krunpy.cli.evidence` and no others. A command line that it does not understand whole,
wrong ones among them, is left to typer, which says what is wrong with it.
"""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING

from krunpy.cli.evidence_options import LISTS, TEXTS, VerifyWords
from krunpy.cli.lean import run_lean

if TYPE_CHECKING:
    from collections.abc import Sequence


def parse_show(words: Sequence[str]) -> tuple[str, bool] | None:
    """Return the file and whether JSON is wanted, from the words after `show`; None if typer has to look."""
    files = [word for word in words if not word.startswith("-") or word == "-"]
    flags = [word for word in words if word.startswith("-") and word != "-"]
    if len(files) != 1 or not set(flags) <= {"--json"}:
        return None
    return files[0], bool(flags)


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
