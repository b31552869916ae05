"""A real server process on loopback, for tests."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_PROGRAM = """
import json, sys
from krunpy.server.mode import Mode
from krunpy.server.listening import ServerOptions
from krunpy.server.run import run_server
from krunpy.server.trust import SimulatedRoot
options = json.loads(sys.argv[1])
options["mode"] = Mode(options["mode"])
if options.get("simulated_root"):
    options["simulated_root"] = SimulatedRoot(**options["simulated_root"])
run_server(ServerOptions(**options))
"""


@dataclass
class Serving:
    process: subprocess.Popen[bytes]
    url: str
    key: str
    parent_fd: int  # close it, and the server ends


@contextlib.contextmanager
def serve(data_dir: str, **options):
    """Run a server process on a free port until the block ends, in mode production unless told otherwise.

    simulated_root: a path, of a certificate in DER; it is pinned as it is now.
    """
    if path := options.pop("simulated_root", ""):
        digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        options["simulated_root"] = {"path": path, "sha256": digest}
    ready_read, ready_write = os.pipe()
    parent_read, parent_write = os.pipe()
    arguments = {
        "data_dir": data_dir,
        "port": 0,
        "mode": "production",
        "ready_fd": ready_write,
        "parent_fd": parent_read,
        "log_file": f"{data_dir}.log",
        **options,
    }
    fds = [ready_write, parent_read, *([options["listen_fd"]] if "listen_fd" in options else [])]
    process = subprocess.Popen([sys.executable, "-c", _PROGRAM, json.dumps(arguments)], pass_fds=fds)
    os.close(ready_write)
    os.close(parent_read)
    try:
        with open(ready_read, "rb") as stream:
            line = json.loads(stream.readline() or b'{"url": "", "key": ""}')
        yield Serving(process, line["url"], line["key"], parent_write)
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(10)
        with contextlib.suppress(OSError):
            os.close(parent_write)
