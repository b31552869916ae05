"""The size of /dev/shm that an engine was asked for: it says so only by the tmpfs that it binds there."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from krunpy.core.errors import HostError
from krunpy.formats.manifest import TmpfsMount
from krunpy.runtime.accepted_lists import is_engine_file

if TYPE_CHECKING:
    from collections.abc import Sequence

    from krunpy.oci.config import Mount

PATH = "/dev/shm"  # noqa: S108 - the guest's
_OWN_SIZE = 64 * 1024 * 1024  # bytes; what the agent makes by itself, and engines by default
_OPTIONS = "nosuid,noexec,nodev,mode=1777"


def find_shm_mount(mounts: Sequence[Mount]) -> TmpfsMount | None:
    """Return the mount of the guest's /dev/shm that has the size of the engine's, None if the agent's own has it.

    Raises HostError if the engine's cannot be looked at.
    """
    for mount in mounts:
        if mount.destination == PATH and mount.type == "bind" and is_engine_file(mount.source, "shm"):
            size = _find_size(mount.source)
            return None if size == _OWN_SIZE else TmpfsMount(path=PATH, options=f"{_OPTIONS},size={size}")
    return None


def _find_size(directory: str) -> int:
    """Return the bytes that a tmpfs may hold, 0 for any number; where none is mounted, as much as by default."""
    try:
        if not os.path.ismount(directory):
            return _OWN_SIZE
        facts = os.statvfs(directory)
    except OSError as error:
        raise HostError(
            f"cannot find the size of {directory}", why=(error.strerror or "error").lower()
        ) from error
    return facts.f_blocks * facts.f_frsize
