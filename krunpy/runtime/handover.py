"""What the precreate hook registered for one container, until somebody takes it: the run, or the poststop hook.

    prepared/TOKEN   the workload's id; the container's annotation holds the token

Whoever unlinks the file has the registration's use and answers for it. So a use is ended once at most, by the one that
got it, and never another container's; an annotation that an image made up finds no file.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from typing import TYPE_CHECKING

from krunpy.core.errors import FormatError, HostError
from krunpy.core.files import load_bounded, make_private_directory, write_atomically

if TYPE_CHECKING:
    from krunpy.core.settings import Settings

_TOKEN = re.compile(r"[0-9a-f]{32}")
_LIMIT = 64  # bytes of a workload's id
KEPT_S = 3600  # as long as the registration itself, see `broker.ONE_RUN_EXPIRY_S`


def hand_over(settings: Settings, workload: str) -> str:
    """Note down that a use of a workload waits for its container, and return the token."""
    folder = _folder(settings)
    make_private_directory(folder)
    token = secrets.token_hex(16)
    path = f"{folder}/{token}"
    write_atomically(path, workload.encode())
    _sweep(folder, os.stat(path).st_mtime - KEPT_S)
    return token


def is_waiting(settings: Settings, token: str | None, workload: str) -> bool:
    """Say whether the use that a token stands for is there and of this workload."""
    return _load(settings, token) == workload


def take(settings: Settings, token: str | None) -> str:
    """Take the use that a token stands for and return its workload's id, empty if there is none any more."""
    workload = _load(settings, token)
    if not workload:
        return ""
    try:
        os.unlink(f"{_folder(settings)}/{token}")
    except OSError:
        return ""
    return workload


def _load(settings: Settings, token: str | None) -> str:
    if not token or not _TOKEN.fullmatch(token):
        return ""
    try:
        return load_bounded(f"{_folder(settings)}/{token}", _LIMIT).decode("ascii", "replace")
    except (FormatError, HostError):
        return ""


def _folder(settings: Settings) -> str:
    return os.path.join(settings.data_dir, "prepared")


def _sweep(folder: str, oldest: float) -> None:
    """Remove what nobody took: its registration has ended by itself."""
    for name in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):
            if os.stat(f"{folder}/{name}").st_mtime < oldest:
                os.unlink(f"{folder}/{name}")
