"""What every human command is given: settings and state root, read once."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from krunpy.core.settings import Settings, load_settings
from krunpy.oci.state import find_state_root

if TYPE_CHECKING:
    import typer


@dataclass(frozen=True, slots=True, kw_only=True)
class Globals:
    """The options before the command."""

    settings: Settings
    state_root: str


def make_globals(*, root: str, config: str) -> Globals:
    """Return the settings and the state root; empty strings mean the defaults."""
    return Globals(
        settings=load_settings(os.environ, config_file=config), state_root=root or find_state_root(os.environ)
    )


def globals_of(context: typer.Context) -> Globals:
    """Return what was read before the command."""
    return cast("Globals", context.find_root().obj)


def settings_of(context: typer.Context) -> Settings:
    """Return the operator's settings."""
    return globals_of(context).settings
