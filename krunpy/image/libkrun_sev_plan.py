"""The inodes of a confidential image's file system: numbered, measured and digested, before any has a place on disk.

One tree and one set of contents give one plan, whatever kind of source they come from. This module lays nothing out
(`krunpy.image.libkrun_sev_ext4` does) and holds no file contents.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from krunpy.core.errors import FormatError
from krunpy.formats import ext4_write_inode as records
from krunpy.formats.ext4_parse_inode import INLINE_SIZE
from krunpy.formats.ext4_write import BLOCK_SIZE, FIRST_INODE
from krunpy.formats.ext4_write_xattr import split_xattrs
from krunpy.image.legacy_config import CONFIG_PATH
from krunpy.image.libkrun_sev_survey import EMPTY, Shape
from krunpy.image.place import WHAT, Named
from krunpy.image.tree import Node, NodeKind, refuse

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from krunpy.formats.ext4_write_inode import Extent
    from krunpy.formats.ext4_write_xattr import Attribute

ROOT_INODE = 2
LOST = b"lost+found"
_SECTORS = BLOCK_SIZE // 512
_DOMAIN = b"krunpy libkrun-sev contents v1\0"


class Place(Named):
    """One inode and what it needs. Hard links share a place.

    names:        of a directory, in the order of its entries, "." and ".." first; else empty.
    number:       of the inode.
    size:         i_size in bytes.
    shape:        runs of blocks that are stored, and the digest of a file's contents.
    inside, outside: extended attributes behind the inode and in a block.
    extents, map_blocks, xattr_block: where all that lies, once it is laid out.
    block:        the first of a file's blocks when those of all files, holes too, are counted one after the other.
    given:        bytes of a file that its source has given so far; `krunpy.image.contents` counts here.
    """

    __slots__ = ("block", "extents", "given", "inside", "map_blocks", "names", "number", "outside", "shape", "size",
                 "xattr_block")  # fmt: skip

    def __init__(self, node: Node, name: bytes, parent: Place | None, number: int) -> None:
        super().__init__(node, name, parent)
        self.number = number
        self.names: Sequence[bytes] = ()
        self.size = 0
        self.shape: Shape = EMPTY
        self.inside: list[Attribute] = []
        self.outside: list[Attribute] = []
        self.extents: list[Extent] = []
        self.map_blocks: list[int] = []
        self.xattr_block = 0
        self.block = 0
        self.given = 0

    @property
    def data_blocks(self) -> int:
        """Return the blocks that its data takes on disk."""
        return sum(blocks for _, blocks in self.shape.runs)

    @property
    def sectors(self) -> int:
        """Return the sectors of 512 bytes that belong to it, once it is laid out."""
        return (self.data_blocks + len(self.map_blocks) + bool(self.outside)) * _SECTORS


def make_root(tree: Node, config: Node) -> Node:
    """Return a root directory with the image's configuration and lost+found in it; the tree stays as it is.

    Raises BundleError if the tree has something else of that name.
    """
    children = {**tree.children, CONFIG_PATH: config}
    lost = children.setdefault(LOST, Node(kind=NodeKind.DIRECTORY, mode=0o700))
    if lost.kind is not NodeKind.DIRECTORY:
        raise refuse(WHAT, LOST, "is not a directory; file systems of ext4 keep what is mended there")
    return Node(
        kind=NodeKind.DIRECTORY, mode=tree.mode, uid=tree.uid, gid=tree.gid, mtime=tree.mtime, xattrs=tree.xattrs,
        children=children,
    )  # fmt: skip


def plan_places(root: Node, shapes: Mapping[int, Shape]) -> dict[int, Place]:
    """Return every inode once, by id of its node, in the order of numbers; the root first.

    In each directory what is no directory comes first. shapes: of files, by id of the node.
    Raises BundleError if ext4 cannot represent the tree.
    """
    top = Place(root, b"", None, ROOT_INODE)
    places = {id(root): top}
    pending = [top]
    while pending:
        directory = pending.pop()
        children = directory.node.children
        ordered = sorted(children, key=lambda name: (children[name].kind is NodeKind.DIRECTORY, name))
        below = []
        for name in ordered:
            place = places.get(id(children[name]))
            if place is not None:
                _link_again(place)
                continue
            place = Place(children[name], name, directory, FIRST_INODE - 1 + len(places))
            places[id(children[name])] = place
            if place.node.kind is NodeKind.DIRECTORY:
                below.append(place)
        directory.names = (b".", b"..", *sorted(children))
        directory.links = 2 + len(below)
        if directory.links > records.MAX_LINKS:
            directory.links = 1  # dir_nlink: too many to be counted
        pending.extend(reversed(below))
    for place in places.values():
        try:
            _measure(place, shapes)
        except FormatError as error:
            raise refuse(WHAT, place.find_path(), f"cannot be represented: {error.why}") from error
    return places


def digest_places(places: Mapping[int, Place], blocks: int) -> bytes:
    """Return the digest of everything that a file system of so many blocks shows, 32 bytes."""
    found = hashlib.sha256(_DOMAIN)
    _fold(found, blocks, len(places))
    for place in places.values():
        node = place.node
        _fold(
            found, place.number, node.kind, node.mode, node.uid, node.gid, node.mtime, place.size, place.links
        )
        _fold(found, node.rdev, node.target, place.shape.digest, len(node.xattrs), len(node.children))
        for name, value in sorted(node.xattrs.items()):
            _fold(found, name, value)
        for name in sorted(node.children):
            _fold(found, name, places[id(node.children[name])].number)
    return found.digest()


def _fold(found: hashlib._Hash, *parts: bytes | int) -> None:
    for part in parts:
        text = part if isinstance(part, bytes) else b"%d" % part
        found.update(b"%d:" % len(text) + text)


def _link_again(place: Place) -> None:
    place.link_again()
    if place.links > records.MAX_LINKS:
        raise refuse(WHAT, place.find_path(), f"has more than {records.MAX_LINKS} names")


def _measure(place: Place, shapes: Mapping[int, Shape]) -> None:
    """Fill in sizes and runs. Raises FormatError or BundleError if the node cannot be represented."""
    node = place.node
    place.require_mode()
    place.inside, place.outside = split_xattrs(node.xattrs)
    match node.kind:
        case NodeKind.FILE:
            place.size = node.size
            place.shape = shapes.get(id(node), EMPTY)
        case NodeKind.SYMLINK:
            place.size = len(node.target)
            place.require_target()
            if place.size >= INLINE_SIZE:
                place.shape = Shape(((0, 1),), EMPTY.digest)
        case NodeKind.DIRECTORY:
            place.require_names(records.MAX_NAME)
            blocks = len(records.split_directory(place.names))
            place.size = blocks * BLOCK_SIZE
            place.shape = Shape(((0, blocks),), EMPTY.digest)
        case _:
            pass
