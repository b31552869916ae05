"""Which groups open a device of this host: machines run as users of their own, who have nothing but these."""

from __future__ import annotations

import os
import stat

from krunpy.core.errors import HostError

DEVICE = "/dev/kvm"


def find_group(path: str) -> int | None:
    """Return the group whose members may read and write a device, None if everybody may.

    Raises HostError if only its owner may, or if it is not there.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise HostError(f"cannot use {path}", why=(error.strerror or "error").lower()) from error
    if status.st_mode & stat.S_IROTH and status.st_mode & stat.S_IWOTH:
        return None
    if status.st_gid and status.st_mode & stat.S_IRGRP and status.st_mode & stat.S_IWGRP:
        return status.st_gid
    raise HostError(
        f"cannot use {path}",
        why=f"its mode is {stat.S_IMODE(status.st_mode):04o} and its group {status.st_gid}: only root may open it, "
        "and machines do not run as root",
        next=f"chgrp kvm {path} && chmod 660 {path}",
    )


def is_open_to_machines(path: str) -> bool:
    """Say whether a process that is not root, but in the device's group, may read and write it."""
    try:
        find_group(path)
    except HostError:
        return False
    return True
