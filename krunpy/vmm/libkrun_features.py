"""What a libkrun was built with, asked of the library itself: all flavours name themselves alike.

Source: libkrun include/libkrun.h, KRUN_FEATURE_*.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from krunpy.core.errors import HostError
from krunpy.vmm.libkrun_abi import Libkrun
from krunpy.vmm.libkrun_ask import answer, ask_library

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn


class Feature(IntEnum):
    """Features by libkrun's numbers."""

    TEE = 6
    AMD_SEV = 7
    INTEL_TDX = 8


def load_features(path: str) -> frozenset[Feature]:
    """Return the features of a libkrun. Raises HostError if it is none, or too old to be asked."""
    return frozenset(Feature(int(word)) for word in ask_library(__name__, path).split())


def require_sev(path: str) -> None:
    """Raise HostError if a libkrun was not built for SEV-SNP."""
    found = load_features(path)
    if {Feature.TEE, Feature.AMD_SEV} - found:
        seen = ", ".join(sorted(each.name for each in found)) or "no TEE at all"
        raise HostError(
            f"cannot launch a machine in snp with {path}",
            why=f"it was built for {seen}, wanted TEE and AMD_SEV",
            next="install libkrun-sev, or set libkrun to its path (KRUNPY_LIBKRUN)",
        )


def main(words: Sequence[str]) -> NoReturn:
    """Answer with the numbers of the features of the library at words[0]."""
    answer(lambda: _list_features(Libkrun(words[0])))


def _list_features(library: Libkrun) -> str:
    return " ".join(str(int(feature)) for feature in Feature if _has(library, feature))


def _has(library: Libkrun, feature: Feature) -> bool:
    if not library.has("krun_has_feature"):
        raise HostError(
            f"cannot use {library.path}",
            why="it has no krun_has_feature",
            next="install libkrun 1.17.3 or later",
        )
    try:
        return library.call("krun_has_feature", int(feature)) == 1
    except HostError:
        return False  # a number that this one does not know
