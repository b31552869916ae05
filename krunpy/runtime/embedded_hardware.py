"""The process of an embedded server for hardware: mode production, loopback, trusting AMD's and Intel's roots alone.

It asks for the collateral that evidence comes without, and imports more for it than `server.embedded` does.

Usage: python -I -m krunpy.runtime.embedded_hardware, started by `runtime.embedded`; ends when the pipe of that closes.
"""

from __future__ import annotations

import argparse
import os
import sys

from krunpy.core.errors import KrunpyError, format_error
from krunpy.core.files import make_private_directory
from krunpy.core.settings import Settings
from krunpy.runtime.collateral import open_server_collateral
from krunpy.server.listening import ServerOptions
from krunpy.server.mode import Mode
from krunpy.server.run import run_server

_NICE = 10  # the guest boots meanwhile, and is waited for


def main(argv: list[str]) -> int:
    """Serve until the starter's pipe closes."""
    parser = argparse.ArgumentParser(prog="krunpy.runtime.embedded_hardware")
    for name in ("--data-dir", "--cache-dir", "--kds-url", "--pcs-url"):
        parser.add_argument(name, required=True)
    for name in ("--listen-fd", "--stop-fd", "--ready-fd"):
        parser.add_argument(name, type=int, required=True)
    given = parser.parse_args(argv)
    settings = Settings(
        data_dir="", guest_dir="", cache_dir=given.cache_dir, kds_url=given.kds_url, pcs_url=given.pcs_url
    )
    os.nice(_NICE)
    try:
        make_private_directory(given.data_dir)
        run_server(
            ServerOptions(
                data_dir=given.data_dir,
                listen_fd=given.listen_fd,
                parent_fd=given.stop_fd,
                ready_fd=given.ready_fd,
                mode=Mode.PRODUCTION,
                log_file=os.path.join(given.data_dir, "server.log"),
            ),
            collateral=open_server_collateral(settings, _note),
        )
    except KrunpyError as error:
        print(f"krunpy: {error.what}: {error.why}", file=sys.stderr)  # noqa: T201 - a process made for this
        return error.exit_code
    return 0


def _note(error: KrunpyError) -> None:
    print(format_error(error), file=sys.stderr)  # noqa: T201 - a process made for this


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))  # noqa: TID251 - a process made for this
