"""Lay a tree out as an erofs file system: where every inode, directory and file lies, before data is read.

The order is that of a sorted walk, so that one tree gives one layout. Metadata and directories come first,
then the files, each at its own block: their contents may arrive in any order. Nothing is compressed, and the
tails of files are not packed into the metadata. This module holds no file contents and writes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from krunpy.core.errors import FormatError
from krunpy.formats import erofs
from krunpy.formats.device import encode_device
from krunpy.formats.erofs import BLOCK_SIZE, INODE_SIZE, SLOT_SIZE, Inode
from krunpy.image.place import TYPES, WHAT, Named
from krunpy.image.tree import Node, NodeKind, refuse

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from krunpy.formats.erofs import FileType

META_BLOCK = 1
FIRST_SLOT = 2  # number 0 would show as inode 0, which programs take for a deleted name
CHUNK_SIZE = 1024 * 1024  # bytes


class Place(Named):
    """Where one inode lies. Hard links share a place.

    names:        of a directory, sorted, "." and ".." among them; else empty.
    slot:         the inode's number (nid).
    size:         i_size in bytes.
    blocks:       how many whole blocks the data has outside the metadata, 0 if it is inline or empty.
    block:        the first of them.
    given:        bytes of a file that its source has given so far; `krunpy.image.contents` counts here.
    """

    __slots__ = ("block", "blocks", "given", "is_inline", "names", "size", "slot", "xattr_size")

    def __init__(self, node: Node, name: bytes, parent: Place | None) -> None:
        super().__init__(node, name, parent)
        self.names: Sequence[bytes] = ()
        self.slot = 0
        self.block = 0
        self.blocks = 0
        self.given = 0
        self.size = 0
        self.xattr_size = 0
        self.is_inline = False


class Layout:
    """An erofs file system that is planned but not written.

    places:     every inode once, in the order of the walk; the root first.
    data_block: the first block of file contents; everything before it is metadata.
    blocks:     all blocks, metadata included.
    """

    def __init__(self, root: Node) -> None:
        """Plan the file system of a tree. Raises BundleError if erofs cannot represent it."""
        self._by_node: dict[int, Place] = {}
        self.places: list[Place] = []
        self._walk(root)
        self._metadata_end = self._assign_slots()
        self.data_block, self.blocks = self._assign_blocks()

    def find_place(self, node: Node) -> Place:
        """Return where a node of the tree lies. Raises KeyError for a node that is not in it."""
        return self._by_node[id(node)]

    def list_files(self) -> Iterator[Place]:
        """Yield the places of regular files that have contents, in the order of their blocks."""
        return (place for place in self.places if place.blocks and place.node.kind is NodeKind.FILE)

    def pack_metadata(self) -> Iterator[bytes]:
        """Yield blocks 0 to data_block, in order: whole blocks, about CHUNK_SIZE bytes at a time."""
        buffer = bytearray(
            erofs.pack_superblock(
                root_nid=FIRST_SLOT, inodes=len(self.places), blocks=self.blocks, meta_block=META_BLOCK
            )
        )
        written = 0
        for number, place in enumerate(self.places, start=1):
            _pad(buffer, META_BLOCK * BLOCK_SIZE + place.slot * SLOT_SIZE - written)
            buffer += self._pack_inode(place, number)
            if len(buffer) >= CHUNK_SIZE:
                written += yield from _take_blocks(buffer)
        _pad(buffer, self._metadata_end * BLOCK_SIZE - written)
        for place in self.places:
            if place.blocks and place.node.kind is not NodeKind.FILE:
                buffer += self._pack_data(place)
                _pad(buffer, -(-len(buffer) // BLOCK_SIZE) * BLOCK_SIZE)
                if len(buffer) >= CHUNK_SIZE:
                    written += yield from _take_blocks(buffer)
        yield from _take_blocks(buffer)

    def _walk(self, root: Node) -> None:
        pending: list[tuple[Node, bytes, Place | None]] = [(root, b"", None)]
        while pending:
            node, name, parent = pending.pop()
            known = self._by_node.get(id(node))
            if known is not None:
                known.link_again()
                continue
            place = Place(node, name, parent)
            _measure(place)
            self._by_node[id(node)] = place
            self.places.append(place)
            if node.kind is NodeKind.DIRECTORY:
                children = [
                    (node.children[child], child, place) for child in place.names if child in node.children
                ]
                place.links = 2 + sum(child.kind is NodeKind.DIRECTORY for child, _, _ in children)
                pending.extend(reversed(children))

    def _assign_slots(self) -> int:
        position = FIRST_SLOT * SLOT_SIZE
        for place in self.places:
            extent = INODE_SIZE + place.xattr_size + (place.size if place.is_inline else 0)
            if position % BLOCK_SIZE + extent > BLOCK_SIZE:
                position += -position % BLOCK_SIZE
            place.slot = position // SLOT_SIZE
            position += -(-extent // SLOT_SIZE) * SLOT_SIZE
        return META_BLOCK + -(-position // BLOCK_SIZE)

    def _assign_blocks(self) -> tuple[int, int]:
        block = self._metadata_end
        data_block = block
        for is_file in (False, True):
            for place in self.places:
                if place.blocks and (place.node.kind is NodeKind.FILE) is is_file:
                    place.block = block
                    block += place.blocks
            if not is_file:
                data_block = block
        if block > erofs.MAX_BLOCKS:
            raise refuse(
                WHAT, b"", f"needs {block} blocks of 4096 bytes, at most {erofs.MAX_BLOCKS} can be addressed"
            )
        return data_block, block

    def _pack_inode(self, place: Place, number: int) -> bytes:
        node = place.node
        location = place.block
        try:
            if node.kind in (NodeKind.CHAR, NodeKind.BLOCK):
                location = encode_device(node.rdev)
            packed = erofs.pack_inode(
                Inode(
                    number=number,
                    mode=TYPES[node.kind][1] | node.mode,
                    links=place.links,
                    size=place.size,
                    location=location,
                    uid=node.uid,
                    gid=node.gid,
                    mtime=node.mtime,
                    is_inline=place.is_inline,
                    xattr_size=place.xattr_size,
                )
            )
        except FormatError as error:
            raise refuse(WHAT, place.find_path(), f"cannot be represented: {error.why}") from error
        tail = self._pack_data(place) if place.is_inline else b""
        return packed + erofs.pack_xattrs(node.xattrs) + tail

    def _pack_data(self, place: Place) -> bytes:
        """Return the data of a symlink or directory; the blocks of a directory are padded."""
        if place.node.kind is NodeKind.SYMLINK:
            return place.node.target
        blocks = []
        for first, last, _ in erofs.split_directory(place.names):
            entries = [self._find_entry(place, name) for name in place.names[first:last]]
            blocks.append(erofs.pack_directory_block(entries))
        return b"".join(block.ljust(BLOCK_SIZE, b"\0") for block in blocks)

    def _find_entry(self, place: Place, name: bytes) -> tuple[bytes, int, FileType]:
        target = place.find_entry(name, self._by_node)
        return name, target.slot, TYPES[target.node.kind][0]


def _measure(place: Place) -> None:
    """Fill in the sizes of a place. Raises BundleError if the node cannot be represented."""
    node = place.node
    try:
        place.xattr_size = len(erofs.pack_xattrs(node.xattrs))
    except FormatError as error:
        raise refuse(WHAT, place.find_path(), f"cannot be represented: {error.why}") from error
    place.require_mode()
    room = BLOCK_SIZE - INODE_SIZE - place.xattr_size
    match node.kind:
        case NodeKind.FILE:
            place.size = node.size
        case NodeKind.SYMLINK:
            place.size = len(node.target)
            place.require_target()
            place.is_inline = place.size <= room
        case NodeKind.DIRECTORY:
            place.require_names(erofs.MAX_NAME)
            place.names = sorted((b".", b"..", *node.children))
            # Whole blocks, padded with zeroes: `ls -l` then shows what it shows of the same directory on ext4.
            place.size = sum(1 for _ in erofs.split_directory(place.names)) * BLOCK_SIZE
        case _:
            pass
    place.blocks = 0 if place.is_inline else -(-place.size // BLOCK_SIZE)


def _pad(buffer: bytearray, size: int) -> None:
    buffer += bytes(size - len(buffer))


def _take_blocks(buffer: bytearray) -> Generator[bytes, None, int]:
    size = len(buffer) // BLOCK_SIZE * BLOCK_SIZE
    yield bytes(buffer[:size])
    del buffer[:size]
    return size
