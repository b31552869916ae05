"""The process of an embedded server: development mode, loopback, trusting this installation's software TEE.

Usage: python -I -m krunpy.server.embedded, started by `runtime.embedded`; ends when its starter's pipe closes.
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING

from krunpy.core.errors import KrunpyError
from krunpy.core.files import load_bounded, make_private_directory, write_atomically
from krunpy.server.listening import ServerOptions
from krunpy.server.mode import Mode
from krunpy.server.run import run_server
from krunpy.server.trust import SimulatedRoot
from krunpy.tee.authority import open_authority

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ROOT_FILE = "ark.der"
_NICE = 10  # the guest boots meanwhile, and is waited for; this has a second to spare


def publish_simulated_root(tee_dir: str) -> SimulatedRoot:
    """Return this installation's software TEE's root, pinned; its file (DER) is written if it is not there yet."""
    authority = open_authority(tee_dir, now=datetime.now(UTC))
    path = os.path.join(tee_dir, ROOT_FILE)
    if not os.path.exists(path) or load_bounded(path, 65536) != authority.root:
        write_atomically(path, authority.root, mode=0o644)
    return SimulatedRoot(path=path, sha256=sha256(authority.root).hexdigest())


def parse_words(prog: str, argv: list[str], names: Sequence[str]) -> argparse.Namespace:
    """Return what an embedded server's starter said: a directory, three descriptors, and the options of `names`."""
    parser = argparse.ArgumentParser(prog=prog)
    for name in ("--data-dir", *names):
        parser.add_argument(name, required=True)
    for name in ("--listen-fd", "--stop-fd", "--ready-fd"):
        parser.add_argument(name, type=int, required=True)
    return parser.parse_args(argv)


def serve(given: argparse.Namespace, run: Callable[[ServerOptions], None]) -> int:
    """Serve until the starter's pipe closes; return the exit status. run: adds what its mode needs, and serves."""
    os.nice(_NICE)
    try:
        make_private_directory(given.data_dir)
        run(
            ServerOptions(
                data_dir=given.data_dir,
                listen_fd=given.listen_fd,
                parent_fd=given.stop_fd,
                ready_fd=given.ready_fd,
                log_file=os.path.join(given.data_dir, "server.log"),
            )
        )
    except KrunpyError as error:
        print(f"krunpy: {error.what}: {error.why}", file=sys.stderr)  # noqa: T201 - a process made for this
        return error.exit_code
    return 0


def main(argv: list[str]) -> int:
    """Serve in mode development."""
    given = parse_words("krunpy.server.embedded", argv, ("--tee-dir",))

    def run(options: ServerOptions) -> None:
        root = publish_simulated_root(given.tee_dir)
        run_server(replace(options, mode=Mode.DEVELOPMENT, simulated_root=root))

    return serve(given, run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))  # noqa: TID251 - a process made for this
