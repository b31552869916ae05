"""The switches while tests run: which site is off, and which sites turned something down.

An event is one refusal and every site that took part in it: the operand that was true, the `raise`, what
turned it into another error on the way up. `install` makes imports of the verifier get the switches.
"""

from __future__ import annotations

import builtins
import importlib.abc
import importlib.machinery
import re
import sys
from typing import TYPE_CHECKING, Any

from tests.checks.sites import MODULES, SWITCHES, Site, instrument

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

APPRAISERS = ("appraise", "tdx_appraise", "azure")
_MARK = "krunpy_event"
_OF_INTEL = re.compile("advisory-intel-.*")  # collateral names these


class Switches:
    """One for a process. Of the test that runs: reached, the keys of the sites that turned something down, and
    events, sets of them.
    """

    def __init__(self) -> None:
        self.off: str | None = None
        self.names: set[str] = set()
        self.stages: dict[str, str] = {}
        self.events: list[set[str]] = []
        self.reached: set[str] = set()
        self._pending: set[str] = set()
        self._rows: dict[str, str] = {}

    def start(self, off: str | None) -> None:
        self.off = off
        self.events = []
        self.reached = set()
        self._pending = set()

    def is_on(self, key: str) -> bool:
        return key != self.off

    def _reach(self, key: str) -> None:
        self.reached.add(key)
        self._pending.add(key)

    def reject(self, key: str, value: Any) -> Any:
        if value:
            self._reach(key)
        return False if key == self.off else value

    def accept(self, key: str, value: Any) -> Any:
        if not value:
            self._reach(key)
        return True if key == self.off else value

    def fire(self, key: str, error: Any, *loops: str) -> Any:
        event = getattr(error, _MARK, None) or getattr(sys.exc_info()[1], _MARK, None)
        if event is None:
            event = set()
            self.events.append(event)
        event |= self._pending | {self._rows[loop] for loop in loops if loop in self._rows}
        event |= {key} - {""}
        self.reached |= event
        self._pending = set()
        if error is not None:
            setattr(error, _MARK, event)
            if stage := getattr(error, "stage", None):
                for one in event:
                    self.stages[one] = str(stage)
        return error

    def note(self, key: str, *loops: str) -> None:
        event = getattr(sys.exc_info()[1], _MARK, None)
        if event is not None:
            event |= {key} | {self._rows[loop] for loop in loops if loop in self._rows}
            self.reached |= event
            if stage := getattr(sys.exc_info()[1], "stage", None):
                self.stages[key] = str(stage)

    def rows(self, table: Iterable[Any], *keys: str) -> Iterator[Any]:
        for row, key in zip(table, keys, strict=True):
            if key != self.off:
                self._rows[keys[0]] = key
                yield row
        self._rows.pop(keys[0], None)

    def name(self, name: str, *, held: bool) -> bool:
        frame = sys._getframe(1)
        while (module := frame.f_globals["__name__"].rpartition(".")[2]) not in APPRAISERS:
            if frame.f_back is None:
                return held
            frame = frame.f_back
        key = f"attest.{module} check {_OF_INTEL.sub('advisory-intel-*', name)}"
        self.names.add(key)
        self.stages.setdefault(key, "policy")
        if not held:
            self.events.append({key} | self._pending)
            self.reached.add(key)
        self._pending = set()
        return held or key == self.off


class _Loader(importlib.machinery.SourceFileLoader):
    def __init__(self, name: str, path: str, sites: dict[str, Site]) -> None:
        super().__init__(name, path)
        self._sites = sites

    def get_code(self, fullname: str) -> Any:
        path = self.get_filename(fullname)
        tree, sites = instrument(fullname, self.get_data(path).decode())
        self._sites |= {site.key: site for site in sites}
        return compile(tree, path, "exec", dont_inherit=True)


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, sites: dict[str, Site]) -> None:
        self._sites = sites

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name not in MODULES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.origin is not None:
            spec.loader = _Loader(name, spec.origin, self._sites)
        return spec


def install() -> tuple[Switches, dict[str, Site]]:
    """Return the switches and the sites, which fill as modules are imported. None may be imported yet."""
    early = [name for name in MODULES if name in sys.modules]
    assert not early, early
    switches, sites = Switches(), {}
    setattr(builtins, SWITCHES, switches)
    sys.meta_path.insert(0, _Finder(sites))
    return switches, sites


def clear_caches() -> None:
    """Forget what was verified: a result from before would hide a check."""
    for name in MODULES:
        for value in list(vars(sys.modules.get(name, object)).values()):
            if callable(clear := getattr(value, "cache_clear", None)):
                clear()
