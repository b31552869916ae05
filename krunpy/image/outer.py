"""The outside of a confidential image of libkrun: a root file system that only carries another one, encrypted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from krunpy.core.errors import BundleError
from krunpy.image.tree import NodeKind, find_node

if TYPE_CHECKING:
    from krunpy.image.tree import Source

DISK_PATH, KRUN_PATH = b"disk.img", b"krun-sev.json"


def require_no_outer(source: Source, spec: str) -> None:
    """Raise BundleError if a source is such an outside: its own program only says that it cannot run so."""
    nodes = [find_node(source.tree, path) for path in (DISK_PATH, KRUN_PATH)]
    if all(node is not None and node.kind is NodeKind.FILE for node in nodes):
        raise BundleError(
            f"cannot convert {spec}",
            why="it is a confidential image of libkrun: the workload is in the disk.img in it",
            next=f"krunpy image import --passphrase-file FILE {spec}",
        )
