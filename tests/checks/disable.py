"""Switch off every check of the verifier, one at a time, and say which tests notice.

  python -m tests.checks.disable [--json] [--write] [--only WORD] [--without TEST] [TESTS ...]

One run with everything on records which tests reach which check; then only those run again, with that check
off. Property tests are left out: what they try differs from run to run. Exit 1 if a check goes unnoticed.
--write puts the list into docs/checks.md; --only takes the sites whose name holds WORD; --without leaves out
tests whose name holds TEST.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import signal
import sys
import time
from dataclasses import dataclass, field

import pytest
from _pytest.runner import runtestprotocol

from tests.checks.exempt import EXEMPT
from tests.checks.report import DOCUMENT, Row, format_document, format_table
from tests.checks.switches import clear_caches, install

TESTS = ("tests/unit/attest", "tests/unit/formats")
SLOWEST = 20.0  # seconds a test may take with a check off: one that never ends has noticed
LARGEST = 4 << 30  # bytes of memory
OUTCOME = "attest.verdict "  # sites of this module
SWITCHES, SITES = install()


class TooSlowError(BaseException):
    """A test that would never end."""


@dataclass
class Baseline:
    """What one test does with every check on.

    reached: sites that turned something down; events: sets of them, one for each refusal.
    """

    item: pytest.Item
    reached: set[str] = field(default_factory=set)
    events: list[set[str]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.item.nodeid.replace("\\", "/")


def _stop(*_: object) -> None:
    raise TooSlowError


class Plugin:
    """Runs the tests in pytest's own session, as often as it takes."""

    def __init__(self, only: str, without: str) -> None:
        self.only, self.without = only, without
        self.rows: list[Row] = []
        self.broken: list[str] = []

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [
            item
            for item in items
            if not getattr(getattr(item, "obj", None), "is_hypothesis_test", False)
            and not (self.without and self.without in item.name)
        ]

    def _holds(self, item: pytest.Item, off: str | None) -> bool:
        clear_caches()
        SWITCHES.start(off)
        signal.setitimer(signal.ITIMER_REAL, SLOWEST)
        try:
            reports = runtestprotocol(item, log=False, nextitem=None)
        except TooSlowError:
            return False
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        return not any(report.failed for report in reports)

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        signal.signal(signal.SIGALRM, _stop)
        baselines = []
        for item in session.items:
            if self._holds(item, None):
                baselines.append(Baseline(item, SWITCHES.reached, SWITCHES.events))
            else:
                self.broken.append(item.nodeid)
        self._try_all(baselines)
        return True

    def _try_all(self, baselines: list[Baseline]) -> None:
        found = [key for key in [*SITES, *sorted(SWITCHES.names)] if self.only in key]
        keys = sorted(found, key=lambda key: key.split(" ", 1)[0])  # by module, as they come in it
        noticed: dict[str, list[Baseline]] = {}
        for number, key in enumerate(keys):
            reached = [one for one in baselines if key in one.reached]
            noticed[key] = [one for one in reached if not self._holds(one.item, key)]
            print(f"\r{number + 1} of {len(keys)}", end="", file=sys.stderr)
        print(file=sys.stderr)
        for key in keys:
            self.rows.append(
                Row(
                    key=key,
                    place=SITES[key].place if key in SITES else "",
                    stage=SWITCHES.stages.get(key, "parse"),
                    tests=[one.name for one in noticed[key]],
                    only=[one.name for one in noticed[key] if _is_only(one, key, noticed)],
                )
            )


def _is_only(test: Baseline, key: str, noticed: dict[str, list[Baseline]]) -> bool:
    """Return whether all sites that the test fails without take part in one refusal, this one.

    What every verdict passes through takes part in each.
    """
    sites = {other for other, tests in noticed.items() if test in tests and not other.startswith(OUTCOME)}
    sites |= {key}
    return sites == {key} or any(key in event and sites <= event for event in test.events)


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.checks.disable")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--only", default="")
    parser.add_argument("--without", default="")
    parser.add_argument("tests", nargs="*", default=TESTS)
    options = parser.parse_args(words)
    resource.setrlimit(resource.RLIMIT_AS, (LARGEST, LARGEST))
    start = time.monotonic()
    plugin = Plugin(options.only, options.without)
    with contextlib.redirect_stdout(sys.stderr):
        pytest.main(["-qq", "--no-summary", "-p", "no:cacheprovider", *options.tests], plugins=[plugin])
    rows = plugin.rows
    if options.json:
        print(json.dumps([row.to_dict() for row in rows], indent=1))
    else:
        print(format_table(rows))
    if options.write:
        DOCUMENT.write_text(format_document(rows))
    unnoticed = [row for row in rows if not row.tests and row.key not in EXEMPT]
    needless = [row for row in rows if row.tests and row.key in EXEMPT]
    print(
        f"{len(rows)} checks, {len(unnoticed)} unnoticed, {time.monotonic() - start:.0f} s", file=sys.stderr
    )
    for name in plugin.broken:
        print(f"fails with every check on: {name}", file=sys.stderr)
    for row in unnoticed:
        print(f"no test notices: {row.place} {row.key}", file=sys.stderr)
    for row in needless:
        print(f"exempt, but a test notices: {row.key}", file=sys.stderr)
    return int(bool(unnoticed or needless or plugin.broken or not rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
