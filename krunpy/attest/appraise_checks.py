"""Make the checks that a verdict is made of: what is common to every kind of evidence."""

from __future__ import annotations

from dataclasses import replace
from hmac import compare_digest
from typing import TYPE_CHECKING

from krunpy.attest.policy import Expected, Unchecked
from krunpy.attest.refusal import Stage
from krunpy.attest.verdict import Check

if TYPE_CHECKING:
    from collections.abc import Iterable

_SHOWN = 4  # values of a set that a verdict spells out


def make_check(name: str, seen: str, wanted: str, *, source: str, held: bool, hint: str = "") -> Check:
    """Return a check of the policy's stage; its hint is kept only where it did not hold."""
    return Check(
        name=name,
        stage=Stage.POLICY,
        seen=seen,
        wanted=wanted,
        source=source,
        held=held,
        hint="" if held else hint,
    )


def mark_unknown(check: Check) -> Check:
    """Return the check as one that, where it did not hold, lacked what it needs: nothing was compared."""
    return replace(check, unknown=not check.held)


def check_octets(name: str, seen: bytes | None, expected: Expected, hint: str) -> Check:
    """Return the check of bytes against accepted values. seen: None if the evidence has no such field."""
    shown_seen = "none" if seen is None else seen.hex()
    if isinstance(expected, Unchecked):
        return make_check(name, shown_seen, "any", source=expected.reason, held=True)
    values = sorted(expected.values)
    # every value is compared, each in constant time
    held = seen is not None and sum(compare_digest(seen, value) for value in values) > 0
    shown = ", ".join(value.hex() for value in values[:_SHOWN])
    more = f" and {len(values) - _SHOWN} more" if len(values) > _SHOWN else ""
    wanted = f"one of {shown}{more}" if len(values) > 1 else shown or "no value is registered"
    return make_check(name, shown_seen, wanted, source=expected.source, held=held, hint=hint)


def check_denied(name: str, seen: bytes | None, denied: frozenset[bytes], *, source: str, hint: str) -> Check:
    """Return the check that bytes are not on a list of those that are known to be broken."""
    return make_check(
        name,
        "none" if seen is None else seen.hex(),
        f"none of {len(denied)} denied",
        source=source,
        held=seen not in denied,
        hint=hint,
    )


def check_bit(name: str, *, is_set: bool, forbidden: bool, required: bool, source: str, hint: str) -> Check:
    """Return the check of one bit; a bit that is both forbidden and required is never right."""
    wanted = "0" if forbidden else "1" if required else "any"
    held = not (forbidden and is_set) and not (required and not is_set)
    return make_check(name, str(int(is_set)), wanted, source=source, held=held, hint=hint)


def check_minimum(name: str, seen: int, minimum: int, *, source: str, hint: str) -> Check:
    """Return the check of a number that must not be too low."""
    return make_check(name, str(seen), f"at least {minimum}", source=source, held=seen >= minimum, hint=hint)


def check_simulated(*, simulated: bool, accepts_simulated: bool) -> Check:
    """Return the check of the server's mode: a software TEE only where it is accepted."""
    return make_check(
        "not-simulated-here",
        "software TEE" if simulated else "hardware",
        "hardware or software TEE" if accepts_simulated else "hardware",
        source="the server's mode",
        held=accepts_simulated or not simulated,
        hint="a software TEE protects nothing; only a server in development mode accepts it",
    )


def name_bit(prefix: str, label: str | None) -> str:
    """Return the check's name for a bit: "policy", "MIGRATE_MA" gives "policy-migrate-ma"."""
    return f"{prefix}-{str(label).lower().replace('_', '-')}"


def join_dotted(numbers: tuple[int, ...]) -> str:
    """Return a version as people write it."""
    return ".".join(str(number) for number in numbers)


def join_or(values: Iterable[object]) -> str:
    """Return accepted values for people, in order."""
    return " or ".join(sorted(str(value) for value in values)) or "nothing is accepted"
