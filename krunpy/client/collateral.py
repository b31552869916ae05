"""Collateral from the cache, else from AMD or Intel: asked patiently, once, and checked before it is kept.

Whatever fails here is a CollateralError, exit status 5: evidence that needed it is neither trusted nor
untrusted. An item that still holds is never fetched again.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from krunpy.client.collateral_check import join_collateral
from krunpy.client.collateral_http import CollateralError, TransientError, get, parse_retry_after
from krunpy.client.collateral_item import describe_item, list_tdx_items, name_item, vendor_of
from krunpy.client.collateral_source import limit_of, make_path, read_answer
from krunpy.core.errors import FormatError, HostError

if TYPE_CHECKING:
    from krunpy.client.collateral_cache import Cached, Clock, CollateralCache
    from krunpy.client.collateral_http import Answer
    from krunpy.client.collateral_item import Item, PckCa
    from krunpy.client.collateral_source import Sources
    from krunpy.formats.tdx_collateral import TdxCollateral

TOTAL_S = 60.0  # for one item, waits included
_ATTEMPT_S = 15.0  # for one request
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 8.0
_LEAST_PAUSE_S = 5.0  # after we gave up
_OK, _TOO_MANY, _SERVER_ERRORS = 200, 429, range(500, 600)
_REASONS = {
    400: "it does not know such a request: is there such a product or platform",
    404: "it has none: no such chip, platform or TCB version is known there",
}


class CollateralClient:
    """Gets collateral for one cache. Safe for threads."""

    def __init__(self, cache: CollateralCache, sources: Sources, *, total_s: float = TOTAL_S) -> None:
        """Take where to look and where to ask. total_s: for one item, waits included;
        and as long again where somebody else is at the same item.
        """
        self.cache = cache
        self._sources = sources
        self._total_s = total_s

    @property
    def _clock(self) -> Clock:
        return self.cache.clock

    def fetch(self, item: Item) -> Cached:
        """Return an item that holds now, from the cache if it is there.

        Raises CollateralError if it cannot be had, HostError if the cache cannot be written.
        """
        fresh = self.cache.find_fresh(item)
        if fresh is not None:
            return fresh
        with self.cache.hold(item, patience_s=self._total_s):
            # who held it before us may have fetched it
            return self.cache.find_fresh(item) or self._fetch_anew(item)

    def fetch_or_stale(self, item: Item) -> Cached:
        """Return an item that holds now, or one that held once if no other can be had.

        Raises CollateralError if there is neither.
        """
        try:
            return self.fetch(item)
        except CollateralError:
            stale = self.cache.find(item)
            if stale is None:
                raise
            return stale

    def fetch_tdx(self, fmspc: bytes, ca: PckCa) -> TdxCollateral:
        """Return what a TDX quote is verified with. fmspc: 6 bytes.

        Raises CollateralError if a part cannot be had.
        """
        tcb_info, qe_identity, pck_crl, root_crl = (
            self.fetch(item).contents for item in list_tdx_items(fmspc, ca)
        )
        return join_collateral(tcb_info, qe_identity, pck_crl, root_crl)

    def _fetch_anew(self, item: Item) -> Cached:
        self._require_no_pause(item)
        answer = self._ask_patiently(item)
        try:
            cached = self.cache.keep(item, read_answer(item, answer))
        except FormatError as error:
            raise self._fail(item, f"what it answered is not that: {error.why}") from error
        now = self._clock.now()
        if not cached.span.holds_at(now):
            span = f"{cached.span.issued:%Y-%m-%d %H:%M} to {cached.span.expires:%Y-%m-%d %H:%M}"
            raise self._fail(item, f"the newest one holds from {span}, and now it is {now:%Y-%m-%d %H:%M}")
        return cached

    def _ask_patiently(self, item: Item) -> Answer:
        """Return an answer of status 200; wait and ask again while that may help and time is left."""
        deadline = self._clock.monotonic() + self._total_s
        wait_s = _FIRST_WAIT_S
        while True:
            left = deadline - self._clock.monotonic()
            try:
                return self._ask(item, timeout_s=min(_ATTEMPT_S, left))
            except TransientError as error:
                asked = wait_s if error.wait_s is None else error.wait_s
                wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
                if self._clock.monotonic() + asked >= deadline:
                    pause_s = max(error.wait_s or 0, _LEAST_PAUSE_S)
                    with contextlib.suppress(HostError):
                        self.cache.pause(vendor_of(item), wait_s=pause_s, why=error.why)
                    raise self._fail(item, error.why) from error
            self._clock.sleep(asked)

    def _ask(self, item: Item, *, timeout_s: float) -> Answer:
        target, path = self._sources.of(item), make_path(item, self._sources)
        answer = get(target, path, limit=limit_of(item), timeout_s=timeout_s)
        if answer.status == _OK:
            return answer
        why = f"status {answer.status}"
        if answer.status == _TOO_MANY or answer.status in _SERVER_ERRORS:
            wait_s = parse_retry_after(answer.headers.get("retry-after", ""), self._clock.now())
            raise TransientError("cannot get collateral", why=why, wait_s=wait_s)
        hint = _REASONS.get(answer.status, "redirects are not followed" if 300 <= answer.status < 400 else "")  # noqa: PLR2004
        raise self._fail(item, f"{why}; {hint}" if hint else why)

    def _require_no_pause(self, item: Item) -> None:
        pause = self.cache.find_pause(vendor_of(item))
        if pause is not None:
            left, why = pause
            raise self._fail(item, f"{why}; not asked again for {left:.0f} s more")

    def _fail(self, item: Item, why: str) -> CollateralError:
        return CollateralError(
            f"cannot get the {describe_item(item)} from {self._sources.of(item)}",
            why=why,
            next=f"try later, or import it: krunpy collateral import (item {name_item(item)})",
        )
