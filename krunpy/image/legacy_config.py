"""The configuration inside a confidential image of libkrun: .krun_config.json, in any of its makers' words.

buildah writes the image's configuration; oci2cw writes what `buildah inspect` prints, which holds it as OCIv1.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from krunpy.image.tree import read_path
from krunpy.oci.document import DOCUMENT_LIMIT, parse_document
from krunpy.oci.manifest import ImageConfig, parse_image

if TYPE_CHECKING:
    from krunpy.image.tree import Source

CONFIG_PATH = b".krun_config.json"
_WHAT = "/.krun_config.json"


def load_image_config(source: Source) -> ImageConfig:
    """Return the configuration in a root file system; empty if it has none. Raises BundleError if it is no such."""
    raw = read_path(source, CONFIG_PATH, DOCUMENT_LIMIT)
    return ImageConfig() if raw is None else parse_image_config(raw)


def parse_image_config(raw: bytes) -> ImageConfig:
    """Return the configuration in the words of buildah or oci2cw. Raises BundleError."""
    inspected = parse_document(raw, _WHAT)["OCIv1"]
    if inspected:
        inspected.require(dict, "an image configuration")
        raw = json.dumps(inspected.value).encode()
    return parse_image(raw, _WHAT).config
