"""How people and programs see results: tables and lines on stdout, JSON when asked, progress on stderr."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING

import krunpy
from krunpy.core.errors import format_error, make_plain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from krunpy.core.errors import KrunpyError

_BAR = 24  # characters
_MIB = 1024 * 1024


def print_json(kind: str, value: object) -> None:
    """Print one JSON document with its schema's name."""
    document = {"schema": f"krunpy.{kind}.v1", "krunpy_version": krunpy.__version__, "data": value}
    print(json.dumps(document, indent=2, ensure_ascii=False))


def print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows in columns as wide as their longest cell."""
    if not rows:
        return
    table = [list(heads), *([make_plain(str(cell)) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(heads))]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def print_error(error: KrunpyError) -> None:
    """Print an error on stderr."""
    print(format_error(error), file=sys.stderr)


def format_size(size: int) -> str:
    """Return a number of bytes for people: "1.5 MiB"."""
    if size < 1024:  # noqa: PLR2004
        return f"{size} B"
    return f"{size / 1024:.1f} KiB" if size < _MIB else f"{size / _MIB:.1f} MiB"


class Progress:
    """A bar on stderr if that is a terminal, else nothing."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._shown = sys.stderr.isatty()
        self._last = 0.0

    def __call__(self, done: int, total: int) -> None:
        """Show that `done` of `total` bytes are through, at most ten times a second."""
        now = time.monotonic()
        if not self._shown or (now - self._last < 0.1 and done < total):  # noqa: PLR2004
            return
        self._last = now
        filled = _BAR * done // max(total, 1)
        bar = "#" * filled + "." * (_BAR - filled)
        end = "\n" if done >= total else ""
        print(
            f"\r{self._title} [{bar}] {format_size(done)} of {format_size(total)} ",
            end=end,
            file=sys.stderr,
            flush=True,
        )
