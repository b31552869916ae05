"""An OCI bundle: a directory with config.json and, where that says, a root file system.

This is on the path of `create`: standard library only, one file read, no walk.

Source: OCI runtime specification 1.2 (bundle.md, config.md).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from krunpy.core.errors import BundleError
from krunpy.oci.config import (
    Hooks,
    Linux,
    Mount,
    Process,
    parse_hooks,
    parse_linux,
    parse_mount,
    parse_process,
)
from krunpy.oci.document import load_document, parse_document

if TYPE_CHECKING:
    from collections.abc import Mapping

    from krunpy.oci.document import Field

CONFIG_FILE = "config.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """A bundle that was found valid. `path` and `root` are absolute; `root` was a directory."""

    path: str
    oci_version: str
    root: str
    root_readonly: bool
    process: Process | None
    hostname: str
    domainname: str
    mounts: tuple[Mount, ...]
    linux: Linux
    hooks: Hooks
    annotations: Mapping[str, str]


def load_bundle(path: str) -> Bundle:
    """Return the bundle in a directory.

    Raises BundleError, which names the key, if config.json is missing, over 4 MiB, or not as specified.
    """
    config = f"{path}/{CONFIG_FILE}"
    return parse_bundle(load_document(config, CONFIG_FILE), path)


def parse_bundle(raw: bytes, path: str) -> Bundle:
    """Return the bundle that the bytes of a config.json describe.

    path: its directory, against which root.path is resolved. Raises BundleError.
    """
    config = parse_document(raw, CONFIG_FILE)
    _require_version(config["ociVersion"])
    path = os.path.abspath(path)
    return Bundle(
        path=path,
        oci_version=config["ociVersion"].text(),
        root=_require_root(config["root"], path),
        root_readonly=config["root"]["readonly"].flag(),
        process=parse_process(config["process"]),
        hostname=config["hostname"].text(""),
        domainname=config["domainname"].text(""),
        mounts=tuple(parse_mount(each) for each in config["mounts"].items()),
        linux=parse_linux(config["linux"]),
        hooks=parse_hooks(config["hooks"]),
        annotations=config["annotations"].mapping(),
    )


def _require_version(version: Field) -> None:
    """Any 1.x will do: engines write 1.0.2-dev, 1.2.1, 1.3.0, and minor versions only add."""
    major, dot, rest = version.text().partition(".")
    if major != "1" or not dot or not rest[:1].isdigit():
        version.fail("version 1.x")


def _require_root(root: Field, bundle: str) -> str:
    if not root:
        root.fail("an object with the path of the root file system")
    text = root["path"].text()
    if not text:
        root["path"].fail("a path")
    path = os.path.realpath(os.path.join(bundle, text))
    if not os.path.isdir(path):
        raise BundleError(f"cannot use bundle {bundle}", why=f"root.path: {path} is not a directory")
    return path
