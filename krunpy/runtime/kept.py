"""What launches leave behind for `krunpy explain` and `krunpy inspect`; nobody trusts it."""

from __future__ import annotations

import contextlib
import json
import os
from typing import TYPE_CHECKING

from krunpy.core.files import make_private_directory, write_atomically
from krunpy.runtime.container import AFTERMATH, write_file
from krunpy.runtime.prepare import failures_directory

if TYPE_CHECKING:
    from krunpy.core.settings import Settings
    from krunpy.measure.description import LaunchDescription
    from krunpy.measure.libkrun_description import BundleDescription

KEPT_LAUNCHES = 100


def keep_description(
    settings: Settings, described: LaunchDescription | BundleDescription, digest: str
) -> None:
    """Keep what was launched under its launch digest, in hex."""
    folder = os.path.join(settings.data_dir, "launches")
    make_private_directory(folder)
    write_atomically(os.path.join(folder, f"{digest}.json"), json.dumps(described.to_dict()).encode())
    keep_newest(folder, KEPT_LAUNCHES)


def keep_aftermath(settings: Settings, directory: str, attestation: str) -> None:
    """Say where the shim keeps why the guest did not run what was released to it. directory: the container's."""
    if not attestation.isalnum():
        return  # not a name that this server gives
    folder = failures_directory(settings)
    make_private_directory(folder)
    keep_newest(folder, KEPT_LAUNCHES - 1)
    path = os.path.join(folder, f"{attestation}.json")
    write_file(os.path.join(directory, AFTERMATH), os.fsencode(path))


def keep_newest(folder: str, count: int) -> None:
    """Remove all but the newest files of a folder. Others may add and remove files meanwhile."""
    found: list[tuple[int, str]] = []
    for name in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):
            found.append((os.stat(os.path.join(folder, name)).st_mtime_ns, name))
    for _, name in sorted(found)[:-count]:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(folder, name))
