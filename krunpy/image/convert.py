"""Convert a source to a workload image: layout, contents, encryption, hash tree, cache.

Contents go from the source through memory into the encrypted disk; nothing else is written. This module reads
no source format, knows no container and starts no machine.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from krunpy.formats.canonical import encode_canonical
from krunpy.image.keys import DISK_KEY_SIZE, SALT_SIZE, derive_disk_key, identify_key
from krunpy.image.workload import FORMAT_VERSION, WorkloadImage, derive_image_id, describe_config

if TYPE_CHECKING:
    from collections.abc import Callable

    from krunpy.core.octets import Secret
    from krunpy.formats.canonical import Json
    from krunpy.formats.disk import Disk
    from krunpy.image.cache import ImageCache
    from krunpy.image.disk import Geometry
    from krunpy.image.erofs import Layout
    from krunpy.image.tree import Source

_STEP = 4 * 1024 * 1024  # bytes between two calls of progress


@dataclass(frozen=True, slots=True, kw_only=True)
class ConvertOptions:
    """How to convert. Encrypted conversion needs one of the two secrets.

    encrypt:      False gives the integrity-only form: contents lie on the host's disk in the clear.
    key:          the disk key, 64 bytes: the same source and key give the same disk. Use it for one source
                  only: under one key, equal blocks at equal places of two images can be told from outside.
    build_secret: of the installation; each image then gets a key of its own.
    """

    encrypt: bool = True
    key: Secret | None = None
    build_secret: Secret | None = None

    def __post_init__(self) -> None:
        if self.encrypt and (self.key is None) == (self.build_secret is None):
            msg = "encrypted conversion takes either a key or a build secret"
            raise ValueError(msg)
        if self.key is not None and len(self.key) != DISK_KEY_SIZE:
            msg = f"a disk key is {DISK_KEY_SIZE} bytes, seen {len(self.key)}"
            raise ValueError(msg)


def convert(
    source: Source,
    *,
    cache: ImageCache,
    options: ConvertOptions,
    progress: Callable[[int, int], None] | None = None,
) -> WorkloadImage:
    """Return the workload image of a source, from the cache or newly made.

    progress: called with bytes done and bytes in all while an image is made.

    Of several callers with one source, one does the work and the others wait. A source that `racy` says may
    have changed is converted every time. Interrupted or failed, it leaves nothing behind.

    Raises BundleError if the source cannot be represented or changes, HostError if the cache cannot hold it.
    """
    key = _name_conversion(source, options)
    image = cache.find(key)
    if image is not None:
        return image
    with cache.converting(key):
        image = cache.find(key)
        if image is not None:
            return image
        image = _make_image(source, cache, options, progress)
        if not source.racy:
            cache.write_index(key, image.image_id)
        return image


def _name_conversion(source: Source, options: ConvertOptions) -> str:
    """Return what finds a conversion in the cache: source, configuration, form and whose key; hex."""
    secret = (options.key or options.build_secret) if options.encrypt else None
    document: Json = {
        "config": describe_config(source.config),
        "key": "" if secret is None else identify_key(secret).hex(),
        "source": source.fingerprint(),
        "version": FORMAT_VERSION,
    }
    return hashlib.sha256(encode_canonical(document)).hexdigest()


def _make_image(
    source: Source,
    cache: ImageCache,
    options: ConvertOptions,
    progress: Callable[[int, int], None] | None,
) -> WorkloadImage:
    # 60 ms of imports that a run from the cache does without
    from krunpy.image.disk import BLOCK_SIZE, plan_disk
    from krunpy.image.draft import make_draft, publish_draft
    from krunpy.image.erofs import Layout

    layout = Layout(source.tree)
    salt, disk_key = _choose_key(options)
    geometry = plan_disk(layout.blocks * BLOCK_SIZE, encrypt=options.encrypt)
    with make_draft(cache, geometry.size) as draft:
        disk = _write_disk(draft.descriptor, source, layout, geometry, disk_key, progress)
        source.finish()
        image_id = derive_image_id(disk, source.config)
        image = WorkloadImage(
            image_id=image_id,
            disk=disk,
            config=source.config,
            source=source.fingerprint(),
            key_salt=salt,
            key_id=b"" if disk_key is None else identify_key(disk_key),
            created=int(cache.clock()),
            size=geometry.size,
            directory=os.path.join(cache.directory, "images", image_id),
        )
        return publish_draft(cache, draft, image)


def _choose_key(options: ConvertOptions) -> tuple[bytes, Secret | None]:
    if not options.encrypt:
        return b"", None
    if options.build_secret is None:
        return b"", options.key
    salt = secrets.token_bytes(SALT_SIZE)
    return salt, derive_disk_key(options.build_secret, salt)


def _write_disk(
    descriptor: int,
    source: Source,
    layout: Layout,
    geometry: Geometry,
    key: Secret | None,
    progress: Callable[[int, int], None] | None,
) -> Disk:
    from krunpy.image.contents import ContentWriter
    from krunpy.image.disk import DiskWriter

    total = sum(place.size for place in layout.list_files())
    done = told = 0
    with DiskWriter(descriptor, geometry, key) as writer:
        position = 0
        for blocks in layout.pack_metadata():
            writer.write(position, blocks)
            position += len(blocks)
        contents = ContentWriter(layout, writer)
        for node, offset, piece in source.stream():
            contents.take(node, offset, piece)
            done += len(piece)
            if progress is not None and done - told >= _STEP:
                told = done
                progress(done, total)
        contents.finish()
        disk = writer.finish()
    if progress is not None:
        progress(total, total)
    return disk
