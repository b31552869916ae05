"""Open an image as a source: of a layout directory, or of a tar of a layout or docker-archive."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from krunpy.core.errors import BundleError
from krunpy.image.archive import DOCKER_FILE, Archive, find_docker_image
from krunpy.image.blob import Region, open_region
from krunpy.image.layersource import Layer, LayeredSource
from krunpy.image.limits import DEFAULT_LIMITS, Limits
from krunpy.oci.document import load_document
from krunpy.oci.layout import INDEX_FILE, LAYOUT_FILE, ResolvedImage, blob_path, find_image

if TYPE_CHECKING:
    from collections.abc import Callable

MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


def find_architecture() -> str:
    """Return this machine's architecture in the image specification's words."""
    machine = os.uname().machine
    return MACHINES.get(machine, machine)


def is_layout(path: str) -> bool:
    """Say whether a directory is an OCI image layout."""
    return os.path.isfile(f"{path}/{LAYOUT_FILE}") and os.path.isfile(f"{path}/{INDEX_FILE}")


def open_layout(path: str, name: str = "", bounds: Limits = DEFAULT_LIMITS) -> LayeredSource:
    """Return an image of an OCI image layout directory; no layer is read yet.

    name: its org.opencontainers.image.ref.name; "" if there is only one image. Raises BundleError.
    """

    def read(member: str, limit: int) -> bytes:
        return load_document(f"{path}/{member}", member, limit)

    found = find_image(read, name=name, architecture=find_architecture())
    with contextlib.ExitStack() as stack:

        def open_blob(digest: str) -> Region:
            region = open_region(f"{path}/{blob_path(digest)}", f"layer {digest}")
            stack.callback(os.close, region.descriptor)
            return region

        layers = _make_layers(found, open_blob)
        source = LayeredSource(layers, found.image.config, digest=found.digest, bounds=bounds)
        source.add_closer(stack.pop_all().close)
    return source


def open_archive(path: str, name: str = "", kind: str = "", bounds: Limits = DEFAULT_LIMITS) -> LayeredSource:
    """Return an image of a tar of an OCI image layout, or of a docker-archive; no layer is read yet.

    name: of the image in it; "" if there is only one. kind: "oci", "docker", or "" for what it is.
    Raises BundleError.
    """
    region = open_region(path, path)
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, region.descriptor)
        archive = Archive(region, bounds)
        if not _fits(archive, kind):
            looked = {"oci": f"{LAYOUT_FILE} and {INDEX_FILE}", "docker": DOCKER_FILE}
            why = "it holds no " + looked.get(kind, " and no ".join(looked.values()))
            raise BundleError(f"cannot use {path} as an image", why=why)
        if kind == "oci" or (not kind and _fits(archive, "oci")):
            source = _open_oci(archive, name, bounds)
        else:
            source = _open_docker(archive, name, bounds)
        source.add_closer(stack.pop_all().close)
    return source


def _fits(archive: Archive, kind: str) -> bool:
    """New versions of docker save write both: the layout has digests of everything, so it is preferred."""
    is_oci = LAYOUT_FILE in archive and INDEX_FILE in archive
    is_docker = DOCKER_FILE in archive
    return {"oci": is_oci, "docker": is_docker, "": is_oci or is_docker}[kind]


def _open_oci(archive: Archive, name: str, bounds: Limits) -> LayeredSource:
    found = find_image(archive.read, name=name, architecture=find_architecture())

    def open_blob(digest: str) -> Region:
        region = archive.member(blob_path(digest))
        return Region(
            descriptor=region.descriptor, start=region.start, size=region.size, name=f"layer {digest}"
        )

    layers = _make_layers(found, open_blob)
    return LayeredSource(layers, found.image.config, digest=found.digest, bounds=bounds)


def _open_docker(archive: Archive, name: str, bounds: Limits) -> LayeredSource:
    digest, image, members = find_docker_image(archive, name, find_architecture())
    layers = tuple(
        Layer(region=archive.member(member), digest="", diff_id=diff_id)
        for member, diff_id in zip(members, image.diff_ids, strict=True)
    )
    return LayeredSource(layers, image.config, digest=digest, bounds=bounds)


def _make_layers(found: ResolvedImage, open_blob: Callable[[str], Region]) -> tuple[Layer, ...]:
    layers = []
    for descriptor, diff_id in zip(found.manifest.layers, found.image.diff_ids, strict=True):
        region = open_blob(descriptor.digest)
        if region.size != descriptor.size:
            why = f"size: seen {region.size} bytes, wanted {descriptor.size}"
            raise BundleError(f"cannot read layer {descriptor.digest}", why=why)
        layers.append(Layer(region=region, digest=descriptor.digest, diff_id=diff_id))
    return tuple(layers)
