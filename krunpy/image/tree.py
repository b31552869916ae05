"""A workload's root file system: one tree of metadata, and a source that streams the contents.

Every kind of source (directory, bundle, image) gives the same two things, so that what follows needs to know
neither. Nothing here reads a file or decides a layout on disk.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Protocol

from krunpy.core.errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from krunpy.oci.manifest import ImageConfig

CHUNK_SIZE = 1024 * 1024  # bytes, the longest piece that a source streams
MAX_SYMLINKS = 40  # followed in one path, as Linux does


class NodeKind(IntEnum):
    """The type of an inode."""

    FILE = 1
    DIRECTORY = 2
    SYMLINK = 3
    CHAR = 4
    BLOCK = 5
    FIFO = 6
    SOCKET = 7


@dataclass(slots=True, eq=False)
class Node:
    """One inode. Hard links are one Node reached by several names.

    mode:     permission bits with set-user-ID, set-group-ID and sticky, 12 bits.
    mtime:    seconds since 1970; files, symlinks and directories keep theirs, every other kind has 0.
    size:     bytes of content of a FILE, else 0.
    target:   of a SYMLINK.
    rdev:     of CHAR and BLOCK, as os.makedev gives it.
    xattrs:   full names, for example b"security.capability".
    children: of a DIRECTORY.
    content:  where the source finds the bytes; nobody else looks at it.
    """

    kind: NodeKind
    mode: int
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    size: int = 0
    target: bytes = b""
    rdev: int = 0
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    children: dict[bytes, Node] = field(default_factory=dict)
    content: Any = None


class Source(Protocol):
    """A root file system that is read without being unpacked. Close it after use."""

    @property
    def tree(self) -> Node:
        """Return the root directory. The first use reads all metadata; it may raise BundleError."""

    @property
    def config(self) -> ImageConfig:
        """Return what the image says about its process; empty for a directory."""

    @property
    def racy(self) -> bool:
        """Say whether something changed so recently that the fingerprint must not be a cache key."""

    def stream(self) -> Iterator[tuple[Node, int, bytes | memoryview]]:
        """Yield (file, offset, bytes) until every byte of every distinct file was given.

        Pieces are at most CHUNK_SIZE bytes; those of one file ascend; files come in any order. What is not
        given is zeros. The bytes stay valid after the next step. Raises BundleError if the source changed.
        """

    def read_file(self, node: Node, limit: int) -> bytes:
        """Return a file's contents. Raises BundleError if it is longer than `limit` bytes."""

    def finish(self) -> None:
        """Raise BundleError if the source changed since its tree was read."""

    def fingerprint(self) -> str:
        """Return lower-case hex, equal for equal sources, without reading any file's data."""

    def close(self) -> None:
        """Let go of files and mounts."""


def walk_tree(root: Node) -> Iterator[tuple[bytes, Node]]:
    """Yield (path, node) for every name below the root, sorted within each directory; b"etc/passwd"."""
    pending: list[tuple[bytes, Node]] = [(b"", root)]
    while pending:
        path, node = pending.pop()
        if path:
            yield path, node
        prefix = path + b"/" if path else b""
        pending.extend((prefix + name, node.children[name]) for name in sorted(node.children, reverse=True))


def find_node(root: Node, path: bytes) -> Node | None:
    """Return what a path leads to inside the tree, or None; symlinks are followed within it."""
    stack = [root]
    pending = path.split(b"/")[::-1]
    hops = 0
    while pending:
        name = pending.pop()
        if name in (b"", b"."):
            continue
        if name == b"..":
            stack = stack[:-1] or [root]
            continue
        node = stack[-1].children.get(name)
        if node is None:
            return None
        if node.kind is not NodeKind.SYMLINK:
            stack.append(node)
            continue
        hops += 1
        if hops > MAX_SYMLINKS:
            return None
        if node.target.startswith(b"/"):
            stack = [root]
        pending.extend(node.target.split(b"/")[::-1])
    return stack[-1]


def read_path(source: Source, path: bytes, limit: int) -> bytes | None:
    """Return the contents of the regular file at a path, or None if there is none."""
    node = find_node(source.tree, path)
    if node is None or node.kind is not NodeKind.FILE:
        return None
    return source.read_file(node, limit)


def shown(path: bytes) -> str:
    """Return a path inside the image for a message: absolute, printable, at most 200 characters."""
    text = path.decode(errors="backslashreplace").encode("unicode_escape").decode("ascii")
    return "/" + (text if len(text) <= 200 else text[:200] + "...")  # noqa: PLR2004 - said in the docstring


def refuse(what: str, path: bytes, why: str) -> BundleError:
    """Return the error for one name in a source: what failed, the name, why."""
    return BundleError(f"cannot read {what}", why=f"{shown(path)} {why}")
