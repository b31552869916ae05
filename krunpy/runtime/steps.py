"""What a launch took: its steps and their seconds, for `krunpy quickstart` to show while they end."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Clock:
    """Seconds of each step, told to whoever asked for them."""

    def __init__(self, tell: Callable[[str, float, str], None]) -> None:
        self._tell = tell
        self._begin = time.monotonic()

    def step(self, name: str, detail: str = "") -> None:
        """Close a step that began when the last one ended."""
        now = time.monotonic()
        self._tell(name, now - self._begin, detail)
        self._begin = now


def tell_steps(directory: str) -> Callable[[str, float, str], None]:
    """Return what writes steps into a container's directory, one JSON object a line."""
    path = os.path.join(directory, "steps.jsonl")

    def tell(name: str, seconds: float, detail: str) -> None:
        with open(path, "a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": name, "seconds": round(seconds, 4), "detail": detail}) + "\n")

    return tell
