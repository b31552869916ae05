"""Run the real command line on many sources in one process, and say of each what a user would have seen.

Usage: hostile_driver.py RESULTS < CASES, where CASES is a JSON list of [name, [WORD...], environment, damage]:
what is added to the environment, and path -> base64 of files that are different during the call. RESULTS gets a
JSON list. What is not an exit of the command line's own is a traceback, and code -1.
"""

import base64
import contextlib
import io
import json
import os
import resource
import sys
import time
import traceback
from pathlib import Path

from krunpy.cli.app import main

ADDRESS_SPACE = 3 << 30  # bytes


@contextlib.contextmanager
def damage(files):
    """Give files other contents until the block ends; those that were not there are removed."""
    kept = {Path(path): Path(path).read_bytes() if Path(path).exists() else None for path in files}
    for path, contents in files.items():
        Path(path).write_bytes(base64.b64decode(contents))
    try:
        yield
    finally:
        for path, contents in kept.items():
            if contents is None:
                path.unlink()
            elif path.exists() or path.parent.is_dir():
                path.write_bytes(contents)


def run(words, environment, files):
    """Return what one command line did."""
    before = dict(os.environ)
    os.environ.update(environment)
    with damage(files):
        result = call(words)
    for name in environment:
        del os.environ[name]
    os.environ.update(before)
    return result


def call(words):
    """Call the command line and return what it did."""
    out, err = io.StringIO(), io.StringIO()
    begin = time.monotonic()
    code = -1
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(list(words))
        except SystemExit as end:
            code = end.code or 0
        except BaseException:  # noqa: BLE001 - any other end is what is looked for
            err.write(traceback.format_exc())
    return {
        "code": code,
        "out": out.getvalue(),
        "err": err.getvalue(),
        "seconds": time.monotonic() - begin,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
results = [{"name": name, **run(*rest)} for name, *rest in json.load(sys.stdin)]
Path(sys.argv[1]).write_text(json.dumps(results))
