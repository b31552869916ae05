from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest

from krunpy.core.errors import BundleError
from krunpy.oci.layout import ResolvedImage, blob_path, find_image, verify_blob
from krunpy.oci.manifest import OCI, Descriptor


class Files:
    """A layout in memory that remembers what was read of it."""

    def __init__(self) -> None:
        self.contents = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}'}
        self.read_paths: list[str] = []

    def add(self, document: object, media_type: str, **more: object) -> dict[str, Any]:
        raw = json.dumps(document).encode()
        digest = "sha256:" + hashlib.sha256(raw).hexdigest()
        self.contents[blob_path(digest)] = raw
        return {"mediaType": OCI + media_type, "digest": digest, "size": len(raw), **more}

    def add_image(self, layer: str, architecture: str = "amd64", **more: object) -> dict[str, Any]:
        digest = "sha256:" + layer * 64
        image = {
            "os": "linux",
            "architecture": architecture,
            "rootfs": {"type": "layers", "diff_ids": [digest]},
        }
        layers = [{"mediaType": OCI + "layer.v1.tar", "digest": digest, "size": 5}]
        config = self.add(image, "config.v1+json")
        return self.add({"schemaVersion": 2, "config": config, "layers": layers}, "manifest.v1+json", **more)

    def index(self, *entries: dict[str, Any]) -> None:
        self.contents["index.json"] = json.dumps({"schemaVersion": 2, "manifests": entries}).encode()

    def read(self, path: str, limit: int) -> bytes:
        self.read_paths.append(path)
        return self.contents[path][: limit + 1]


def find(files: Files, name: str = "", architecture: str = "amd64") -> ResolvedImage:
    return find_image(files.read, name=name, architecture=architecture)


def platform(architecture: str) -> dict[str, str]:
    return {"os": "linux", "architecture": architecture}


def test_the_only_image_is_found_without_a_name() -> None:
    files = Files()
    entry = files.add_image("1")
    files.index(entry)

    found = find(files)

    assert found.digest == entry["digest"]
    assert found.image.diff_ids == ("sha256:" + "1" * 64,)
    assert not [path for path in files.read_paths if "1" * 64 in path], "no layer is read"


def test_the_image_for_this_machine_is_taken_from_an_index() -> None:
    files = Files()
    amd, arm = (
        files.add_image("1", "amd64", platform=platform("amd64")),
        files.add_image("2", "arm64", platform=platform("arm64")),
    )
    files.index(files.add({"manifests": [amd, arm]}, "index.v1+json"))

    assert find(files).digest == amd["digest"]
    assert find(files, architecture="arm64").digest == arm["digest"]
    with pytest.raises(BundleError, match="platform: seen linux/amd64, linux/arm64, wanted linux/mips"):
        find(files, architecture="mips")


def test_an_image_that_lies_about_its_platform_is_refused() -> None:
    files = Files()
    files.index(files.add_image("1", "arm64", platform=platform("amd64")))

    with pytest.raises(BundleError, match="seen linux/arm64, wanted linux/amd64"):
        find(files)


def test_two_entries_for_the_same_image_are_one() -> None:
    files = Files()
    entry = files.add_image("1")
    files.index(entry, {**entry, "annotations": {"org.opencontainers.image.ref.name": "again"}})

    assert find(files).digest == entry["digest"]


def test_one_flipped_bit_in_any_document_is_refused() -> None:
    files = Files()
    files.index(files.add_image("1"))
    blobs = [path for path in files.contents if path.startswith("blobs/")]
    assert len(blobs) == 2

    for path in blobs:
        sound = files.contents[path]
        for offset in range(len(sound)):
            files.contents[path] = sound[:offset] + bytes([sound[offset] ^ 1]) + sound[offset + 1 :]
            with pytest.raises(BundleError, match="digest: seen sha256:"):
                find(files)
        files.contents[path] = sound
    assert find(files)


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_a_blob_is_checked_by_size_and_digest(algorithm: str) -> None:
    digest = f"{algorithm}:{hashlib.new(algorithm, b'contents').hexdigest()}"
    descriptor = Descriptor(media_type="x", digest=digest, size=8)

    assert verify_blob(b"contents", descriptor) == b"contents"
    with pytest.raises(BundleError, match="digest: seen"):
        verify_blob(b"Contents", descriptor)
    with pytest.raises(BundleError, match="size: seen 9 bytes, wanted 8"):
        verify_blob(b"contents!", descriptor)


def test_indexes_may_nest_a_little_but_not_for_ever() -> None:
    files = Files()
    entry = files.add_image("1")
    for _ in range(3):
        entry = files.add({"manifests": [entry]}, "index.v1+json")
    files.index(entry)
    assert find(files)

    files.index(files.add({"manifests": [entry]}, "index.v1+json"))

    with pytest.raises(BundleError, match="nest deeper than 4 levels"):
        find(files)
