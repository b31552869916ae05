"""What tests compare sources by: every name with its metadata, hard links and digest of its contents."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from krunpy.image.tree import CHUNK_SIZE, Node, NodeKind, Source, walk_tree

if TYPE_CHECKING:
    from collections.abc import Mapping


def read_contents(source: Source) -> dict[int, bytes]:
    """Stream a whole source; return contents by id(node), and assert the rules of streaming on the way."""
    found: dict[int, bytearray] = {}
    end: dict[int, int] = {}
    for node, offset, chunk in source.stream():
        assert node.kind is NodeKind.FILE
        assert 0 < len(chunk) <= CHUNK_SIZE
        assert offset >= end.get(id(node), 0), "pieces of a file ascend"
        end[id(node)] = offset + len(chunk)
        assert end[id(node)] <= node.size
        contents = found.setdefault(id(node), bytearray(node.size))
        contents[offset : offset + len(chunk)] = chunk
    return {key: bytes(value) for key, value in found.items()}


def describe(source: Source) -> dict[bytes, tuple[object, ...]]:
    """Return path -> everything that a guest could see of it; hard links share the first name."""
    contents = read_contents(source)
    digests = {key: hashlib.sha256(value).hexdigest() for key, value in contents.items()}
    return describe_tree(source.tree, digests)


def describe_tree(root: Node, digests: Mapping[int, str]) -> dict[bytes, tuple[object, ...]]:
    first: dict[int, bytes] = {}
    found: dict[bytes, tuple[object, ...]] = {b"": _row(root, b"", "")}
    for path, node in walk_tree(root):
        name = first.setdefault(id(node), path)
        empty = (
            hashlib.sha256(bytes(node.size)).hexdigest()
            if node.kind is NodeKind.FILE and node.size < 1 << 24
            else ""
        )
        found[path] = _row(node, name, digests.get(id(node), empty))
    return found


def _row(node: Node, name: bytes, digest: str) -> tuple[object, ...]:
    xattrs = tuple(sorted(node.xattrs.items()))
    return (
        node.kind.name,
        oct(node.mode),
        node.uid,
        node.gid,
        node.mtime,
        node.size,
        node.target,
        node.rdev,
        xattrs,
        name,
        digest,
    )


def tree_digest(source: Source) -> str:
    """Return one digest of all that describe() tells."""
    return hashlib.sha256(repr(sorted(describe(source).items())).encode()).hexdigest()
