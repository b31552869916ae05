"""What a libkrun was built with, asked of the library itself: all flavours name themselves alike.

It is asked in a process of its own: a library's constructor is not to run in ours.

Source: libkrun include/libkrun.h, KRUN_FEATURE_*.
"""

from __future__ import annotations

import os
import sys
from enum import IntEnum
from typing import TYPE_CHECKING

import krunpy
from krunpy.core.errors import HostError, format_error
from krunpy.core.proc import run
from krunpy.vmm.libkrun_abi import Libkrun

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

_TIMEOUT_S = 30.0
_START = "import sys; sys.path.append(sys.argv[1]); from krunpy.vmm.libkrun_features import main; main(sys.argv[2:])"


class Feature(IntEnum):
    """Features by libkrun's numbers."""

    TEE = 6
    AMD_SEV = 7
    INTEL_TDX = 8


def load_features(path: str) -> frozenset[Feature]:
    """Return the features of a libkrun. Raises HostError if it is none, or too old to be asked."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(krunpy.__file__)))
    argv = [os.path.realpath(sys.executable), "-I", "-S", "-c", _START, package, path]
    return frozenset(Feature(int(word)) for word in run(argv, timeout_s=_TIMEOUT_S).stdout.split())


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
    """Write the numbers of the features of the library at words[0] to standard output."""
    output = os.dup(1)
    os.dup2(2, 1)  # libraries print
    try:
        library = Libkrun(words[0])
        found = [str(int(feature)) for feature in Feature if _has(library, feature)]
        os.write(output, " ".join(found).encode())
    except HostError as error:
        os.write(2, f"{format_error(error)}\n".encode())
        os._exit(1)
    os._exit(0)


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
