"""The checks of a verdict as a table: what was seen, what was wanted, and where the wanted value is from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from krunpy.core.errors import make_plain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_SHOWN = 34  # characters of a value in the table


def print_checks(checks: Sequence[Mapping[str, object]]) -> None:
    """Print checks, each as `Verdict.to_dict` gives it, one a line."""
    if not checks:
        return
    width = max(len("check"), *(len(str(check.get("name"))) for check in checks))
    print(f"\n{'check':{width}}  {'held':4}  {'seen':{_SHOWN}}  {'wanted':{_SHOWN}}  from")
    for check in checks:
        seen, wanted = _shorten(check.get("seen")), _shorten(check.get("wanted"))
        held = "ok" if check.get("held") else "?" if check.get("unknown") else "FAIL"
        name, origin = make_plain(str(check.get("name"))), make_plain(str(check.get("source")))
        print(f"{name:{width}}  {held:4}  {seen:{_SHOWN}}  {wanted:{_SHOWN}}  {origin}")


def accepts_any(check: Mapping[str, object]) -> bool:
    """Return whether a check held because any value would do."""
    return bool(check.get("held")) and check.get("wanted") == "any"


def _shorten(value: object) -> str:
    text = make_plain(str(value))
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 8]}…{text[-7:]}"
