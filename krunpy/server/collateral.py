"""Where a server gets the collateral that evidence came without. It judges nothing, and fetches nothing itself.

What a source returns is verified like everything else; that it has nothing means "could not check", never
"trusted" and never "refused".
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from krunpy.formats.snp_tcb import Product

_T = TypeVar("_T")
MOST_AT_ONCE = 2  # of the server's threads: a vendor that answers slowly must not keep all of them


class CollateralSource(Protocol):
    """A cache of what AMD and Intel publish, with or without a network behind it. Safe for threads."""

    def complete_snp(self, payload: bytes, product: Product | None) -> bytes | None:
        """Return an EVIDENCE payload with the VCEK that it came without, None if that cannot be had now.

        product: for a report that does not say it (version 2), what somebody else says; None if nobody does.
        """

    def find_crls(self, payload: bytes) -> tuple[bytes, ...]:
        """Return AMD's revocation lists for an EVIDENCE payload, in DER; none if they cannot be had now."""

    def find_tdx(self, payload: bytes) -> bytes | None:
        """Return the collateral document of an EVIDENCE payload with a quote, None if it cannot be had now."""


class NoCollateral:
    """The source of a server that was given none."""

    def complete_snp(self, payload: bytes, product: Product | None) -> None:
        """Return None."""
        del payload, product

    def find_crls(self, payload: bytes) -> tuple[bytes, ...]:
        """Return none."""
        del payload
        return ()

    def find_tdx(self, payload: bytes) -> None:
        """Return None."""
        del payload


class BoundedSource:
    """A source that is asked by so many threads at once; to the others it has nothing."""

    def __init__(self, source: CollateralSource, *, most_at_once: int = MOST_AT_ONCE) -> None:
        self._source = source
        self._places = threading.BoundedSemaphore(most_at_once)

    def complete_snp(self, payload: bytes, product: Product | None) -> bytes | None:
        """Return what the source returns, None if it is busy."""
        return self._ask(lambda: self._source.complete_snp(payload, product), None)

    def find_crls(self, payload: bytes) -> tuple[bytes, ...]:
        """Return what the source returns, none if it is busy."""
        return self._ask(lambda: self._source.find_crls(payload), ())

    def find_tdx(self, payload: bytes) -> bytes | None:
        """Return what the source returns, None if it is busy."""
        return self._ask(lambda: self._source.find_tdx(payload), None)

    def _ask(self, ask: Callable[[], _T], otherwise: _T) -> _T:
        if not self._places.acquire(blocking=False):
            return otherwise
        try:
            return ask()
        finally:
            self._places.release()
