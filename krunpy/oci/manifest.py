"""Image manifests, indexes and configurations, as frozen values. The one door of `opencontainers`.

That package checks the shape of image-spec documents, but ends the process on bad data, refuses keys it does
not know (the specification says to ignore them), knows no Docker media types, and prints. So only the keys
it models are handed to it, in OCI's words, and SystemExit is caught here. Nothing here reads a file.

Source: OCI image specification 1.1 (descriptor, index, manifest, config); Docker image manifest 2, schema 2.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from krunpy.core.errors import BundleError
from krunpy.oci.document import Field, parse_document

if TYPE_CHECKING:
    from collections.abc import Mapping

OCI = "application/vnd.oci.image."
DOCKER = "application/vnd.docker."
INDEX_TYPES = frozenset((OCI + "index.v1+json", DOCKER + "distribution.manifest.list.v2+json"))
MANIFEST_TYPES = frozenset((OCI + "manifest.v1+json", DOCKER + "distribution.manifest.v2+json"))
CONFIG_TYPES = frozenset((OCI + "config.v1+json", DOCKER + "container.image.v1+json"))
LAYER_TYPES = {
    OCI + "layer.v1.tar": "tar",
    OCI + "layer.v1.tar+gzip": "gzip",
    OCI + "layer.v1.tar+zstd": "zstd",
    OCI + "layer.nondistributable.v1.tar": "tar",
    OCI + "layer.nondistributable.v1.tar+gzip": "gzip",
    OCI + "layer.nondistributable.v1.tar+zstd": "zstd",
    DOCKER + "image.rootfs.diff.tar": "tar",
    DOCKER + "image.rootfs.diff.tar.gzip": "gzip",
    DOCKER + "image.rootfs.diff.tar.zstd": "zstd",
    DOCKER + "image.rootfs.foreign.diff.tar": "tar",
    DOCKER + "image.rootfs.foreign.diff.tar.gzip": "gzip",
}
REF_NAME = "org.opencontainers.image.ref.name"
DIGEST_PATTERN = re.compile(r"(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})\Z")
LAYER_LIMIT = 1000  # layers of one image; container engines stop at 127
ENTRY_LIMIT = 1000  # manifests of one index


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """Content by digest ("sha256:..." or "sha512:...", lower-case hex) and size in bytes."""

    media_type: str
    digest: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexEntry:
    """One manifest or index that an index names. Platform fields are empty if it has none."""

    descriptor: Descriptor
    name: str
    os: str
    architecture: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageManifest:
    """What an image consists of, lowest layer first."""

    config: Descriptor
    layers: tuple[Descriptor, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageConfig:
    """What an image says about its process. Empty strings and tuples where it says nothing."""

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    cwd: str = ""
    user: str = ""
    stop_signal: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """The configuration of an image. diff_ids: digests of the uncompressed layers, lowest first."""

    os: str
    architecture: str
    diff_ids: tuple[str, ...]
    config: ImageConfig


def parse_index(raw: bytes, what: str = "the image index") -> tuple[IndexEntry, ...]:
    """Return the entries of an image index or a Docker manifest list. Raises BundleError."""
    root = parse_document(raw, what)
    _require_schema(root)
    fields = list(root["manifests"].items())
    if len(fields) > ENTRY_LIMIT:
        raise BundleError(
            f"cannot read {what}", why=f"it names {len(fields)} manifests, at most {ENTRY_LIMIT} are allowed"
        )
    return tuple(_parse_entry(field) for field in fields)


def parse_manifest(raw: bytes, what: str = "the image manifest") -> ImageManifest:
    """Return an image manifest. Raises BundleError."""
    root = parse_document(raw, what)
    _require_schema(root)
    config = _parse_descriptor(root["config"])
    if config.media_type not in CONFIG_TYPES:
        root["config"]["mediaType"].fail(f"{OCI}config.v1+json: this is not a container image")
    layers = tuple(_parse_descriptor(field) for field in root["layers"].items())
    if not 1 <= len(layers) <= LAYER_LIMIT:
        raise BundleError(f"cannot read {what}", why=f"layers: seen {len(layers)}, wanted 1 to {LAYER_LIMIT}")
    for each, layer in zip(root["layers"].items(), layers, strict=True):
        if layer.media_type not in LAYER_TYPES:
            each["mediaType"].fail("a layer that is a tar, plain, gzip or zstd")
    _check_manifest(config, layers, what)
    return ImageManifest(config=config, layers=layers)


def parse_image(raw: bytes, what: str = "the image configuration") -> Image:
    """Return an image's configuration. Raises BundleError."""
    root = parse_document(raw, what)
    config = root["config"]
    diff_ids = tuple(_digest(field) for field in root["rootfs"]["diff_ids"].items())
    image = Image(
        os=root["os"].text(""),
        architecture=root["architecture"].text(""),
        diff_ids=diff_ids,
        config=ImageConfig(
            entrypoint=_words(config["Entrypoint"]),
            cmd=_words(config["Cmd"]),
            env=config["Env"].texts(),
            cwd=config["WorkingDir"].text(""),
            user=config["User"].text(""),
            stop_signal=config["StopSignal"].text(""),
            labels=config["Labels"].mapping(),
        ),
    )
    _check_image(image, what)
    return image


