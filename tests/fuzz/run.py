"""Fuzz the parsers with coverage: `python -m tests.fuzz.run --seconds N [--only WORD]`.

It needs atheris, which is no dependency of krunpy: `pip install atheris`. Each parser runs in a process of its
own, for N seconds, from its examples; what ends one other than with a value or an expected error is a finding
and is printed with the input. Exit 1 if there is one.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HOUSE = Path(__file__).parent.parent.parent
LARGEST = 16384  # bytes of one input
MISSING = "atheris is not installed: `pip install atheris`"


def fuzz_one(name: str, folder: str, seconds: int) -> None:
    """Fuzz one parser and end the process."""
    import atheris

    with atheris.instrument_imports(include=["krunpy"]):
        from tests.fuzz.parsers import EXPECTED, PARSERS
    parser = PARSERS[name]
    for number, example in enumerate(parser.examples()):
        (Path(folder) / f"example-{number}").write_bytes(example)

    def try_input(data: bytes) -> None:
        try:
            parser.parse(data)
        except EXPECTED:
            pass

    words = [f"-max_total_time={seconds}", f"-max_len={LARGEST}", "-timeout=10", "-rss_limit_mb=2048"]
    prefix = f"-artifact_prefix={folder}/finding-"
    atheris.Setup([sys.argv[0], *words, prefix, "-print_final_stats=1", folder], try_input)
    atheris.Fuzz()


def run_one(name: str, seconds: int) -> tuple[int, str]:
    """Return how many inputs one parser was given, and what was found: empty if nothing."""
    with tempfile.TemporaryDirectory() as folder:
        result = subprocess.run(
            [sys.executable, "-m", "tests.fuzz.run", "--child", name, folder, "--seconds", str(seconds)],
            cwd=HOUSE, env=os.environ | {"PYTHONPATH": str(HOUSE)}, capture_output=True, text=True,
            errors="replace", check=False,
        )  # fmt: skip
        findings = [path.read_bytes().hex() for path in Path(folder).glob("finding-*")]
    count = re.search(r"number_of_executed_units: (\d+)", result.stderr)
    if result.returncode == 0 and not findings and count:
        return int(count[1]), ""
    return int(count[1]) if count else 0, "\n".join([result.stderr[-3000:], *findings])


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run")
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--only", default="")
    parser.add_argument("--child", nargs=2, metavar=("PARSER", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if importlib.util.find_spec("atheris") is None:
        print(MISSING, file=sys.stderr)
        return 2
    if options.child:
        fuzz_one(*options.child, options.seconds)
        return 0
    from tests.fuzz.parsers import PARSERS

    found = 0
    for name in PARSERS:
        if options.only in name:
            count, finding = run_one(name, options.seconds)
            found += bool(finding)
            print(f"{name}: {count} inputs, {finding or 'no finding'}", flush=True)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
