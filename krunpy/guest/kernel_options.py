"""The options of a guest kernel of our own: which are wanted, which a source knows, which were lost. Builds nothing.

Source: Linux Documentation/kbuild/kconfig-language.rst; images/guest/kernel/README.md for what is in the fragments.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from krunpy.core.errors import FormatError, HostError
from krunpy.core.files import load_bounded

if TYPE_CHECKING:
    from collections.abc import Mapping

OFF = "n"
VARYING = "versions.config"  # the one fragment with options that a source need not know
FRAGMENTS = ("base.config", "hardening.config", VARYING)
_LIMIT = 4 * 1024 * 1024  # bytes
_LINE = re.compile(r'CONFIG_(\w+)=(y|m|n|-?\d+|0x[0-9a-fA-F]+|"[^"\\]*")|# CONFIG_(\w+) is not set')
_DEFINITION = re.compile(r"^\s*(?:menu)?config\s+(\w+)", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The options of all fragments; those of `varying` may be unknown to a source."""

    options: Mapping[str, str]
    varying: frozenset[str]


def parse_options(text: str, where: str) -> dict[str, str]:
    """Return what each line of a .config or a fragment sets, without the CONFIG_; "is not set" is OFF.

    Raises FormatError on a line that is neither an option nor a comment, and on an option that is there twice.
    """
    options: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        found = _LINE.fullmatch(line.strip())
        if found is None:
            if line.strip() and not line.startswith("#"):
                raise FormatError(f"cannot read {where}", why=f"line {number} is no option: {line[:80]!r}")
            continue
        name, value = (found[1], found[2]) if found[1] else (found[3], OFF)
        if name in options:
            raise FormatError(f"cannot read {where}", why=f"line {number} sets CONFIG_{name} again")
        options[name] = value
    return options


def load_options(path: str) -> dict[str, str]:
    """Return the options of a file. Raises HostError if it cannot be read, FormatError if it is no configuration."""
    return parse_options(load_bounded(path, _LIMIT).decode("utf-8", "replace"), path)


def find_fragments() -> str:
    """Return the folder of the fragments: inside the package, or in the checkout."""
    here = os.path.dirname(os.path.abspath(__file__))
    for folder in (f"{here}/kernel_config", f"{here}/../../images/guest/kernel"):
        if os.path.exists(f"{folder}/{FRAGMENTS[0]}"):
            return os.path.realpath(folder)
    raise HostError(
        "cannot build a kernel",
        why="the fragments of its configuration are not installed",
        next="reinstall krunpy",
    )


def load_wanted(folder: str) -> Wanted:
    """Return the options of the fragments in a folder. Raises FormatError if two fragments name the same one."""
    options: dict[str, str] = {}
    varying: frozenset[str] = frozenset()
    for name in FRAGMENTS:
        found = load_options(os.path.join(folder, name))
        if twice := sorted(found.keys() & options.keys()):
            raise FormatError(
                f"cannot read {folder}/{name}", why=f"other fragments set {', '.join(twice)} too"
            )
        options |= found
        if name == VARYING:
            varying = frozenset(found)
    return Wanted(options=options, varying=varying)


def format_options(options: Mapping[str, str]) -> str:
    """Return options as the lines of a .config."""
    return "".join(
        f"# CONFIG_{name} is not set\n" if value == OFF else f"CONFIG_{name}={value}\n"
        for name, value in options.items()
    )


def find_unknown(wanted: Wanted, source: str) -> tuple[str, ...]:
    """Return the varying options that no Kconfig file of a source tree defines, in order."""
    known: set[str] = set()
    for directory, _, names in os.walk(source):
        for name in names:
            if name.startswith("Kconfig"):
                text = load_bounded(os.path.join(directory, name), _LIMIT).decode("utf-8", "replace")
                known.update(_DEFINITION.findall(text))
    return tuple(sorted(wanted.varying - known))


def require_survived(wanted: Wanted, result: Mapping[str, str], unknown: frozenset[str]) -> None:
    """Raise HostError that names every wanted option which the source's own rules changed.

    result: the options of the .config that the source made. unknown: varying options that need not be in it.
    """
    lost = [
        f"CONFIG_{name} (wanted {value}, seen {seen})"
        for name, value in wanted.options.items()
        if name not in unknown and (seen := result.get(name, OFF)) != value
    ]
    if lost:
        raise HostError(
            "cannot configure the kernel",
            why=f"this source does not take {', '.join(lost)}",
            next="take a source of Linux 6.1 to 6.12, or mend the fragments",
        )
