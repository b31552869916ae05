"""Known weaknesses of the platforms, and what verified claims have to show for one to be mended.

A table, not a feed: it names what a TCB floor, a bit or a list of chips protects from. It fetches nothing.
Where no floor is given for a product, none was found in a public record of AMD's bulletin; a person reads
it there and gives it in the policy, `advisory_floors`. Until then the mitigation counts as not shown.

Intel's advisories are not in the table: signed collateral names those that a TCB level is open to.

Source: AMD product security bulletins, as cited in each row. The bulletins themselves could not be
fetched when this was written: a row with numbers also names the public record that they were taken from.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from krunpy.formats.snp_report import PlatformInfo
from krunpy.formats.snp_tcb import Product, Tcb

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_NO_BITS = PlatformInfo(0)
_INTEL_ID = re.compile(r"INTEL-[A-Z]{2,8}-[0-9]{4,6}")


class Tee(StrEnum):
    """Whose platform an advisory is about."""

    SNP = "snp"
    TDX = "tdx"


@dataclass(frozen=True, slots=True, kw_only=True)
class Advisory:
    """One weakness. Each of the four means that a row gives has to be met.

    aliases:         other ids of the same weakness.
    protects_from:   what an attacker could do, for hints.
    floors:          SNP: the least reported and launch TCB, by product.
    has_floors:      that a floor is the mitigation, known here or not.
    platform_info:   SNP: bits that say that the mitigation is on.
    broken_products: SNP: products for which there is no mitigation.
    needs_known_platform: nothing in the evidence shows it; only a list of accepted platforms helps.
    """

    id: str
    aliases: tuple[str, ...] = ()
    tees: tuple[Tee, ...] = (Tee.SNP,)
    protects_from: str
    source: str
    floors: Mapping[Product, Tcb] = field(default_factory=dict)
    has_floors: bool = False
    platform_info: PlatformInfo = _NO_BITS
    broken_products: frozenset[Product] = frozenset()
    needs_known_platform: bool = False


ADVISORIES = (
    Advisory(
        id="AMD-SB-3015",
        aliases=("CVE-2024-21944", "BadRAM"),
        protects_from="memory modules that lie about their size, so that the host reaches guest memory",
        source="AMD-SB-3015; ALIAS_CHECK_COMPLETE is PLATFORM_INFO bit 5, publication 56860, section 7.3",
        platform_info=PlatformInfo.ALIAS_CHECK_COMPLETE,
    ),
    Advisory(
        id="AMD-SB-3019",
        aliases=("AMD-SB-7033", "CVE-2024-56161", "EntrySign"),
        protects_from="microcode that the host forged, which can read and change the guest",
        source="AMD-SB-3019; Milan 0x18 and Genoa 0x17 as read there by CCF's maintainers (microsoft/CCF, "
        "issue 6812); no number for Turin",
        floors={Product.MILAN: Tcb(snp=0x18), Product.GENOA: Tcb(snp=0x17)},
        has_floors=True,
    ),
    Advisory(
        id="AMD-SB-3020",
        aliases=("CVE-2025-0033", "RMPocalypse"),
        protects_from="a host that writes to the reverse map table while the firmware sets it up",
        source="AMD-SB-3020; its floors (SNP and microcode) are to be filled in from the bulletin",
        has_floors=True,
    ),
    Advisory(
        id="arXiv-2605.12990",
        aliases=("BadFuse", "MilanLaunchy"),
        protects_from="forged reports of any TCB: Milan's root seed of the VCEK can be read by software",
        source="arXiv 2605.12990, 2026",
        broken_products=frozenset({Product.MILAN}),
    ),
    Advisory(
        id="TEE.fail",
        tees=(Tee.SNP, Tee.TDX),
        protects_from="evidence signed with a key that was taken from some machine by probing its memory bus",
        source="TEE.fail, 2025; nothing that evidence says can rule it out: list the machines you know",
        needs_known_platform=True,
    ),
)


def find_advisory(name: str, tee: Tee) -> Advisory | None:
    """Return the advisory of an id or alias, or of one of Intel's ids for TDX; None if there is none."""
    for advisory in ADVISORIES:
        if tee in advisory.tees and name in {advisory.id, *advisory.aliases}:
            return advisory
    return make_intel_advisory(name) if tee is Tee.TDX and _INTEL_ID.fullmatch(name) else None


def make_intel_advisory(name: str) -> Advisory:
    """Return what is known of one of Intel's advisories: that collateral may name it."""
    return Advisory(
        id=name,
        tees=(Tee.TDX,),
        protects_from=f"what {name} describes",
        source="Intel's TCB Info and QE identity",
    )


def require_canonical(names: Iterable[str], tee: Tee) -> None:
    """Raise ValueError unless every name is the id of an advisory about `tee`: none may be passed over."""
    for name in names:
        advisory = find_advisory(name, tee)
        if advisory is None or advisory.id != name:
            msg = f"{name} is not the id of an advisory about {tee}"
            raise ValueError(msg)
