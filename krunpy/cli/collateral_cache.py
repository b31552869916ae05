"""Where `krunpy collateral fetch` keeps what it brought, for the commands that use it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from krunpy.runtime.collateral import find_collateral_directory, open_collateral_cache

if TYPE_CHECKING:
    from krunpy.core.settings import Settings

__all__ = ["has_collateral_cache", "open_collateral_cache"]


def has_collateral_cache(settings: Settings) -> bool:
    """Return whether anything was ever kept; this imports nothing of the client."""
    return os.path.isdir(find_collateral_directory(settings))
