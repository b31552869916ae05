"""Time a conversion next to the tools that do its parts: mkfs.erofs, AES-XTS at openssl's rate, veritysetup.

    python benchmarks/convert.py [--runs 7] [--scratch DIR] SOURCE...

Each run does all of them in turn, so that what else the machine does falls on all alike. The conversion is a
whole Python process with an empty cache. The target is a ratio of at most 2.5 and a peak memory under 200 MB.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

RATIO = 2.5
MEMORY_MB = 200

CHILD = """
import resource, sys, time
from krunpy.image.cache import ImageCache
from krunpy.image.convert import ConvertOptions, convert
from krunpy.image.dirsource import DirectorySource
from krunpy.image.keys import load_build_secret
source, scratch = sys.argv[1:]
started = time.perf_counter()
image = convert(
    DirectorySource(source, now_ns=time.time_ns),
    cache=ImageCache(scratch + "/cache", time.time),
    options=ConvertOptions(build_secret=load_build_secret(scratch + "/data")),
)
took = time.perf_counter() - started
print(image.disk.payload_size, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, took)
"""


def timed(argv: list[str]) -> tuple[float, str]:
    started = time.perf_counter()
    done = subprocess.run(argv, check=True, capture_output=True, text=True)
    return time.perf_counter() - started, done.stdout


def openssl_rate() -> float:
    argv = ["openssl", "speed", "-seconds", "1", "-bytes", "4096", "-evp", "aes-256-xts"]
    out = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    return float(re.findall(r"([0-9.]+)k\s*$", out)[-1]) * 1000


def measure(source: str, scratch: str) -> dict[str, float]:
    plain, tree = f"{scratch}/plain.erofs", f"{scratch}/tree"
    row: dict[str, float] = {}
    row["mkfs.erofs"], _ = timed(["mkfs.erofs", "-T0", plain, source])
    row["xts"] = os.stat(plain).st_size / openssl_rate()
    row["veritysetup"], _ = timed(["veritysetup", "format", plain, tree])
    for path in (plain, tree):
        os.unlink(path)
    row["process"], out = timed([sys.executable, "-c", CHILD, source, scratch])
    payload, memory, row["convert"] = map(float, out.split())
    row["payload"], row["memory"] = payload / 1e6, memory / 1e6
    shutil.rmtree(f"{scratch}/cache")
    row["parts"] = row["mkfs.erofs"] + row["xts"] + row["veritysetup"]
    row["ratio"] = row["process"] / row["parts"]
    return row


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("sources", nargs="+")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--scratch", default=None)
    options = parser.parse_args()
    missed = False
    with tempfile.TemporaryDirectory(dir=options.scratch) as scratch:
        for source in options.sources:
            measure(source, scratch)
            rows = [measure(source, scratch) for _ in range(options.runs)]
            middle = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
            print(f"{source}: median of {options.runs}, payload {middle['payload']:.0f} MB")
            for name in ("mkfs.erofs", "xts", "veritysetup", "parts", "convert", "process"):
                print(f"  {name:12} {middle[name]:7.3f} s")
            print(f"  ratio        {middle['ratio']:7.2f}   target {RATIO}")
            print(f"  memory       {middle['memory']:7.0f} MB target {MEMORY_MB}")
            missed |= middle["ratio"] > RATIO or middle["memory"] > MEMORY_MB
    return int(missed)


if __name__ == "__main__":
    raise SystemExit(main())
