"""A root file system to try krunpy with, made from the busybox of this host. No network, no registry."""

from __future__ import annotations

import os
import shutil

from krunpy.core.errors import HostError

APPLETS = (
    "sh",
    "echo",
    "cat",
    "ls",
    "id",
    "uname",
    "sha256sum",
    "sleep",
    "hostname",
    "env",
    "true",
    "false",
    "wc",
)
PLACES = ("/bin/busybox", "/usr/bin/busybox")
_MTIME = 1_700_000_000  # the same for everybody, so that everybody's image is the same


def make_sample(directory: str) -> str:
    """Fill an empty directory with a minimal root file system and return it.

    Raises HostError if there is no busybox.
    """
    busybox = next((path for path in PLACES if os.path.exists(path)), "")
    if not busybox:
        raise HostError(
            "cannot make the sample workload",
            why="there is no busybox",
            next="apt-get install busybox-static",
        )
    for name in ("bin", "etc", "tmp"):
        os.makedirs(os.path.join(directory, name), exist_ok=True)
    target = os.path.join(directory, "bin/busybox")
    shutil.copyfile(busybox, target)
    os.chmod(target, 0o755)  # noqa: S103 - a program
    for applet in APPLETS:
        os.symlink("busybox", os.path.join(directory, "bin", applet))
    with open(os.path.join(directory, "etc/passwd"), "w", encoding="ascii") as stream:
        stream.write("root:x:0:0:root:/:/bin/sh\n")
    for name in ("bin/busybox", "etc/passwd"):
        os.utime(os.path.join(directory, name), (_MTIME, _MTIME))
    for applet in APPLETS:
        os.utime(os.path.join(directory, "bin", applet), (_MTIME, _MTIME), follow_symlinks=False)
    return directory
