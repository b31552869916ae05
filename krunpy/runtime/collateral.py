"""Where this installation has what AMD and Intel publish about their hardware: its cache, and the network behind it."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from krunpy.client.collateral_cache import CollateralCache
    from krunpy.core.errors import KrunpyError
    from krunpy.core.settings import Settings
    from krunpy.server.collateral import CollateralSource

_SERVER_S = 7.0  # to fetch one item: who waits for the server gives up after 10 s


def find_collateral_directory(settings: Settings) -> str:
    """Return the directory of the cache, whether it is there or not."""
    return os.path.join(settings.cache_dir, "collateral")


def open_collateral_cache(settings: Settings) -> CollateralCache:
    """Return the cache of collateral, made if missing, below the pinned roots. Raises HostError."""
    from krunpy.attest.anchors import load_amd_anchors, load_intel_anchors
    from krunpy.client.collateral_cache import Clock, CollateralCache
    from krunpy.client.collateral_check import Roots

    clock = Clock(now=lambda: datetime.now(UTC), monotonic=time.monotonic, sleep=time.sleep)
    roots = Roots(amd=load_amd_anchors(), intel=load_intel_anchors())
    return CollateralCache(find_collateral_directory(settings), roots=roots, clock=clock)


def open_server_collateral(settings: Settings, note: Callable[[KrunpyError], None]) -> CollateralSource:
    """Return what a server asks for what evidence came without. note: told what could not be had."""
    from krunpy.client.collateral import CollateralClient
    from krunpy.client.collateral_evidence import EvidenceCollateral
    from krunpy.client.collateral_source import make_sources

    sources = make_sources(kds_url=settings.kds_url, pcs_url=settings.pcs_url)
    client = CollateralClient(open_collateral_cache(settings), sources, total_s=_SERVER_S)
    return EvidenceCollateral(client, note)
