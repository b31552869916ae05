"""Look for the workload's program in the root filesystem before anything is started.

Podman's exit codes 127 and 126 come from `create` failing with these words (podman.md section 2). The guest
decides again, on the measured disk; a program that only the guest can judge is let through.
"""

from __future__ import annotations

import os
import stat

from krunpy.core.errors import BundleError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_MAX_LINKS = 40
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class ExecutableError(BundleError):
    """The program is missing or cannot be executed; engines recognise the words of `why`."""


def require_executable(rootfs: str, args: Sequence[str], env: Sequence[str], cwd: str) -> None:
    """Refuse a program that is not in the root filesystem, or that nobody may execute.

    Raises ExecutableError.
    """
    program = args[0]
    if "/" in program:
        candidates = [program if program.startswith("/") else f"{cwd}/{program}"]
    else:
        path = next((item[5:] for item in reversed(env) if item.startswith("PATH=")), DEFAULT_PATH)
        candidates = [f"{directory or cwd}/{program}" for directory in path.split(":")]
    denied = False
    for candidate in candidates:
        mode = _find_mode(rootfs, candidate)
        if mode is None:
            continue
        if stat.S_ISREG(mode) and mode & 0o111:
            return
        denied = True
    if denied:
        raise ExecutableError(f'cannot run "{program}"', why="permission denied")
    where = "the root filesystem: no such file or directory" if "/" in program else "$PATH"
    raise ExecutableError(f'cannot run "{program}"', why=f"executable file not found in {where}")


def _find_mode(rootfs: str, path: str) -> int | None:
    """Return st_mode of what `path` names when rootfs is the root: links never lead out of it."""
    left = [part for part in reversed(path.split("/")) if part not in ("", ".")]
    walked: list[str] = []
    links = 0
    while left:
        part = left.pop()
        if part == "..":
            del walked[-1:]
            continue
        here = "/".join((rootfs, *walked, part))
        try:
            mode = os.lstat(here).st_mode
        except OSError:
            return None
        if not stat.S_ISLNK(mode):
            walked.append(part)
            continue
        links += 1
        if links > _MAX_LINKS:
            return None
        target = os.readlink(here)
        if target.startswith("/"):
            walked.clear()
        left.extend(piece for piece in reversed(target.split("/")) if piece not in ("", "."))
    return os.lstat("/".join((rootfs, *walked))).st_mode
