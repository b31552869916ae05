"""Raw tars and image layouts for tests, sound and broken: every field can be set, nothing is checked."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

END = bytes(1024)
OCI = "application/vnd.oci.image."
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)


def octal(value: int, width: int) -> bytes:
    return b"%0*o\0" % (width - 1, value)


def base256(value: int, width: int) -> bytes:
    return bytes([0x80]) + value.to_bytes(width - 1, "big")


def header(name: bytes, kind: bytes = b"0", size: int = 0, **fields: object) -> bytes:
    """One header block. fields: mode, uid, gid, mtime, link, major, minor, magic, prefix, checksum, sized."""
    get = fields.get
    block = bytearray(512)
    block[0:100] = name[:100].ljust(100, b"\0")
    block[100:108] = octal(get("mode", 0o644), 8)
    block[108:116] = get("uid_field") or octal(get("uid", 0), 8)
    block[116:124] = octal(get("gid", 0), 8)
    block[124:136] = get("size_field") or octal(size, 12)
    block[136:148] = get("mtime_field") or octal(get("mtime", 1000), 12)
    block[156:157] = kind
    block[157:257] = get("link", b"")[:100].ljust(100, b"\0")
    block[257:265] = get("magic", b"ustar\x0000")
    block[329:337] = get("major_field") or octal(get("major", 0), 8)
    block[337:345] = octal(get("minor", 0), 8)
    block[345:500] = get("prefix", b"").ljust(155, b"\0")
    for offset, octets in get("patch", {}).items():
        block[offset : offset + len(octets)] = octets
    block[148:156] = b" " * 8
    block[148:156] = octal(get("checksum", sum(block)), 7) + b" "
    return bytes(block)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def entry(name: bytes, data: bytes = b"", kind: bytes = b"0", **fields: object) -> bytes:
    return header(name, kind, len(data), **fields) + padded(data)


def directory(name: bytes, mode: int = 0o755, **fields: object) -> bytes:
    return entry(name, kind=b"5", mode=mode, **fields)


def symlink(name: bytes, target: bytes) -> bytes:
    return entry(name, kind=b"2", link=target)


def hardlink(name: bytes, target: bytes) -> bytes:
    return entry(name, kind=b"1", link=target)


def record(key: bytes, value: bytes) -> bytes:
    length = len(key) + len(value) + 3
    while len(b"%d %b=%b\n" % (length, key, value)) != length:
        length = len(b"%d %b=%b\n" % (length, key, value))
    return b"%d %b=%b\n" % (length, key, value)


def pax(*records: tuple[bytes, bytes]) -> bytes:
    return entry(b"PaxHeader", b"".join(record(key, value) for key, value in records), b"x")


def layer(*entries: bytes) -> bytes:
    return b"".join(entries) + END


def digest(data: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


class Layout:
    """An image layout in memory: `files` maps path to contents. Change it, then write() or tar() it."""

    def __init__(
        self, layers: Iterable[bytes], *, stored: Iterable[bytes] | None = None, **config: object
    ) -> None:
        plain = list(layers)
        blobs = list(stored) if stored is not None else plain
        self.files: dict[str, bytes] = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}'}
        image = {
            "architecture": config.pop("architecture", ARCHITECTURE),
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [digest(each) for each in plain]},
        }
        self.layers = [self.describe(each, OCI + "layer.v1.tar") for each in blobs]
        self.set_image(image)

    def describe(self, data: bytes, media_type: str) -> dict[str, object]:
        self.files[f"blobs/sha256/{digest(data)[7:]}"] = data
        return {"mediaType": media_type, "digest": digest(data), "size": len(data)}

    def set_image(self, image: object) -> None:
        self.image = image
        raw = image if isinstance(image, bytes) else json.dumps(image).encode()
        self.set_manifest(
            {
                "schemaVersion": 2,
                "config": self.describe(raw, OCI + "config.v1+json"),
                "layers": self.layers,
            }
        )

    def set_manifest(self, manifest: object) -> None:
        self.manifest = manifest
        raw = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
        self.set_index({"schemaVersion": 2, "manifests": [self.describe(raw, OCI + "manifest.v1+json")]})

    def set_index(self, index: object) -> None:
        self.index = index
        self.files["index.json"] = index if isinstance(index, bytes) else json.dumps(index).encode()

    def write(self, path: Path) -> str:
        for name, contents in self.files.items():
            file = path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(contents)
        return str(path)

    def write_tar(self, path: Path) -> str:
        path.write_bytes(layer(*(entry(name.encode(), contents) for name, contents in self.files.items())))
        return str(path)


def docker_archive(layers: Iterable[bytes], **config: object) -> dict[str, bytes]:
    """The members of a docker-archive with one image, tagged localhost/x:1."""
    plain = list(layers)
    image = {
        "architecture": ARCHITECTURE,
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [digest(each) for each in plain]},
    }
    files = {f"{number}/layer.tar": each for number, each in enumerate(plain)}
    manifest = [{"Config": "config.json", "RepoTags": ["localhost/x:1"], "Layers": list(files)}]
    return {
        "config.json": json.dumps(image).encode(),
        **files,
        "manifest.json": json.dumps(manifest).encode(),
    }


def write_archive(path: Path, files: dict[str, bytes]) -> str:
    path.write_bytes(layer(*(entry(name.encode(), contents) for name, contents in files.items())))
    return str(path)


def squeezed(data: bytes) -> bytes:
    return gzip.compress(data, 6, mtime=0)


def tar_of_directory(path: Path, format_: int = tarfile.PAX_FORMAT) -> bytes:
    """What the standard library makes of a directory."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format_) as tar:
        tar.add(path, arcname=".")
    return buffer.getvalue()
