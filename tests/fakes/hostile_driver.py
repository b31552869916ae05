"""Run the real command line on many sources in one process, and say of each what a user would have seen.

Usage: hostile_driver.py RESULTS < CASES, where CASES is a JSON list of [name, [WORD...]]; RESULTS gets a JSON
list. Settings come from the environment. What is not an exit of the command line's own is a "traceback".
"""

import contextlib
import io
import json
import resource
import sys
import time
import traceback
from pathlib import Path

from krunpy.cli.app import main

ADDRESS_SPACE = 3 << 30  # bytes


def run(words):
    """Return what one command line did."""
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
results = [{"name": name, **run(words)} for name, words in json.load(sys.stdin)]
Path(sys.argv[1]).write_text(json.dumps(results))
