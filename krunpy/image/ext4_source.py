"""An ext4 file system as a source: its tree built once, its files streamed from the volume, nothing unpacked.

The volume may be a stranger's: inodes, names, depth and bytes are counted, a directory is reached once, and
what contradicts itself is refused. mke2fs's empty lost+found is no part of the root file system.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Protocol

from krunpy.core.errors import BundleError, FormatError
from krunpy.formats.ext4_read import BlockMeter, Filesystem
from krunpy.image import limits
from krunpy.image.blob import Meter
from krunpy.image.dirwalk import KINDS
from krunpy.image.limits import DEFAULT_LIMITS, Limits
from krunpy.image.normal import normalise_tree, require_contents
from krunpy.image.tree import CHUNK_SIZE, Node, NodeKind, refuse, walk_tree
from krunpy.oci.manifest import ImageConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from krunpy.formats.ext4_parse_inode import Inode

WHAT = "the ext4 file system"
LOST = b"lost+found"
_TIMED = (NodeKind.FILE, NodeKind.SYMLINK, NodeKind.DIRECTORY)
_SHORT_DEVICE = 8  # bits of each number in the old form of a device


class Volume(Protocol):
    """Bytes that can be read from any offset; `size` of them."""

    @property
    def size(self) -> int:
        """Return the bytes of the volume."""

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes of the volume, fewer at the end."""


class Ext4Source:
    """A root file system in an ext4 volume.

    fingerprint: of the volume, when it is asked for; close: lets go of the volume.
    """

    racy = False

    def __init__(
        self,
        volume: Volume,
        *,
        fingerprint: Callable[[], str],
        finish: Callable[[], None],
        close: Callable[[], None],
        bounds: Limits = DEFAULT_LIMITS,
    ) -> None:
        self.config = ImageConfig()
        self.filesystem = Filesystem(volume.read, volume.size)
        self.fingerprint = fingerprint
        self.finish = finish
        self.close = close
        self._bounds = bounds
        self._tree: Node | None = None

    @property
    def tree(self) -> Node:
        """Return the root directory, normalised. The first use reads all metadata."""
        if self._tree is None:
            self._tree = self.read_tree()
            normalise_tree(self._tree)
        return self._tree

    def read_tree(self) -> Node:
        """Return a new tree as the file system has it, less an empty lost+found. Raises FormatError, BundleError."""
        root = _TreeReader(self.filesystem, self._bounds).read()
        lost = root.children.get(LOST)
        if lost is not None and lost.kind is NodeKind.DIRECTORY and not lost.children:
            del root.children[LOST]
        require_contents(root, WHAT)
        return root

    def stream(self) -> Iterator[tuple[Node, int, bytes | memoryview]]:
        """Yield (file, offset, bytes) for every distinct file of the normalised tree."""
        return self.stream_below(self.tree)

    def stream_below(self, root: Node) -> Iterator[tuple[Node, int, bytes | memoryview]]:
        """Yield (file, offset, bytes) for every distinct file of a tree of this source, in the order of inodes."""
        files = {id(node): node for _, node in walk_tree(root) if node.kind is NodeKind.FILE and node.size}
        meter = self.filesystem.make_meter()
        for node in sorted(files.values(), key=_number):
            yield from ((node, offset, part) for offset, part in self._read_pieces(node, meter))

    def read_file(self, node: Node, limit: int) -> bytes:
        """Return a file's contents. Raises BundleError if it is longer than `limit` bytes."""
        if node.size > limit:
            raise BundleError(
                "cannot read a file of the image", why=f"it is {node.size} bytes, at most {limit} are allowed"
            )
        contents = bytearray(node.size)
        for offset, part in self._read_pieces(node, self.filesystem.make_meter()):
            contents[offset : offset + len(part)] = part
        return bytes(contents)

    def _read_pieces(self, node: Node, meter: BlockMeter) -> Iterator[tuple[int, bytes]]:
        inode: Inode = node.content
        for offset, place, length in self.filesystem.map_data(inode, meter):
            end = min(offset + length, node.size)
            for start in range(offset, end, CHUNK_SIZE):
                size = min(CHUNK_SIZE, end - start)
                yield start, self.filesystem.read_data(place + start - offset, size)


