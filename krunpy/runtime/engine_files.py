"""What an engine wrote for one container to be bound over files of /etc: read here, handed to the guest in RUN.

It is the host's word, like the host name; the manifest says whether the guest takes it.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from krunpy.core.errors import HostError
from krunpy.runtime.accepted_lists import is_engine_file
from krunpy.runtime.request import ETC_TAGS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from krunpy.oci.config import Mount

FILE_LIMIT = 16 * 1024  # bytes; the three and the rest of RUN fit one frame


def load_engine_files(mounts: Sequence[Mount]) -> dict[str, bytes]:
    """Return path in the guest -> contents, of those files of ETC_TAGS that an engine made for the container.

    Raises HostError if one cannot be read, is longer than FILE_LIMIT bytes, or holds NUL.
    """
    found = {}
    for mount in mounts:
        name = mount.destination.rpartition("/")[2]
        if mount.destination in ETC_TAGS and is_engine_file(mount.source, name):
            found[mount.destination] = _load(mount.source, mount.destination)
    return found


def _load(source: str, destination: str) -> bytes:
    what = f"cannot hand {source} to the guest as {destination}"
    try:
        descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
            contents = os.read(descriptor, FILE_LIMIT + 1)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise HostError(what, why=(error.strerror or "error").lower()) from error
    if not is_file or len(contents) > FILE_LIMIT or b"\0" in contents:
        raise HostError(
            what,
            why=f"wanted a text file of at most {FILE_LIMIT} bytes",
            next=f"podman run --no-hosts leaves {destination} alone" if destination == "/etc/hosts" else "",
        )
    return contents
