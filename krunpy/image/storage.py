"""An image of podman's storage as a source: podman mounts it read-only, and it is read like a directory.

Nothing is copied or exported. The mount is podman's own and is counted by it; close() gives it back.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from typing import TYPE_CHECKING

from krunpy.core import proc
from krunpy.core.errors import BundleError, HostError, KrunpyError, ToolError
from krunpy.image.dirsource import DirectorySource
from krunpy.image.limits import DEFAULT_LIMITS, Limits
from krunpy.oci.document import Field, parse_document
from krunpy.oci.manifest import ImageConfig, parse_image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from krunpy.image.tree import Node

DOMAIN = b"krunpy containers-storage fingerprint v1\0"
TIMEOUT_S = 120.0
STORE = re.compile(r"\[(?:(?P<driver>[a-z0-9]+)@)?(?P<root>/[^+\]]*)(?:\+(?P<run>/[^\]]*))?\](?P<name>.+)\Z")
IMAGE_ID = re.compile(r"[0-9a-f]{64}\Z")


class StorageSource:
    """One image of containers-storage. It is mounted when its tree is first asked for.

    name:   as podman knows it, with [DRIVER@ROOT+RUNROOT] before it for another storage than the default.
    now_ns: a clock, nanoseconds since 1970.
    """

    racy = False  # the fingerprint is the image's ID, not the state of files

    def __init__(self, name: str, *, now_ns: Callable[[], int], bounds: Limits = DEFAULT_LIMITS) -> None:
        self._podman, self._name = _split_store(name)
        self._now_ns = now_ns
        self._bounds = bounds
        self._directory: DirectorySource | None = None
        field = self._inspect()
        self._id = field["Id"].text()
        if not IMAGE_ID.match(self._id):
            field["Id"].fail("64 hex digits")
        self.config = _image_config(field)

    def _inspect(self) -> Field:
        try:
            output = proc.run([*self._podman, "image", "inspect", "--", self._name], timeout_s=TIMEOUT_S)
        except ToolError as error:
            why = f"podman does not have it: {error.why}"
            raise BundleError(
                f"cannot find image {self._name}", why=why, next="see `podman images`"
            ) from error
        what = f"podman's description of {self._name}"
        images = list(parse_document(b'{"images":' + output.stdout + b"}", what)["images"].items())
        if len(images) != 1:
            raise BundleError(
                f"cannot find image {self._name}", why=f"podman knows {len(images)} of that name"
            )
        return images[0]

    @property
    def tree(self) -> Node:
        """Return the root directory. The first use mounts the image and walks it."""
        return self._mounted().tree

    def _mounted(self) -> DirectorySource:
        if self._directory is None:
            output = proc.run([*self._podman, "image", "mount", self._id], timeout_s=TIMEOUT_S)
            path = output.stdout.decode(errors="surrogateescape").rstrip("\n")
            try:
                self._directory = DirectorySource(path, now_ns=self._now_ns, bounds=self._bounds)
            except BundleError:
                self._unmount()
                why = (
                    f"podman mounted it at {path!r}, which cannot be opened; only root's storage can be used"
                )
                raise HostError(f"cannot read image {self._name}", why=why) from None
        return self._directory

    def _unmount(self) -> None:
        proc.run([*self._podman, "image", "unmount", self._id], timeout_s=TIMEOUT_S)

    def stream(self) -> Iterator[tuple[Node, int, bytes | memoryview]]:
        """Yield (file, offset, bytes) for every distinct file."""
        return self._mounted().stream()

    def read_file(self, node: Node, limit: int) -> bytes:
        """Return a file's contents. Raises BundleError if it is longer than `limit` bytes."""
        return self._mounted().read_file(node, limit)

    def finish(self) -> None:
        """Raise BundleError if the mounted image changed since its tree was read."""
        if self._directory is not None:
            self._directory.finish()

    def fingerprint(self) -> str:
        """Return a digest of the image's ID, hex."""
        return hashlib.sha256(DOMAIN + self._id.encode()).hexdigest()

    def close(self) -> None:
        """Give the mount back."""
        if self._directory is not None:
            self._directory.close()
            self._directory = None
            with contextlib.suppress(KrunpyError):  # a mount left over does no harm; podman lists it
                self._unmount()


def _split_store(name: str) -> tuple[list[str], str]:
    """Return podman's argv for a storage, and the image's name in it."""
    found = STORE.match(name)
    if found is None:
        return ["podman"], name
    argv = ["podman", "--root", found["root"]]
    if found["run"]:
        argv += ["--runroot", found["run"]]
    if found["driver"]:
        argv += ["--storage-driver", found["driver"]]
    return argv, found["name"]


def _image_config(field: Field) -> ImageConfig:
    """Return the configuration in podman's words for it, checked as every image's."""
    import json

    document = {
        "os": field["Os"].text(),
        "architecture": field["Architecture"].text(),
        "config": field["Config"].value,
        "rootfs": {"type": "layers", "diff_ids": field["RootFS"]["Layers"].value},
    }
    return parse_image(json.dumps(document).encode()).config