def _number(node: Node) -> int:
    inode: Inode = node.content
    return inode.number


class _TreeReader:
    """Builds one tree. Directories are read breadth first; each inode becomes one node."""

    def __init__(self, filesystem: Filesystem, bounds: Limits) -> None:
        self._filesystem = filesystem
        self._bounds = bounds
        self._meter = Meter(bounds)
        self._blocks = filesystem.make_meter()
        self._nodes: dict[int, Node] = {}

    def read(self) -> Node:
        """Return the root directory with everything below it."""
        root = self._make_node(2, b"")
        if root.kind is not NodeKind.DIRECTORY:
            raise refuse(WHAT, b"", "is not a directory")
        pending = [(b"", root, 1)]
        while pending:
            path, directory, depth = pending.pop()
            if depth > self._bounds.depth:
                raise refuse(WHAT, path, f"is {depth} levels deep, at most {self._bounds.depth} are allowed")
            inode: Inode = directory.content
            self._meter.count_bytes(inode.size)
            for name, number in self._filesystem.list_directory(inode, self._blocks):
                self._meter.count_entry()
                below = path + b"/" + name if path else name
                node = self._add(directory, name, number, below)
                if node.kind is NodeKind.DIRECTORY:
                    pending.append((below, node, depth + 1))
        return root

    def _add(self, directory: Node, name: bytes, number: int, path: bytes) -> Node:
        limits.require_name(name, path)
        if name in directory.children:
            raise refuse(WHAT, path, "is there twice")
        node = self._nodes.get(number)
        if node is None:
            node = self._make_node(number, path)
        elif node.kind is NodeKind.DIRECTORY:
            raise refuse(WHAT, path, "is a directory that has another name already")
        directory.children[name] = node
        return node

    def _make_node(self, number: int, path: bytes) -> Node:
        inode = self._filesystem.read_inode(number)
        kind = KINDS.get(stat.S_IFMT(inode.mode))
        if kind is None:
            raise refuse(WHAT, path, f"has the unknown type {inode.mode:#o}")
        for what, value in (("owner", inode.uid), ("group", inode.gid)):
            if value > limits.ID_MAX:
                raise refuse(WHAT, path, f"has {what} {value}, wanted 0 to {limits.ID_MAX}")
        node = Node(kind=kind, mode=stat.S_IMODE(inode.mode), uid=inode.uid, gid=inode.gid, content=inode)
        found = self._filesystem.read_xattrs(inode)
        node.xattrs = {name: value for name, value in found.items() if limits.is_kept_xattr(name)}
        limits.require_xattrs(node.xattrs, path)
        if kind in _TIMED:
            node.mtime = limits.clamp_mtime(inode.mtime)
        if kind is NodeKind.FILE:
            node.size = inode.size
            self._meter.count_bytes(inode.size)
        elif kind is NodeKind.SYMLINK:
            node.mode = 0o777
            node.target = self._read_target(inode, path)
        elif kind in (NodeKind.CHAR, NodeKind.BLOCK):
            node.rdev = _find_device(inode)
        self._nodes[number] = node
        return node

    def _read_target(self, inode: Inode, path: bytes) -> bytes:
        if not 0 < inode.size < limits.PATH_MAX:
            why = f"is a symlink with a target of {inode.size} bytes, wanted 1 to {limits.PATH_MAX - 1}"
            raise refuse(WHAT, path, why)
        target = self._filesystem.read_target(inode)
        if b"\0" in target:
            raise FormatError(
                f"cannot read {WHAT}", why=f"the target of inode {inode.number} holds a zero byte"
            )
        return target


def _find_device(inode: Inode) -> int:
    """Return the device of a node: i_block has it in the old form, or in the new one behind a zero."""
    old, new = (int.from_bytes(inode.map[start : start + 4], "little") for start in (0, 4))
    if old:
        return os.makedev((old >> _SHORT_DEVICE) & 0xFF, old & 0xFF)
    return os.makedev((new >> 8) & 0xFFF, (new & 0xFF) | ((new >> 12) & 0xFFF00))
