"""Where `krunpy collateral fetch` keeps what it brought, for the commands that use it."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from krunpy.client.collateral_cache import CollateralCache
    from krunpy.core.settings import Settings


def has_collateral_cache(settings: Settings) -> bool:
    """Return whether anything was ever kept; this imports nothing of the client."""
    return os.path.isdir(_find_directory(settings))


def open_collateral_cache(settings: Settings) -> CollateralCache:
    """Return the cache of collateral, made if missing, below the pinned roots. Raises HostError."""
    from krunpy.attest.anchors import load_amd_anchors, load_intel_anchors
    from krunpy.client.collateral_cache import Clock, CollateralCache
    from krunpy.client.collateral_check import Roots

    clock = Clock(now=lambda: datetime.now(UTC), monotonic=time.monotonic, sleep=time.sleep)
    roots = Roots(amd=load_amd_anchors(), intel=load_intel_anchors())
    return CollateralCache(_find_directory(settings), roots=roots, clock=clock)


def _find_directory(settings: Settings) -> str:
    return os.path.join(settings.cache_dir, "collateral")
