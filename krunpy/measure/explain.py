"""Find which input explains a launch digest that is not the registered one.

The neighbours of the registered launch are predicted: first those that differ in one input, then in
two. A find is a fact about digests, not a proof of what the host did. Nothing is trusted because of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations, islice, product
from typing import TYPE_CHECKING

from krunpy.core.errors import FormatError
from krunpy.formats.vmsa import VCPU_SIGNATURES
from krunpy.measure.description import MeasuredFile, MeasuredFirmware, predict_described
from krunpy.measure.launch import SNP_FEATURES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from krunpy.core.octets import LaunchDigest
    from krunpy.measure.description import LaunchDescription

MOST_PREDICTIONS = 20_000  # about two seconds

_DISTINCT_TYPES = tuple({signature: name for name, signature in reversed(VCPU_SIGNATURES.items())}.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """Values that may have been launched instead of the registered ones; the likelier ones first."""

    vcpus: tuple[int, ...] = tuple(range(1, 17))
    vcpu_types: tuple[str, ...] = _DISTINCT_TYPES
    guest_features: tuple[int, ...] = SNP_FEATURES
    cmdlines: tuple[MeasuredFile, ...] = ()
    kernels: tuple[MeasuredFile, ...] = ()
    initrds: tuple[MeasuredFile, ...] = ()
    firmwares: tuple[MeasuredFirmware, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One input: its name, the registered value, and the value that explains what was seen."""

    input: str
    registered: str
    explains: str


def _show(value: object) -> str:
    if isinstance(value, MeasuredFile | MeasuredFirmware):
        return f"{value.name} (sha256 {value.digest.hex()[:16]})"
    return str(value)


def _same(one: object, other: object) -> bool:
    """Return whether two values are measured alike; names do not count."""
    if isinstance(one, MeasuredFile | MeasuredFirmware) and isinstance(
        other, MeasuredFile | MeasuredFirmware
    ):
        return one.digest == other.digest
    return one == other


def _alternatives(registered: LaunchDescription, candidates: Candidates) -> dict[str, list[object]]:
    """Return the values to try by field, without the registered one; kernels only if one is registered."""
    offered: dict[str, tuple[object, ...]] = {
        "vcpus": candidates.vcpus,
        "cmdline": candidates.cmdlines,
        "initrd": candidates.initrds,
        "kernel": candidates.kernels,
        "firmware": candidates.firmwares,
        "vcpu_type": candidates.vcpu_types,
        "guest_features": candidates.guest_features,
    }
    return {
        field: [value for value in values if not _same(value, getattr(registered, field))]
        for field, values in offered.items()
        if getattr(registered, field) is not None
    }


def _neighbours(registered: LaunchDescription, candidates: Candidates) -> Iterator[dict[str, object]]:
    alternatives = _alternatives(registered, candidates)
    for count in (1, 2):
        for chosen in combinations(alternatives, count):
            for values in product(*(alternatives[field] for field in chosen)):
                yield dict(zip(chosen, values, strict=True))


def find_explanation(
    seen: LaunchDigest,
    registered: LaunchDescription,
    candidates: Candidates,
    *,
    limit: int = MOST_PREDICTIONS,
) -> tuple[Change, ...] | None:
    """Return the one or two inputs that explain `seen`, None if none of `limit` neighbours does."""
    for values in islice(_neighbours(registered, candidates), limit):
        changed = replace(registered, **values)  # type: ignore[arg-type]
        try:
            digest = predict_described(changed)
        except FormatError:
            continue  # this firmware cannot boot that machine, so it was not launched
        if digest == seen:
            return tuple(
                Change(input=field, registered=_show(getattr(registered, field)), explains=_show(value))
                for field, value in values.items()
            )
    return None
