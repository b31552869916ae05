"""Run commands one after the other and print what became of each, one JSON object a line; for the emulated machine.

`python -m tests.nested.jobs FILE`: a JSON list of {"name", "argv", "env", "seconds"}.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path


def main() -> int:
    """Return 0: whether a job did what it should is for its test to say."""
    for job in json.loads(Path(sys.argv[1]).read_text()):
        begun = time.monotonic()
        try:
            done = subprocess.run(
                job["argv"],
                env={**os.environ, **job["env"]},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=job["seconds"],
                check=False,
            )
            code, out, err = done.returncode, done.stdout, done.stderr
        except subprocess.TimeoutExpired as error:
            code, out, err = -1, error.stdout or b"", (error.stderr or b"") + b"\ntimed out"
        result = {
            "name": job["name"],
            "code": code,
            "out": out.decode(errors="replace"),
            "err": err.decode(errors="replace"),
            "seconds": round(time.monotonic() - begun, 1),
        }
        print(json.dumps(result), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
