"""Everything before the machine starts: image, manifest, guest, reference value.

Nothing here is trusted later: what the machine really loads is measured again, from the loaded bytes.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from krunpy.core.octets import Digest32, LaunchDigest, PublicKey32, Secret
from krunpy.formats.manifest import Manifest, ServerIdentity, hash_manifest, parse_manifest
from krunpy.guest.payload import GuestPayload, assemble_payload, load_guest, require_unchanged
from krunpy.image.cache import ImageCache
from krunpy.image.convert import ConvertOptions, convert
from krunpy.image.keys import load_build_secret, load_disk_key
from krunpy.image.source import open_source
from krunpy.runtime.request import make_manifest

if TYPE_CHECKING:
    from collections.abc import Callable

    from krunpy.core.settings import Settings
    from krunpy.guest.payload import Guest
    from krunpy.image.workload import WorkloadImage
    from krunpy.measure.description import LaunchDescription
    from krunpy.oci.bundle import Bundle

TEES = ("software",)
IMAGE_PREFIX = "image:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Drafted:
    """What a machine can boot, before anybody has checked or measured it."""

    image: WorkloadImage
    manifest: bytes
    guest: Guest
    payload: GuestPayload

    @property
    def parsed(self) -> Manifest:
        """The manifest, read back."""
        return parse_manifest(self.manifest)

    @property
    def manifest_hash(self) -> Digest32:
        """SHA-256 of the manifest."""
        return hash_manifest(self.manifest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared(Drafted):
    """A workload that is ready to be registered: its guest is what was built, its launch digest is predicted."""

    description: LaunchDescription
    digest: LaunchDigest


def open_cache(settings: Settings) -> ImageCache:
    """Return the cache that all runs share."""
    return ImageCache(settings.cache_dir, time.time)  # noqa: TID251 - the clock is passed from here


def failures_directory(settings: Settings) -> str:
    """Return where failures after a release are kept, one file for an attestation."""
    return os.path.join(settings.data_dir, "failures")


def convert_source(
    settings: Settings,
    spec: str,
    *,
    encrypt: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> WorkloadImage:
    """Return the workload image of a source; it is made only if the cache has none.

    spec: as `open_source` takes it, or image:ID for an image in the cache.
    """
    if spec.startswith(IMAGE_PREFIX):
        cache = open_cache(settings)
        return cache.load(cache.resolve(spec.removeprefix(IMAGE_PREFIX)))
    source = open_source(spec)
    try:
        secret = load_build_secret(settings.data_dir) if encrypt else None
        options = ConvertOptions(encrypt=encrypt, build_secret=secret)
        return convert(source, cache=open_cache(settings), options=options, progress=progress)
    finally:
        source.close()


def load_key(settings: Settings, image: WorkloadImage) -> Secret:
    """Return the disk key of an image, empty if it is not encrypted."""
    if not image.key_id:
        return Secret(b"")
    return load_disk_key(image, load_build_secret(settings.data_dir))


def describe_launch(payload: GuestPayload, *, cpus: int, name: str) -> LaunchDescription:
    """Return what a launch digest of this payload is made from. name: of the guest build, for people."""
    # 15 ms of imports that must not stand before the machine's start
    from krunpy.measure.description import LaunchDescription, measure_cmdline, measure_file, measure_firmware
    from krunpy.measure.launch import find_layout

    return LaunchDescription(
        layout=find_layout(payload.firmware),
        firmware=measure_firmware(f"firmware of {name}", payload.firmware),
        kernel=measure_file(f"kernel of {name}", payload.kernel),
        initrd=measure_file(f"initrd of {name}", payload.initrd),
        cmdline=measure_cmdline(payload.cmdline),
        vcpus=cpus,
    )


def draft(
    settings: Settings, bundle: Bundle, image: WorkloadImage, *, identity: ServerIdentity, workload: str
) -> Drafted:
    """Return the manifest and the payload of a bundle on an image. Raises HostError if there is no guest."""
    manifest = make_manifest(bundle, image.disk, server=identity, tees=TEES, workload=workload)
    guest = load_guest(settings.guest_dir)
    payload = assemble_payload(guest, manifest)
    return Drafted(image=image, manifest=manifest, guest=guest, payload=payload)


def complete(drafted: Drafted, *, cpus: int) -> Prepared:
    """Return a draft with its predicted launch digest. Raises HostError if the guest is not what was built."""
    from krunpy.measure.description import predict_described

    require_unchanged(drafted.guest)
    name = f"guest {os.path.basename(drafted.guest.folder)}"
    description = describe_launch(drafted.payload, cpus=cpus, name=name)
    return Prepared(
        image=drafted.image,
        manifest=drafted.manifest,
        guest=drafted.guest,
        payload=drafted.payload,
        description=description,
        digest=predict_described(description),
    )


def prepare(
    settings: Settings,
    bundle: Bundle,
    image: WorkloadImage,
    *,
    identity: ServerIdentity,
    workload: str,
    cpus: int,
) -> Prepared:
    """Return the manifest, the payload and the predicted launch digest of a bundle on an image.

    Raises HostError if the guest is not what was built.
    """
    return complete(draft(settings, bundle, image, identity=identity, workload=workload), cpus=cpus)


def make_identity(url: str, key: PublicKey32) -> ServerIdentity:
    """Return the server as manifests name it."""
    return ServerIdentity(url=url, key=key)