def _require_schema(root: Field) -> None:
    if root["schemaVersion"].number(2) != 2:  # noqa: PLR2004 - the only version with digests
        root["schemaVersion"].fail("2")


def _parse_entry(field: Field) -> IndexEntry:
    platform = field["platform"]
    return IndexEntry(
        descriptor=_parse_descriptor(field),
        name=field["annotations"].mapping().get(REF_NAME, ""),
        os=platform["os"].text(""),
        architecture=platform["architecture"].text(""),
    )


def _parse_descriptor(field: Field) -> Descriptor:
    field.require(dict, "a descriptor")
    return Descriptor(
        media_type=field["mediaType"].text(),
        digest=_digest(field["digest"]),
        size=field["size"].number(low=1),
    )


def _digest(field: Field) -> str:
    text = field.text()
    if not DIGEST_PATTERN.match(text):
        field.fail("sha256: and 64, or sha512: and 128 lower-case hex digits")
    return text


def _words(field: Field) -> tuple[str, ...]:
    """Return a command: a list, or a single string as very old images have it."""
    return (field.text(),) if type(field.value) is str else field.texts()


def _check_manifest(config: Descriptor, layers: tuple[Descriptor, ...], what: str) -> None:
    def described(media_type: str, descriptor: Descriptor) -> dict[str, Any]:
        return {"mediaType": media_type, "digest": descriptor.digest, "size": descriptor.size}

    suffix = {"tar": "tar", "gzip": "tar+gzip", "zstd": "tar+zstd"}
    document = {
        "schemaVersion": 2,
        "config": described(OCI + "config.v1+json", config),
        "layers": [
            described(f"{OCI}layer.v1.{suffix[LAYER_TYPES[each.media_type]]}", each) for each in layers
        ],
    }
    _check("Manifest", document, what)


def _check_image(image: Image, what: str) -> None:
    config = image.config
    document = {
        "architecture": image.architecture,
        "os": image.os,
        "rootfs": {"type": "layers", "diff_ids": list(image.diff_ids)},
        "config": {
            "User": config.user,
            "WorkingDir": config.cwd,
            # The package refuses NAME= with an empty value, which images use and the specification allows.
            "Env": [entry for entry in config.env if "=" in entry and not entry.endswith("=")],
            "Entrypoint": list(config.entrypoint),
            "Cmd": list(config.cmd),
            "Labels": dict(config.labels),
            "StopSignal": config.stop_signal,
        },
    }
    _check("Image", document, what)


def _check(name: str, document: dict[str, Any], what: str) -> None:
    """Have the package check a document. Raises BundleError with its reason."""
    from opencontainers.image import v1
    from opencontainers.logger import bot

    reasons: list[str] = []
    bot.log_handler = [lambda message: reasons.append(str(message.get("msg", "")))]
    try:
        getattr(v1, name)().load(document)
    except SystemExit:
        first = next((reason for reason in reasons if reason), "no reason given")
        raise BundleError(
            f"cannot read {what}", why=f"the image specification is not met: {first[:200]}"
        ) from None
