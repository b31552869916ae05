"""Appraise claims by advisory: is the mitigation shown, seen to be missing, or not to be told.

A required advisory must be shown to be mended; a denied one must not be seen to be open. Every advisory
of the table is a check, wanted or not, so that a verdict tells what the platform is open to.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from krunpy.attest.advisories import ADVISORIES, Advisory, Tee, find_advisory, make_intel_advisory
from krunpy.attest.appraise_checks import make_check, mark_unknown
from krunpy.attest.policy import Expected, OneOf
from krunpy.attest.tdx_claims import TcbStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from krunpy.attest.policy import SnpPolicy
    from krunpy.attest.tdx_claims import TdxClaims
    from krunpy.attest.tdx_policy import TdxPolicy
    from krunpy.attest.verdict import Check
    from krunpy.attest.verify import SnpClaims


class Exposure(StrEnum):
    """What the claims show of one weakness."""

    MENDED = "mended"
    OPEN = "open"
    UNKNOWN = "not known"


_WORST_FIRST = (Exposure.OPEN, Exposure.UNKNOWN)


def _worst(exposures: list[Exposure]) -> Exposure:
    return next((exposure for exposure in _WORST_FIRST if exposure in exposures), Exposure.MENDED)


def _rate_known_platform(*lists: Expected) -> Exposure:
    """Return MENDED if a list names the platforms: the list's own check refuses all others."""
    return Exposure.MENDED if any(isinstance(names, OneOf) for names in lists) else Exposure.OPEN


def rate_snp(advisory: Advisory, claims: SnpClaims, policy: SnpPolicy) -> Exposure:
    """Return what SNP claims show of an advisory."""
    exposures = []
    if claims.product in advisory.broken_products:
        exposures.append(Exposure.OPEN)
    if advisory.platform_info & ~claims.report.platform_info:
        exposures.append(Exposure.OPEN)
    if advisory.has_floors:
        exposures.append(_rate_floor(advisory, claims, policy))
    if advisory.needs_known_platform:
        exposures.append(_rate_known_platform(policy.chip_ids))
    return _worst(exposures)


def _rate_floor(advisory: Advisory, claims: SnpClaims, policy: SnpPolicy) -> Exposure:
    """Return what both the reported TCB and the one at launch show: an update does not mend a running guest."""
    floors = policy.advisory_floors.get(advisory.id, {})
    floor = floors.get(claims.product) or advisory.floors.get(claims.product)
    if floor is None:
        return Exposure.UNKNOWN
    is_above = claims.reported_tcb.is_at_least(floor) and claims.launch_tcb.is_at_least(floor)
    return Exposure.MENDED if is_above else Exposure.OPEN


def rate_tdx(advisory: Advisory, claims: TdxClaims, policy: TdxPolicy) -> Exposure:
    """Return what TDX claims show of an advisory.

    Intel's collateral names the advisories that a level is open to. That it does not name one shows that
    it is mended only where the TCB is up to date: older levels need not name what came after them.
    """
    if advisory.needs_known_platform:
        return _rate_known_platform(policy.ppids, policy.piids)
    if claims.tcb is None:
        return Exposure.UNKNOWN
    if advisory.id in claims.tcb.advisory_ids:
        return Exposure.OPEN
    return Exposure.MENDED if claims.tcb.status is TcbStatus.UP_TO_DATE else Exposure.UNKNOWN


def check_snp_advisories(claims: SnpClaims, policy: SnpPolicy) -> Iterator[Check]:
    """Yield a check for every advisory about SNP."""
    yield from _check(_about(Tee.SNP), policy, lambda item: rate_snp(item, claims, policy))


def check_tdx_advisories(claims: TdxClaims, policy: TdxPolicy) -> Iterator[Check]:
    """Yield a check for every advisory about TDX, those of Intel that collateral or policy name included."""
    named = claims.tcb.advisory_ids if claims.tcb is not None else frozenset()
    names = sorted(named | policy.required_advisories | policy.denied_advisories)
    of_intel = [make_intel_advisory(name) for name in names if find_advisory(name, Tee.TDX) not in ADVISORIES]
    for check in _check([*_about(Tee.TDX), *of_intel], policy, lambda item: rate_tdx(item, claims, policy)):
        yield mark_unknown(check) if claims.tcb is None and check.seen == Exposure.UNKNOWN else check


def _about(tee: Tee) -> list[Advisory]:
    return [advisory for advisory in ADVISORIES if tee in advisory.tees]


def _check(
    advisories: list[Advisory], policy: SnpPolicy | TdxPolicy, rate: Callable[[Advisory], Exposure]
) -> Iterator[Check]:
    for advisory in advisories:
        exposure = rate(advisory)
        if advisory.id in policy.required_advisories:
            wanted, held = str(Exposure.MENDED), exposure is Exposure.MENDED
        elif advisory.id in policy.denied_advisories:
            wanted, held = f"not {Exposure.OPEN}", exposure is not Exposure.OPEN
        else:
            wanted, held = "any", True
        yield make_check(
            f"advisory-{advisory.id.lower()}",
            exposure,
            wanted,
            source=f"{policy.source}; {advisory.source}",
            held=held,
            hint=f"it protects from {advisory.protects_from}: update the platform, or use another",
        )
