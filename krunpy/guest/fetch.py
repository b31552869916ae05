"""Get a kernel package without installing it: no boot loader of this machine is touched.

Uses the system's own apt, its sources and its signatures. Debian and its relatives only.
"""

from __future__ import annotations

import os
import shutil
import tempfile

from krunpy.core.errors import HostError
from krunpy.core.files import lock, make_private_directory
from krunpy.core.proc import find_program, run

META_PACKAGE = "linux-image-cloud-amd64"


def fetch_kernel(guest_dir: str) -> str:
    """Unpack the current cloud kernel into `guest_dir` and return that folder; do nothing if it is there.

    Raises HostError where there is no apt, ToolError if the package cannot be had.
    """
    for program in ("apt-get", "apt-cache", "dpkg-deb"):
        if find_program(program) is None:
            raise HostError(
                "cannot fetch a kernel",
                why=f"{program} is missing: this is not Debian",
                next="pass a kernel of this system: krunpy guest build --kernel FILE --modules DIR",
            )
    make_private_directory(guest_dir)
    with lock(os.path.join(guest_dir, "lock")):
        package = _find_package()
        folder = os.path.join(guest_dir, "kernels", package)
        if os.path.isdir(folder):
            return folder
        return _unpack(package, folder)


def _find_package() -> str:
    text = run(["apt-cache", "depends", "--important", META_PACKAGE], timeout_s=60).stdout.decode()
    for line in text.splitlines():
        kind, _, name = line.strip().partition(": ")
        if kind == "Depends" and name.startswith("linux-image-"):
            return name
    raise HostError(
        "cannot fetch a kernel",
        why=f"apt does not know {META_PACKAGE}",
        next="run `apt-get update` and try again",
    )


def _unpack(package: str, folder: str) -> str:
    make_private_directory(os.path.dirname(folder))
    workspace = tempfile.mkdtemp(prefix=f"{package}.", suffix=".new", dir=os.path.dirname(folder))
    try:
        run(["apt-get", "download", "-qq", package], timeout_s=600, cwd=workspace)
        archives = [name for name in os.listdir(workspace) if name.endswith(".deb")]
        if len(archives) != 1:
            raise HostError(
                "cannot fetch a kernel", why=f"apt-get download left {len(archives)} packages, wanted 1"
            )
        run(["dpkg-deb", "-x", archives[0], "."], timeout_s=600, cwd=workspace)
        os.unlink(os.path.join(workspace, archives[0]))
        shutil.rmtree(os.path.join(workspace, "usr/share"), ignore_errors=True)  # usr/lib may hold modules
        os.rename(workspace, folder)
    finally:
        shutil.rmtree(workspace, ignore_errors=True)
    return folder
