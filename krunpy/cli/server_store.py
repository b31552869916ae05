"""The server's store, for commands on the server's own machine: whoever may open its files may use them."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from krunpy.cli.context import settings_of
from krunpy.core.errors import HostError
from krunpy.runtime.embedded import store_of

if TYPE_CHECKING:
    from krunpy.server.database import Database

DataOption = Annotated[str, typer.Option("--data-dir", help="The store.", show_default="DATA/server")]


def open_store(context: typer.Context, data_dir: str) -> Database:
    """Return the store of a directory, empty for the usual one. Raises HostError if there is none."""
    from krunpy.server.broker import DATABASE_FILE
    from krunpy.server.database import Database

    directory = os.path.abspath(data_dir or store_of(settings_of(context)))
    path = os.path.join(directory, DATABASE_FILE)
    if not os.path.exists(path):
        raise HostError(
            f"cannot open the store {directory}", why="there is none", next="start the server once"
        )
    return Database(path)


def tell_time() -> int:
    """Return the seconds since 1970."""
    return int(datetime.now(UTC).timestamp())


def format_time(value: object) -> str:
    """Return seconds since 1970 for people; 0 is never."""
    return f"{datetime.fromtimestamp(int(str(value)), UTC):%Y-%m-%d %H:%M}" if value else "never"
