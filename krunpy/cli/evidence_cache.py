"""What evidence came without, and an earlier `krunpy collateral fetch` brought. Nothing is fetched here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from krunpy.client.collateral_check import join_collateral
from krunpy.client.collateral_evidence import list_needed
from krunpy.client.collateral_item import AmdCrl, TdxTcbInfo, Vcek, describe_item
from krunpy.core.errors import FormatError

if TYPE_CHECKING:
    from krunpy.cli.evidence_given import Given
    from krunpy.client.collateral_cache import Cached, CollateralCache


@dataclass(frozen=True, slots=True, kw_only=True)
class Completed:
    """What was given and what the cache had besides; names: of the latter, for people."""

    given: Given
    names: tuple[str, ...]


def complete_given(data: bytes, given: Given, cache: CollateralCache) -> Completed:
    """Return what was given, and what the evidence needs besides and the cache has, fresh or stale.

    data: the evidence in any encoding. Whether an item holds at the time in question is for the verifier.
    """
    try:
        items = list_needed(data)
    except FormatError:  # it does not say what it needs
        return Completed(given=given, names=())
    found = [cached for cached in map(cache.find, items) if cached is not None]
    is_tdx = any(isinstance(item, TdxTcbInfo) for item in items)
    if not is_tdx:
        return _complete_snp(given, found)
    return _complete_tdx(given, found) if len(found) == len(items) else Completed(given=given, names=())


def _complete_snp(given: Given, found: list[Cached]) -> Completed:
    names = []
    for cached in found:
        if isinstance(cached.item, Vcek) and given.vek is None:
            given = replace(given, vek=cached.contents)
        elif isinstance(cached.item, AmdCrl) and not given.crls and given.policies.snp.requires_crl:
            given = replace(given, crls=(cached.contents,))
        else:
            continue  # the chain is pinned
        names.append(describe_item(cached.item))
    return Completed(given=given, names=tuple(names))


def _complete_tdx(given: Given, found: list[Cached]) -> Completed:
    if given.collateral is not None:
        return Completed(given=given, names=())
    tcb_info, qe_identity, pck_crl, root_crl = (cached.contents for cached in found)
    collateral = join_collateral(tcb_info, qe_identity, pck_crl, root_crl)
    names = tuple(describe_item(cached.item) for cached in found)
    return Completed(given=replace(given, collateral=collateral), names=names)
