"""A draft: the directory in which an image is made, and the moment it becomes part of the cache.

A draft is locked by its maker. If the maker fails, it removes the draft; if the maker dies, the lock goes
with it and the next maker removes the draft. This module does not know what is in the disk.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from typing import TYPE_CHECKING

from krunpy.core.errors import FormatError, HostError, StateError
from krunpy.core.files import lock, sync_directory, write_atomically
from krunpy.image.workload import DESCRIPTION_NAME, DISK_NAME, encode_image

if TYPE_CHECKING:
    from collections.abc import Iterator

    from krunpy.image.cache import ImageCache
    from krunpy.image.workload import WorkloadImage

_FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


class Draft:
    """An image under way. descriptor: of its disk file, open for reading and writing."""

    def __init__(self, directory: str, descriptor: int, size: int) -> None:
        self.directory = directory
        self.descriptor = descriptor
        self.size = size


@contextlib.contextmanager
def make_draft(cache: ImageCache, size: int) -> Iterator[Draft]:
    """Give a draft whose disk file has `size` bytes reserved; what is not published by the end is removed.

    Raises HostError, before or in the block, if the file system has no room or fails.
    """
    directory = cache.name_draft()
    with contextlib.ExitStack() as stack, _said_plainly(cache.directory, size):
        with lock(f"{cache.directory}/lock"):
            cache.sweep_drafts()
            os.mkdir(directory, 0o700)
            stack.callback(shutil.rmtree, directory, ignore_errors=True)
            held = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, held)
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(f"{directory}/{DISK_NAME}", flags, 0o600)
        stack.callback(os.close, descriptor)
        _require_room(cache.directory, size)
        os.posix_fallocate(descriptor, 0, size)
        yield Draft(directory, descriptor, size)


def publish_draft(cache: ImageCache, draft: Draft, image: WorkloadImage) -> WorkloadImage:
    """Make a finished draft part of the cache and return the image there.

    If the cache has the same image already, that one is returned and the draft is left for removal. Must be
    called inside the draft's block.
    """
    os.fsync(draft.descriptor)
    write_atomically(f"{draft.directory}/{DESCRIPTION_NAME}", encode_image(image))
    sync_directory(draft.directory)
    with lock(f"{cache.directory}/lock"):
        if os.path.isdir(image.directory):
            with contextlib.suppress(FormatError, HostError, StateError):
                return cache.load(image.image_id)
            cache.retire(image.directory)
        os.rename(draft.directory, image.directory)
        sync_directory(os.path.dirname(image.directory))
        cache.touch(image)
    return image


def _require_room(directory: str, size: int) -> None:
    status = os.statvfs(directory)
    free = status.f_bavail * status.f_frsize
    if free < size:
        raise _full(directory, size, free)


def _full(directory: str, size: int, free: int) -> HostError:
    return HostError(
        "cannot convert the source",
        why=f"the image needs {size} bytes, {free} are free in {directory}",
        next="free some space, for example with `krunpy image prune`, or choose another cache directory",
    )


@contextlib.contextmanager
def _said_plainly(directory: str, size: int) -> Iterator[None]:
    """Turn what the file system says into a HostError."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            status = os.statvfs(directory)
            raise _full(directory, size, status.f_bavail * status.f_frsize) from error
        raise HostError(f"cannot write an image in {directory}", why=error.strerror or str(error)) from error
