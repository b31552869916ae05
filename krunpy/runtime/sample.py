"""A root file system to try krunpy with, made from the busybox of this host. No network, no registry."""

from __future__ import annotations

import os
import shutil
import tempfile

from krunpy.core.errors import HostError
from krunpy.core.files import make_private_directory

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
_INTERPRETER = b"/ld-linux"  # in the first page of a program that is not static
_HEAD = 4096  # bytes
_MTIME = 1_700_000_000  # the same for everybody, so that everybody's image is the same


def open_sample(directory: str) -> str:
    """Return a minimal root file system, made the first time, so that later runs find its image in the cache.

    directory: kept between runs. Raises HostError if there is no busybox.
    """
    sample = os.path.join(directory, "sample")
    if os.path.isdir(sample):
        return sample
    make_private_directory(directory)
    workspace = tempfile.mkdtemp(prefix="sample.", dir=directory)
    try:
        make_sample(workspace)
        os.chmod(workspace, 0o755)  # noqa: S103 - the guest's root directory
        os.rename(workspace, sample)
    except OSError as error:
        if not os.path.isdir(sample):
            raise HostError(f"cannot make {sample}", why=error.strerror or "error") from error
    finally:
        shutil.rmtree(workspace, ignore_errors=True)
    return sample


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
    with open(target, "rb") as program:
        if _INTERPRETER in program.read(_HEAD):
            raise HostError(
                "cannot make the sample workload",
                why=f"{busybox} needs shared libraries",
                next="apt-get install busybox-static",
            )
    os.chmod(target, 0o755)  # noqa: S103 - a program
    for applet in APPLETS:
        os.symlink("busybox", os.path.join(directory, "bin", applet))
    with open(os.path.join(directory, "etc/passwd"), "w", encoding="ascii") as stream:
        stream.write("root:x:0:0:root:/:/bin/sh\n")
    for applet in APPLETS:
        os.utime(os.path.join(directory, "bin", applet), (_MTIME, _MTIME), follow_symlinks=False)
    for name in ("bin/busybox", "etc/passwd", "bin", "etc", "tmp", "."):
        os.utime(os.path.join(directory, name), (_MTIME, _MTIME))
    return directory
