"""Everything before the machine starts: image, manifest, guest, reference value.

Nothing here is trusted later: what the machine really loads is measured again, from the loaded bytes.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from krunpy.core.octets import Digest32, PublicKey32, Secret
from krunpy.formats.manifest import Manifest, ManifestIn, ServerIdentity, hash_manifest, parse_manifest
from krunpy.guest.payload import (
    Guest,
    GuestPayload,
    assemble_class_payload,
    assemble_payload,
    require_unchanged,
)
from krunpy.image.cache import ImageCache
from krunpy.image.convert import ConvertOptions, convert
from krunpy.image.keys import load_build_secret, load_disk_key
from krunpy.image.outer import require_no_outer
from krunpy.image.source import IMAGE_PREFIX, open_source
from krunpy.oci.annotations import parse_annotations
from krunpy.runtime.request import make_manifest
from krunpy.runtime.vm_shares import add_parameters, read_shares

if TYPE_CHECKING:
    from collections.abc import Callable

    from krunpy.core.settings import Settings
    from krunpy.image.workload import WorkloadImage
    from krunpy.oci.annotations import Wishes
    from krunpy.oci.bundle import Bundle
    from krunpy.runtime.predict import PredictedLaunch
    from krunpy.tee.detect import TeeKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Drafted:
    """What a machine can boot in a TEE, before anybody has checked or measured it."""

    tee: TeeKind
    image: WorkloadImage
    manifest: bytes
    manifest_in: ManifestIn
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

    @property
    def guest_name(self) -> str:
        """What people call the guest's build."""
        return f"guest {os.path.basename(self.guest.folder)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared(Drafted):
    """A workload that is ready to be registered: its guest is what was built, its launch digests are predicted.

    predicted: as `predict_launches` has it.
    """

    predicted: tuple[PredictedLaunch, ...]


def open_cache(settings: Settings) -> ImageCache:
    """Return the cache that all runs share."""
    return ImageCache(settings.cache_dir, time.time)  # noqa: TID251 - the clock is passed from here


def failures_directory(settings: Settings) -> str:
    """Return where failures after a release are kept, one file for an attestation."""
    return os.path.join(settings.data_dir, "failures")


def find_stored(settings: Settings, spec: str) -> WorkloadImage | None:
    """Return the image that image:ID names, None if the source is named otherwise. Raises StateError if it is gone."""
    if not spec.startswith(IMAGE_PREFIX):
        return None
    cache = open_cache(settings)
    return cache.load(cache.resolve(spec.removeprefix(IMAGE_PREFIX)))


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
    if (stored := find_stored(settings, spec)) is not None:
        return stored
    source = open_source(spec)
    try:
        require_no_outer(source, spec)
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


def draft(  # noqa: PLR0913 - all named
    bundle: Bundle,
    image: WorkloadImage,
    guest: Guest,
    *,
    identity: ServerIdentity,
    workload: str,
    tee: TeeKind,
    manifest_in: ManifestIn,
) -> Drafted:
    """Return the manifest and the payload of a bundle on an image.

    tee: the only one that the manifest names. guest: with the firmware of that TEE, if the payload is to be launched.
    """
    shares = read_shares(parse_annotations(bundle.annotations))
    manifest = make_manifest(bundle, image.disk, server=identity, tees=(str(tee),), workload=workload)
    return Drafted(
        tee=tee,
        image=image,
        manifest=manifest,
        manifest_in=manifest_in,
        guest=guest,
        payload=add_parameters(make_payload(guest, manifest, manifest_in), shares),
    )


def choose_manifest_in(settings: Settings, wishes: Wishes) -> ManifestIn:
    """Return what binds a manifest: what was asked for, else the setting."""
    return ManifestIn((wishes.manifest_in or settings.manifest_in).replace("-", "_"))


def make_payload(guest: Guest, manifest: bytes, manifest_in: ManifestIn) -> GuestPayload:
    """Return the bytes that boot the workload of this manifest."""
    if manifest_in is ManifestIn.HOST_DATA:
        return assemble_class_payload(guest)
    return assemble_payload(guest, manifest)


def complete(drafted: Drafted, *, cpus: int, memory_mib: int) -> Prepared:
    """Return a draft with its predicted launch digests, on which memory has a part under libkrun in SEV-SNP alone.

    Raises HostError if the guest is not what was built, FormatError if its firmware does not fit the TEE.
    """
    require_unchanged(drafted.guest)
    return Prepared(
        tee=drafted.tee,
        image=drafted.image,
        manifest=drafted.manifest,
        manifest_in=drafted.manifest_in,
        guest=drafted.guest,
        payload=drafted.payload,
        predicted=predict(drafted, drafted.payload, cpus=cpus, memory_mib=memory_mib),
    )


def predict(
    drafted: Drafted, payload: GuestPayload, *, cpus: int, memory_mib: int
) -> tuple[PredictedLaunch, ...]:
    """Return the launch digests of a payload on a machine as the draft's is. Raises FormatError."""
    # 15 ms of imports that must not stand before the machine's start
    from krunpy.runtime.predict import predict_bundled, predict_launches

    name, guest = drafted.guest_name, drafted.guest
    if guest.is_bundled:
        # of a payload that was changed on its way nothing is known
        is_built = payload.kernel is guest.kernel and payload.firmware is guest.firmware
        system = guest.folded if is_built else None
        return predict_bundled(payload, cpus=cpus, memory_mib=memory_mib, name=name, system=system)
    return predict_launches(drafted.tee, payload, cpus=cpus, name=name)


def make_identity(url: str, key: PublicKey32) -> ServerIdentity:
    """Return the server as manifests name it."""
    return ServerIdentity(url=url, key=key)
