"""Time the OCI verbs next to an empty Python: create, state, start, kill, delete, of real containers.

    python benchmarks/verbs.py [--runs 7] [--krunpy krunpy]     (as root, with a guest: `krunpy guest build`)

Each run takes one container of a cached image through its life: create; once its launcher is ready, state and start;
once its workload runs, state and kill; once it has stopped, state and delete. Every verb is a whole process, and is
paired with the empty Python that was timed just before it; the ratio is the median of the pairs'. The launcher works
in the background of create, as it does for an engine; the other verbs find the host idle.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from krunpy.core.settings import load_settings
from krunpy.runtime.plan import Plan, make_config, write_bundle
from krunpy.runtime.sample import open_sample

TARGETS = {"create": 8.0, "state": 2.5, "start": 2.5, "kill": 2.5, "delete": 2.5}
PATIENCE_S = 60.0


def timed(argv: list[str]) -> float:
    """Return the seconds that a program takes; it must succeed."""
    null = subprocess.DEVNULL
    began = time.perf_counter()
    code = subprocess.run(argv, stdin=null, stdout=null, check=False).returncode
    took = time.perf_counter() - began
    if code:
        raise SystemExit(f"{' '.join(argv)}: exit code {code}")
    return took


def wait_for(what: str, is_so) -> None:
    end = time.monotonic() + PATIENCE_S
    while not is_so():
        if time.monotonic() > end:
            raise SystemExit(f"waited {PATIENCE_S:g} s for {what}")
        time.sleep(0.02)


def has_step(folder: str, name: str) -> bool:
    path = f"{folder}/steps.jsonl"
    if not os.path.exists(path):
        return False
    with open(path, encoding="utf-8") as stream:
        return any(json.loads(line)["step"] == name for line in stream)


class Bench:
    """Pairs of seconds, verb and empty Python, by verb."""

    def __init__(self, krunpy: str) -> None:
        self._krunpy = krunpy
        with open(krunpy, encoding="utf-8") as stream:
            python = stream.readline().removeprefix("#!").strip()
        self.empty = [python, "-I", "-S", "-c", "pass"]
        self.pairs: dict[str, list[tuple[float, float]]] = defaultdict(list)

    def time(self, verb: str, *words: str) -> None:
        base = statistics.median(timed(self.empty) for _ in range(3))
        self.pairs[verb].append((timed([self._krunpy, verb, *words]), base))

    def live(self, bundle: str, root: str, name: str) -> None:
        folder = f"{root}/krunpy/{name}"
        self.time("create", "--bundle", bundle, name)
        wait_for("the launcher", lambda: has_step(folder, "measure"))
        time.sleep(0.7)  # for the embedded server's start
        self.time("state", name)
        self.time("start", name)
        wait_for("the workload", lambda: os.path.exists(f"{folder}/timings.json"))
        time.sleep(0.3)
        self.time("state", name)
        self.time("kill", name, "KILL")
        state = [self._krunpy, "state", name]
        wait_for(
            "the end", lambda: b'"stopped"' in subprocess.run(state, check=True, capture_output=True).stdout
        )
        self.time("state", name)
        self.time("delete", name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--krunpy", default=shutil.which("krunpy") or "krunpy")
    given = parser.parse_args()
    sample = open_sample(load_settings(os.environ).data_dir)
    bench = Bench(given.krunpy)
    with tempfile.TemporaryDirectory(prefix="krunpy-bench-") as root:
        os.environ["XDG_RUNTIME_DIR"] = root
        bundle = f"{root}/bundle"
        os.mkdir(bundle)
        config = make_config(Plan(source=sample, args=("sleep", "600")))
        write_bundle(bundle, {**config, "annotations": {}, "root": {"path": sample}})
        Bench(given.krunpy).live(bundle, root, "warm")  # fill the cache
        for number in range(given.runs):
            bench.live(bundle, root, f"bench-{number}")
    print(f"median of {given.runs} containers; empty: {' '.join(bench.empty)}")
    print(f"{'verb':8}{'ms':>8}{'empty':>8}{'ratio':>8}  {'least':>6}")
    for verb, target in TARGETS.items():
        pairs = bench.pairs[verb]
        ratio = statistics.median(took / base for took, base in pairs)
        took, base = (statistics.median(pair[side] for pair in pairs) * 1000 for side in (0, 1))
        least = min(took / base for took, base in pairs)
        verdict = "met" if ratio <= target else "MISSED"
        print(f"{verb:8}{took:8.1f}{base:8.1f}{ratio:8.2f}  {least:6.2f}  target {target:g}: {verdict}")


if __name__ == "__main__":
    main()
