"""The cache of workload images: shared by all runs, found by source, written whole or not at all.

    images/ID/{disk.img,image.json}   a finished image; a shared lock on the directory says that it is in use
    index/KEY                         the ID that a source in one form was converted to
    locks/KEY                         held while that source is converted, and gone when nobody does
    tmp/NAME/                         a draft, locked by its maker; a draft without a lock is removed
    lock                              held for moments: making, publishing and removing drafts

Only what a converter puts into a draft comes here: no key does, and no contents in the clear unless the image
is integrity-only. This module converts nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import shutil
from typing import TYPE_CHECKING

from krunpy.core.errors import FormatError, HostError, StateError, UsageError
from krunpy.core.files import load_bounded, lock, make_private_directory, write_atomically
from krunpy.image.workload import DESCRIPTION_LIMIT, DESCRIPTION_NAME, WorkloadImage, parse_image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_ID = re.compile(r"[0-9a-f]{64}")
_PREFIX = re.compile(r"[0-9a-f]{4,64}")


class ImageCache:
    """The cache in one directory. Everything but `hold` lets go of its locks before it returns."""

    def __init__(self, directory: str, clock: Callable[[], float]) -> None:
        """Make the directories that are missing, mode 0700. clock: seconds since 1970.

        Raises HostError if they cannot be made.
        """
        self.directory = directory
        self.clock = clock
        self._drafts = os.path.join(directory, "tmp")
        make_private_directory(directory)
        for name in ("images", "index", "locks", "tmp"):
            make_private_directory(f"{directory}/{name}")

    def find(self, key: str) -> WorkloadImage | None:
        """Return the image that a source was converted to, or None. It then counts as just used.

        key: a file name. An entry whose image is gone, unreadable or of the wrong size is forgotten.
        """
        path = f"{self.directory}/index/{key}"
        try:
            image = self.load(load_bounded(path, 64).decode("ascii"))
        except (HostError, FormatError, StateError, UnicodeDecodeError):
            with contextlib.suppress(OSError):
                os.unlink(path)
            return None
        self.touch(image)
        return image

    @contextlib.contextmanager
    def converting(self, key: str) -> Iterator[None]:
        """Hold the lock on the conversion of a source; of several callers one at a time goes on.

        Raises HostError if there can be no lock.
        """
        path = f"{self.directory}/locks/{key}"
        is_ours = False
        while not is_ours:
            with lock(path) as descriptor:
                # whoever held it before us has removed it: then another one may hold a new one of this name
                is_ours = _is_at(descriptor, path)
                if is_ours:
                    try:
                        yield
                    finally:
                        with contextlib.suppress(FileNotFoundError):
                            os.unlink(path)

    def load(self, image_id: str) -> WorkloadImage:
        """Return an image by its full id.

        Raises StateError if there is none, FormatError if it is damaged.
        """
        directory = self._find_directory(image_id)
        if not _ID.fullmatch(image_id) or not os.path.isdir(directory):
            raise StateError(f"cannot open image {image_id[:64]}", why="it is not in the cache")
        hint = f"krunpy image rm {image_id}; its source is then converted anew"
        try:
            image = parse_image(load_bounded(f"{directory}/{DESCRIPTION_NAME}", DESCRIPTION_LIMIT), directory)
            size = os.stat(image.disk_path).st_size
        except (FormatError, HostError) as error:
            why = f"its {DESCRIPTION_NAME} is damaged: {error.what}: {error.why}"
            raise FormatError(f"cannot open image {image_id}", why=why, next=hint) from error
        except OSError as error:
            raise FormatError(
                f"cannot open image {image_id}", why="its disk is missing", next=hint
            ) from error
        if image.image_id != image_id or size != image.size:
            why = f"its disk has {size} bytes, wanted {image.size}"
            raise FormatError(f"cannot open image {image_id}", why=why, next=hint)
        return image

    def resolve(self, prefix: str) -> str:
        """Return the id that begins with at least 4 hex digits. Raises UsageError, StateError."""
        if not _PREFIX.fullmatch(prefix):
            raise UsageError(f'cannot find image "{prefix[:80]}"', why="wanted 4 to 64 hex digits")
        found = [name for name in self._list_ids() if name.startswith(prefix)]
        if len(found) != 1:
            why = "it is not in the cache" if not found else f"{len(found)} images begin so"
            raise StateError(f"cannot find image {prefix}", why=why)
        return found[0]

    def list_images(self) -> tuple[WorkloadImage, ...]:
        """Return all images that are whole, oldest first."""
        images = []
        for image_id in self._list_ids():
            with contextlib.suppress(HostError, FormatError, StateError):
                images.append(self.load(image_id))
        return tuple(sorted(images, key=lambda image: (image.created, image.image_id)))

    def hold(self, image: WorkloadImage) -> int:
        """Return an open descriptor; while it or an inherited copy is open, the image is not removed.

        It is close-on-exec; make it inheritable for a machine that outlives this process.

        Raises StateError if the image was removed: convert again.
        """
        descriptor = _open_directory(image.directory)
        if descriptor is None:
            raise StateError(f"cannot use image {image.image_id}", why="it was removed from the cache")
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            if not _is_at(descriptor, image.directory):
                raise StateError(f"cannot use image {image.image_id}", why="it was removed from the cache")
            self.touch(image)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def is_held(self, image_id: str) -> bool:
        """Say whether somebody holds an image."""
        with _try_lock(self._find_directory(image_id)) as descriptor:
            return descriptor is None and os.path.isdir(self._find_directory(image_id))

    def remove(self, image_id: str) -> None:
        """Remove an image, whole or damaged. Raises StateError if there is none or somebody holds it."""
        directory = self._find_directory(image_id)
        if not _ID.fullmatch(image_id) or not os.path.isdir(directory):
            raise StateError(f"cannot remove image {image_id[:64]}", why="it is not in the cache")
        with _try_lock(directory) as descriptor:
            if descriptor is None:
                raise StateError(f"cannot remove image {image_id}", why="a container uses it")
            self.retire(directory)

    def retire(self, directory: str) -> None:
        """Remove a directory of this cache: its name goes at once, its contents after."""
        grave = self.name_draft()
        try:
            os.rename(directory, grave)
            shutil.rmtree(grave)
        except OSError as error:
            raise HostError(f"cannot remove {directory}", why=error.strerror or "error") from error

    def prune(self, *, unused_s: float = 0) -> tuple[str, ...]:
        """Remove every image that nobody holds and that was not used for some seconds; return their ids.

        Damaged images, drafts that nobody works on, index entries that lead nowhere and locks that nobody holds go
        as well.
        """
        removed = []
        for image_id in self._list_ids():
            try:
                last_use = os.stat(self._find_directory(image_id)).st_mtime
                if self.clock() - last_use >= unused_s or not self._is_whole(image_id):
                    self.remove(image_id)
                    removed.append(image_id)
            except (StateError, FileNotFoundError):
                continue
        with lock(f"{self.directory}/lock"):
            self.sweep_drafts()
        for key in os.listdir(f"{self.directory}/index"):
            with (
                contextlib.suppress(OSError),
                open(f"{self.directory}/index/{key}", encoding="ascii") as entry,
            ):
                if not os.path.isdir(self._find_directory(entry.read(64))):
                    os.unlink(f"{self.directory}/index/{key}")
        self._sweep_locks()
        return tuple(removed)

    def _sweep_locks(self) -> None:
        """Remove locks that converters left who were killed."""
        for entry in os.scandir(f"{self.directory}/locks"):
            with contextlib.suppress(OSError), open(entry.path, "rb") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(entry.path)

    def sweep_drafts(self) -> None:
        """Remove drafts whose maker is dead. The caller holds the cache's lock."""
        for entry in os.scandir(self._drafts):
            with _try_lock(entry.path) as descriptor:
                if descriptor is not None:
                    shutil.rmtree(entry.path, ignore_errors=True)

    def name_draft(self) -> str:
        """Return a path that is free, on the cache's file system."""
        return os.path.join(self._drafts, secrets.token_hex(8))

    def write_index(self, key: str, image_id: str) -> None:
        """Remember what a source was converted to."""
        write_atomically(f"{self.directory}/index/{key}", image_id.encode("ascii"))

    def _is_whole(self, image_id: str) -> bool:
        try:
            self.load(image_id)
        except (FormatError, HostError, StateError):
            return False
        return True

    def _list_ids(self) -> Iterator[str]:
        return (name for name in sorted(os.listdir(f"{self.directory}/images")) if _ID.fullmatch(name))

    def _find_directory(self, image_id: str) -> str:
        return f"{self.directory}/images/{image_id}"

    def touch(self, image: WorkloadImage) -> None:
        """Count an image as just used."""
        now = self.clock()
        with contextlib.suppress(OSError):
            os.utime(image.directory, (now, now))


def _open_directory(path: str) -> int | None:
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None


def _is_at(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False


@contextlib.contextmanager
def _try_lock(path: str) -> Iterator[int | None]:
    """Hold the exclusive lock on a directory, or give None if it is gone or somebody else holds it."""
    descriptor = _open_directory(path)
    if descriptor is None:
        yield None
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        yield descriptor if _is_at(descriptor, path) else None
    finally:
        os.close(descriptor)
