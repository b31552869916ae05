"""Find one image in an OCI image layout, and check every document on the way against its digest.

How files of the layout are read (from a directory, from a tar) is the caller's: it passes a function.
Layers are not touched here.

Source: OCI image specification 1.1 (image-layout.md, image-index.md).
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING

from krunpy.core.errors import BundleError
from krunpy.oci.document import DOCUMENT_LIMIT, parse_document
from krunpy.oci.manifest import (
    INDEX_TYPES,
    MANIFEST_TYPES,
    Descriptor,
    Image,
    ImageManifest,
    IndexEntry,
    parse_image,
    parse_index,
    parse_manifest,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    # (path inside the layout, most bytes) -> contents; raises BundleError
    Read = Callable[[str, int], bytes]

LAYOUT_FILE = "oci-layout"
INDEX_FILE = "index.json"
INDEX_DEPTH = 4  # an index that names an index that names ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedImage:
    """One image: its manifest's digest ("sha256:..."), its manifest and its configuration."""

    digest: str
    manifest: ImageManifest
    image: Image


def blob_path(digest: str) -> str:
    """Return where a layout keeps the blob of a digest: blobs/sha256/..."""
    algorithm, _, encoded = digest.partition(":")
    return f"blobs/{algorithm}/{encoded}"


def verify_blob(raw: bytes, descriptor: Descriptor) -> bytes:
    """Return the bytes if they have the size and digest they should have. Raises BundleError."""
    if len(raw) != descriptor.size:
        raise BundleError(
            f"cannot read blob {descriptor.digest}",
            why=f"size: seen {len(raw)} bytes, wanted {descriptor.size}",
        )
    algorithm, _, wanted = descriptor.digest.partition(":")
    seen = hashlib.new(algorithm, raw).hexdigest()
    if not hmac.compare_digest(seen, wanted):
        raise BundleError(
            f"cannot read blob {descriptor.digest}",
            why=f"digest: seen {algorithm}:{seen}, wanted {descriptor.digest}",
        )
    return raw


def find_image(read: Read, *, name: str, architecture: str) -> ResolvedImage:
    """Return the image that a layout holds.

    name:         the org.opencontainers.image.ref.name to look for; "" if the layout has only one image.
    architecture: in the specification's words, for example "amd64".

    Raises BundleError if there is none, more than one, or a document is not what its digest says.
    """
    version = parse_document(read(LAYOUT_FILE, DOCUMENT_LIMIT), "oci-layout")["imageLayoutVersion"].text()
    if not version.startswith("1."):
        raise BundleError(
            "cannot read the image layout", why=f"imageLayoutVersion: seen {version!r}, wanted 1.0.0"
        )
    entries = parse_index(read(INDEX_FILE, DOCUMENT_LIMIT), INDEX_FILE)
    return _resolve(read, _choose_by_name(entries, name), architecture)


def _resolve(read: Read, chosen: tuple[IndexEntry, ...], architecture: str) -> ResolvedImage:
    for _ in range(INDEX_DEPTH):
        descriptor = _choose_by_platform(chosen, architecture).descriptor
        raw = _read_blob(read, descriptor)
        if descriptor.media_type in MANIFEST_TYPES:
            manifest = parse_manifest(raw)
            image = parse_image(_read_blob(read, manifest.config))
            require_agreement(manifest, image, architecture)
            return ResolvedImage(digest=descriptor.digest, manifest=manifest, image=image)
        chosen = parse_index(raw, f"index {descriptor.digest}")
    raise BundleError("cannot read the image layout", why=f"indexes nest deeper than {INDEX_DEPTH} levels")


def _read_blob(read: Read, descriptor: Descriptor) -> bytes:
    if descriptor.size > DOCUMENT_LIMIT:
        why = f"it is {descriptor.size} bytes, at most {DOCUMENT_LIMIT} are allowed"
        raise BundleError(f"cannot read blob {descriptor.digest}", why=why)
    return verify_blob(read(blob_path(descriptor.digest), descriptor.size), descriptor)


def require_agreement(manifest: ImageManifest, image: Image, architecture: str) -> None:
    """Raise BundleError unless a configuration belongs to its manifest and to this platform."""
    if len(image.diff_ids) != len(manifest.layers):
        why = f"it has {len(manifest.layers)} layers, and diff_ids of {len(image.diff_ids)}"
        raise BundleError("cannot read the image", why=why)
    seen = f"{image.os}/{image.architecture}"
    if seen != f"linux/{architecture}":
        raise BundleError("cannot use the image", why=f"platform: seen {seen}, wanted linux/{architecture}")


def _choose_by_name(entries: tuple[IndexEntry, ...], name: str) -> tuple[IndexEntry, ...]:
    usable = tuple(entry for entry in entries if entry.descriptor.media_type in INDEX_TYPES | MANIFEST_TYPES)
    named = tuple(entry for entry in usable if name in ("", entry.name))
    if not named:
        listed = ", ".join(sorted({entry.name for entry in usable if entry.name}))[:200] or "no names"
        raise BundleError(f"cannot find image {name or 'in the layout'}", why=f"{INDEX_FILE} has {listed}")
    return named


def _choose_by_platform(entries: tuple[IndexEntry, ...], architecture: str) -> IndexEntry:
    """Return the one entry for this platform; an entry that says no platform may be for any."""
    wanted = [entry for entry in entries if (entry.os, entry.architecture) == ("linux", architecture)]
    if not wanted:
        wanted = [entry for entry in entries if not entry.os and not entry.architecture]
    wanted = list({entry.descriptor.digest: entry for entry in wanted}.values())
    if len(wanted) == 1:
        return wanted[0]
    if not wanted:
        listed = (
            ", ".join(sorted({f"{entry.os}/{entry.architecture}" for entry in entries}))[:200] or "nothing"
        )
        raise BundleError(
            "cannot choose an image", why=f"platform: seen {listed}, wanted linux/{architecture}"
        )
    listed = ", ".join(sorted(entry.name or entry.descriptor.digest for entry in wanted))[:400]
    raise BundleError(
        "cannot choose an image", why=f"there are {len(wanted)}: {listed}", next="add :NAME to the source"
    )
