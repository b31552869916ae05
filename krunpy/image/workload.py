"""A workload image: a finished disk in the cache, and image.json, which describes it without any secret."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from krunpy.core.errors import FormatError
from krunpy.formats.canonical import encode_canonical, parse_canonical
from krunpy.formats.disk import Disk, describe_disk, parse_disk
from krunpy.formats.narrow import Fields
from krunpy.oci.manifest import ImageConfig

if TYPE_CHECKING:
    from krunpy.formats.canonical import Json

FORMAT_VERSION = 1  # of the disk's layout: another one, another image for the same source
DISK_NAME = "disk.img"
DESCRIPTION_NAME = "image.json"
DESCRIPTION_LIMIT = 8 * 1024 * 1024  # bytes
_ITEMS = 65536
_U64 = 2**64 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadImage:
    """A converted source.

    image_id:  64 hex digits, from the disk's description and the configuration.
    source:    fingerprint of the source it was made from.
    key_salt:  32 bytes if the disk key comes from the build secret, else empty. Public.
    key_id:    16 bytes that name the disk key, empty if the disk is not encrypted. Public.
    created:   seconds since 1970.
    size:      bytes of the disk file.
    directory: where disk.img and image.json lie; not part of the description.
    """

    image_id: str
    disk: Disk
    config: ImageConfig
    source: str
    key_salt: bytes
    key_id: bytes
    created: int
    size: int
    directory: str = field(compare=False)

    @property
    def disk_path(self) -> str:
        """Return the path of the disk file."""
        return f"{self.directory}/{DISK_NAME}"


def derive_image_id(disk: Disk, config: ImageConfig) -> str:
    """Return the identity of an image: SHA-256 over its disk's description and its configuration, hex."""
    document: Json = {
        "config": describe_config(config),
        "disk": describe_disk(disk),
        "version": FORMAT_VERSION,
    }
    return hashlib.sha256(b"krunpy image v1\0" + encode_canonical(document)).hexdigest()


def encode_image(image: WorkloadImage) -> bytes:
    """Return the contents of image.json. Raises FormatError if the configuration is not Unicode."""
    return encode_canonical(
        {
            "config": describe_config(image.config),
            "created": image.created,
            "disk": describe_disk(image.disk),
            "id": image.image_id,
            "key_id": image.key_id.hex(),
            "key_salt": image.key_salt.hex(),
            "size": image.size,
            "source": image.source,
            "version": FORMAT_VERSION,
        }
    )


def parse_image(data: bytes, directory: str) -> WorkloadImage:
    """Return the image that the contents of image.json describe.

    directory: where the file lies.

    Raises FormatError on other bytes, or if the id is not that of the contents.
    """
    fields = Fields(parse_canonical(data, limit=DESCRIPTION_LIMIT), "image.json")
    fields.take_integer("version", minimum=FORMAT_VERSION, maximum=FORMAT_VERSION)
    image = WorkloadImage(
        image_id=fields.take_string("id"),
        disk=parse_disk(fields.take_fields("disk")),
        config=_parse_config(fields.take_fields("config")),
        source=fields.take_string("source"),
        key_salt=_take_optional(fields, "key_salt", 32),
        key_id=_take_optional(fields, "key_id", 16),
        created=fields.take_integer("created", maximum=_U64),
        size=fields.take_integer("size", maximum=_U64),
        directory=directory,
    )
    fields.require_no_more()
    if image.image_id != derive_image_id(image.disk, image.config):
        raise FormatError("cannot read image.json", why="its id is not that of its contents")
    return image


def describe_config(config: ImageConfig) -> dict[str, Json]:
    """Return the configuration as JSON values."""
    return {
        "cmd": list(config.cmd),
        "cwd": config.cwd,
        "entrypoint": list(config.entrypoint),
        "env": list(config.env),
        "labels": dict(config.labels),
        "stop_signal": config.stop_signal,
        "user": config.user,
    }


def _parse_config(fields: Fields) -> ImageConfig:
    labels = fields.take("labels")
    if not isinstance(labels, dict) or not all(isinstance(value, str) for value in labels.values()):
        raise FormatError("cannot read image.json", why="the labels are not strings")
    config = ImageConfig(
        cmd=fields.take_strings("cmd", limit=_ITEMS),
        cwd=fields.take_string("cwd"),
        entrypoint=fields.take_strings("entrypoint", limit=_ITEMS),
        env=fields.take_strings("env", limit=_ITEMS),
        labels=labels,
        stop_signal=fields.take_string("stop_signal"),
        user=fields.take_string("user"),
    )
    fields.require_no_more()
    return config


def _take_optional(fields: Fields, name: str, size: int) -> bytes:
    text = fields.take_string(name)
    if not text:
        return b""
    return Fields({name: text}, "image.json").take_hex(name, size)
