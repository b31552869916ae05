"""Write the documents of an OCI image layout that holds one image of one layer. They name no time and no host.

Nothing here touches a file: the caller puts each document where its path says, and the layer where `blob_path` does.
Source: OCI image specification 1.1 (image-layout.md, manifest.md, config.md).
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from krunpy.oci.layout import INDEX_FILE, LAYOUT_FILE, blob_path
from krunpy.oci.manifest import OCI

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from krunpy.oci.manifest import ImageConfig

ARCHITECTURE = "amd64"


def encode_image(config: ImageConfig, diff_ids: Sequence[str]) -> bytes:
    """Return the JSON of an image configuration. diff_ids: of its layers, "sha256:..."; lowest first."""
    said = {
        "User": config.user,
        "Env": list(config.env),
        "Entrypoint": list(config.entrypoint),
        "Cmd": list(config.cmd),
        "WorkingDir": config.cwd,
        "Labels": dict(sorted(config.labels.items())),
        "StopSignal": config.stop_signal,
    }
    return _encode(
        {
            "architecture": ARCHITECTURE,
            "os": "linux",
            "config": {name: value for name, value in said.items() if value},
            "rootfs": {"type": "layers", "diff_ids": list(diff_ids)},
        }
    )


def make_documents(config: ImageConfig, *, layer_digest: str, layer_size: int) -> Mapping[str, bytes]:
    """Return every file of the layout but the layer, by its path.

    layer_digest: "sha256:..." of the uncompressed layer; layer_size: bytes.
    """
    image = encode_image(config, [layer_digest])
    manifest = _encode(
        {
            "schemaVersion": 2,
            "mediaType": f"{OCI}manifest.v1+json",
            "config": _describe(f"{OCI}config.v1+json", _digest(image), len(image)),
            "layers": [_describe(f"{OCI}layer.v1.tar", layer_digest, layer_size)],
        }
    )
    index = _encode(
        {
            "schemaVersion": 2,
            "mediaType": f"{OCI}index.v1+json",
            "manifests": [
                {
                    **_describe(f"{OCI}manifest.v1+json", _digest(manifest), len(manifest)),
                    "platform": {"architecture": ARCHITECTURE, "os": "linux"},
                }
            ],
        }
    )
    return {
        LAYOUT_FILE: _encode({"imageLayoutVersion": "1.0.0"}),
        INDEX_FILE: index,
        blob_path(_digest(image)): image,
        blob_path(_digest(manifest)): manifest,
    }


def _describe(media_type: str, digest: str, size: int) -> dict[str, object]:
    return {"mediaType": media_type, "digest": digest, "size": size}


def _digest(document: bytes) -> str:
    return f"sha256:{hashlib.sha256(document).hexdigest()}"


def _encode(document: dict[str, object]) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
