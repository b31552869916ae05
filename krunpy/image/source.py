"""Open whatever the user names as the source of a workload's root file system.

Prefixes say what it is; without one, a path is recognised by what lies there.
"""

from __future__ import annotations

import os
import stat
import time
from typing import TYPE_CHECKING

from krunpy.core.errors import BundleError, UsageError
from krunpy.image.limits import DEFAULT_LIMITS, Limits

if TYPE_CHECKING:
    from collections.abc import Callable

    from krunpy.image.tree import Source

PREFIXES = ("dir", "bundle", "oci", "oci-archive", "docker-archive", "containers-storage")
IMAGE_PREFIX = "image:"  # and an ID: no source, but a finished image in the cache
ROOT_NAMES = ("bin", "sbin", "usr", "lib", "etc", "init")
HELP = (
    "say dir:PATH, bundle:PATH, oci:PATH[:NAME], oci-archive:PATH[:NAME], docker-archive:PATH[:NAME] "
    "or containers-storage:NAME"
)
LOOKED = (
    "looked for config.json (a bundle), oci-layout and index.json (an image layout), "
    f"{', '.join(ROOT_NAMES)} (a root file system): none is there"
)


def open_source(
    spec: str, *, now_ns: Callable[[], int] = time.time_ns, bounds: Limits = DEFAULT_LIMITS
) -> Source:
    """Return a source; only its description is read yet. The caller closes it.

    spec: one of PREFIXES, a colon and a name, or a path.

    Raises UsageError if nothing is there, BundleError if it is not what it should be.
    """
    prefix, colon, rest = spec.partition(":")
    if not colon or prefix not in PREFIXES:
        prefix, rest = find_kind(spec), spec
    if not rest:
        raise UsageError("cannot open the source", why=f"nothing follows {prefix}:", next=HELP)
    if prefix in ("dir", "bundle"):
        return _open_directory(prefix, rest, now_ns, bounds)
    if prefix == "containers-storage":
        from krunpy.image.storage import StorageSource

        return StorageSource(rest, now_ns=now_ns, bounds=bounds)
    return _open_image(prefix, rest, bounds)


def find_kind(path: str) -> str:
    """Return which of PREFIXES a path is; "archive" for a file. Raises UsageError if it is none."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        raise UsageError(
            f"cannot open source {path!r}", why="there is no such file or directory", next=HELP
        ) from None
    if stat.S_ISREG(mode):
        return "archive"
    if not stat.S_ISDIR(mode):
        raise UsageError(
            f"cannot open source {path!r}", why="it is neither a file nor a directory", next=HELP
        )
    names = _list_names(path)
    if {"oci-layout", "index.json"} <= names:
        return "oci"
    if "config.json" in names:
        return "bundle"
    if names & set(ROOT_NAMES):
        return "dir"
    raise UsageError(f"cannot open source {path!r}", why=LOOKED, next=HELP)


def _list_names(path: str) -> set[str]:
    try:
        return set(os.listdir(path))
    except OSError as error:
        raise UsageError(
            f"cannot open source {path!r}", why=(error.strerror or "error").lower(), next=HELP
        ) from error


def _open_directory(prefix: str, path: str, now_ns: Callable[[], int], bounds: Limits) -> Source:
    from krunpy.image.dirsource import DirectorySource

    if prefix == "bundle":
        from krunpy.oci.bundle import load_bundle

        path = load_bundle(path).root
    return DirectorySource(path, now_ns=now_ns, bounds=bounds)


def _open_image(prefix: str, rest: str, bounds: Limits) -> Source:
    from krunpy.image import imagesource

    if prefix == "archive":
        return imagesource.open_archive(rest, bounds=bounds)
    path, name = split_name(rest)
    if prefix == "oci":
        if not imagesource.is_layout(path):
            raise BundleError(
                f"cannot use {path} as an image layout", why="looked for oci-layout and index.json: not there"
            )
        return imagesource.open_layout(path, name, bounds)
    return imagesource.open_archive(path, name, prefix.removesuffix("-archive"), bounds)


def split_name(rest: str) -> tuple[str, str]:
    """Return (path, name) of PATH[:NAME]: the shortest part before a colon that exists, or all of it."""
    if os.path.exists(rest):
        return rest, ""
    end = rest.find(":")
    while end >= 0:
        if os.path.exists(rest[:end]):
            return rest[:end], rest[end + 1 :]
        end = rest.find(":", end + 1)
    return rest, ""
