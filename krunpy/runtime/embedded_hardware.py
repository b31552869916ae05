"""The process of an embedded server for hardware: mode production, loopback, trusting AMD's and Intel's roots alone.

It asks for the collateral that evidence comes without, and imports more for it than `server.embedded` does.

Usage: python -I -m krunpy.runtime.embedded_hardware, started by `runtime.embedded`; ends when the pipe of that closes.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from krunpy.core.errors import format_error
from krunpy.core.settings import Settings
from krunpy.runtime.collateral import open_server_collateral
from krunpy.server.embedded import parse_words, serve
from krunpy.server.mode import Mode
from krunpy.server.run import run_server

if TYPE_CHECKING:
    from krunpy.core.errors import KrunpyError
    from krunpy.server.listening import ServerOptions


def main(argv: list[str]) -> int:
    """Serve until the starter's pipe closes."""
    given = parse_words("krunpy.runtime.embedded_hardware", argv, ("--cache-dir", "--kds-url", "--pcs-url"))
    settings = Settings(
        data_dir="", guest_dir="", cache_dir=given.cache_dir, kds_url=given.kds_url, pcs_url=given.pcs_url
    )

    def run(options: ServerOptions) -> None:
        collateral = open_server_collateral(settings, _note)
        run_server(replace(options, mode=Mode.PRODUCTION), collateral=collateral)

    return serve(given, run)


def _note(error: KrunpyError) -> None:
    print(format_error(error), file=sys.stderr)  # noqa: T201 - a process made for this


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))  # noqa: TID251 - a process made for this
