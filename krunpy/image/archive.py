"""A tar that holds an image: its members, and the docker-archive inside.

The outer tar must not be compressed, because its members are read in place.

Source: `docker save` and podman's docker-archive: manifest.json names the configuration and the layers.
"""

from __future__ import annotations

import hashlib
import posixpath
from typing import TYPE_CHECKING

from krunpy.core.errors import BundleError, FormatError
from krunpy.image import tarstream
from krunpy.image.blob import MAGIC_SIZE, Meter, Region, RegionReader, find_compression
from krunpy.image.tree import shown
from krunpy.oci.document import DOCUMENT_LIMIT, Field, parse_document
from krunpy.oci.manifest import LAYER_LIMIT, Image, parse_image

if TYPE_CHECKING:
    from krunpy.image.limits import Limits

DOCKER_FILE = "manifest.json"
LINK_HOPS = 8  # symlinks between members: old `docker save` names a layer once, and links to it


class Archive:
    """The regular files in an open tar, by name."""

    def __init__(self, region: Region, bounds: Limits) -> None:
        self.name = region.name
        self._members: dict[str, Region] = {}
        self._links: dict[str, str] = {}
        compression = find_compression(region.read(0, MAGIC_SIZE))
        if compression:
            why = f"it is compressed with {compression}; its members are read in place"
            raise BundleError(f"cannot read {region.name}", why=why, next="uncompress it first")
        try:
            self._index(region, Meter(bounds))
        except FormatError as error:
            raise FormatError(f"cannot read {region.name}", why=f"{error.what}: {error.why}") from error

    def _index(self, region: Region, meter: Meter) -> None:
        for entry in tarstream.read_entries(RegionReader(region), meter.count_entry):
            name = _clean(entry.name)
            self._members.pop(name, None)
            self._links.pop(name, None)
            if entry.kind == tarstream.FILE and entry.ranges is None:
                label = f"{shown(entry.name)} in {region.name}"
                start = region.start + entry.start
                if entry.start + entry.size > region.size:
                    raise FormatError("not a tar archive", why=f"{label} is cut off")
                self._members[name] = Region(
                    descriptor=region.descriptor, start=start, size=entry.size, name=label
                )
            elif entry.kind == tarstream.SYMLINK:
                self._links[name] = _clean(posixpath.join(posixpath.dirname(name).encode(), entry.link))
            elif entry.kind == tarstream.LINK:
                self._links[name] = _clean(entry.link)

    def __contains__(self, name: str) -> bool:
        return self._find(name) is not None

    def member(self, name: str) -> Region:
        """Return a member by its name. Raises BundleError if there is none."""
        found = self._find(name)
        if found is None:
            raise BundleError(f"cannot read {self.name}", why=f"it holds no file {name[:200]!r}")
        return found

    def _find(self, name: str) -> Region | None:
        name = posixpath.normpath(name)
        for _ in range(LINK_HOPS):
            if name not in self._links:
                break
            name = self._links[name]
        return self._members.get(name)

    def read(self, name: str, limit: int) -> bytes:
        """Return the contents of a member of at most `limit` bytes. Raises BundleError."""
        region = self.member(name)
        if region.size > limit:
            raise BundleError(
                f"cannot read {region.name}", why=f"it is {region.size} bytes, at most {limit} are allowed"
            )
        return region.read(0, region.size)


def _clean(name: bytes) -> str:
    """Return a member's name to look up: relative, without "." and "..": nothing leads out of the tar."""
    return posixpath.normpath("/" + name.decode(errors="surrogateescape")).lstrip("/")


def find_docker_image(archive: Archive, name: str, architecture: str) -> tuple[str, Image, tuple[str, ...]]:
    """Return (digest of the configuration, configuration, members that are the layers) of a docker-archive.

    name: one of its RepoTags; "" if the archive has only one image.

    Raises BundleError if there is none, more than one, or it is for another platform.
    """
    what = f"{DOCKER_FILE} in {archive.name}"
    raw = archive.read(DOCKER_FILE, DOCUMENT_LIMIT)
    images = list(parse_document(b'{"images":' + raw + b"}", what, DOCUMENT_LIMIT + 11)["images"].items())
    chosen = [image for image in images if not name or name in image["RepoTags"].texts()]
    if len(chosen) != 1:
        listed = ", ".join(tag for image in images for tag in image["RepoTags"].texts())[:400] or "no names"
        why = f"it has {len(images)} images ({listed}), {len(chosen)} of them fit"
        raise BundleError(
            f"cannot choose an image of {archive.name}", why=why, next="add :NAME to the source"
        )
    return _read_docker_image(archive, chosen[0], architecture)


def _read_docker_image(
    archive: Archive, field: Field, architecture: str
) -> tuple[str, Image, tuple[str, ...]]:
    config = archive.read(field["Config"].text(), DOCUMENT_LIMIT)
    image = parse_image(config)
    layers = field["Layers"].texts()
    if not 1 <= len(layers) <= LAYER_LIMIT or len(layers) != len(image.diff_ids):
        why = f"it names {len(layers)} layers, its configuration {len(image.diff_ids)}"
        raise BundleError(f"cannot read {archive.name}", why=why)
    seen = f"{image.os}/{image.architecture}"
    if seen != f"linux/{architecture}":
        raise BundleError("cannot use the image", why=f"platform: seen {seen}, wanted linux/{architecture}")
    return "sha256:" + hashlib.sha256(config).hexdigest(), image, layers
