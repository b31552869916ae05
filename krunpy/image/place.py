"""What any file system that is written here asks of an inode: a path for messages, and what Linux can hold."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING, Self

from krunpy.formats.erofs import FileType
from krunpy.image.tree import Node, NodeKind, refuse

if TYPE_CHECKING:
    from collections.abc import Mapping

WHAT = "the root file system"
TARGET_MAX = 4095  # bytes, of a symlink
# the type in a directory entry, and that in the mode; the first are the same in ext4 and erofs
TYPES = {
    NodeKind.FILE: (FileType.FILE, stat.S_IFREG),
    NodeKind.DIRECTORY: (FileType.DIRECTORY, stat.S_IFDIR),
    NodeKind.SYMLINK: (FileType.SYMLINK, stat.S_IFLNK),
    NodeKind.CHAR: (FileType.CHAR, stat.S_IFCHR),
    NodeKind.BLOCK: (FileType.BLOCK, stat.S_IFBLK),
    NodeKind.FIFO: (FileType.FIFO, stat.S_IFIFO),
    NodeKind.SOCKET: (FileType.SOCKET, stat.S_IFSOCK),
}


class Named:
    """An inode by the first of its names. Hard links share it.

    name, parent: of the first name in the walk; the root is its own parent.
    links:        names so far.
    """

    __slots__ = ("links", "name", "node", "parent")

    def __init__(self, node: Node, name: bytes, parent: Self | None) -> None:
        self.node = node
        self.name = name
        self.parent: Self = self if parent is None else parent
        self.links = 1

    def find_path(self) -> bytes:
        """Return the path of the first name, without a leading slash."""
        parts = []
        place = self
        while place.parent is not place:
            parts.append(place.name)
            place = place.parent
        return b"/".join(reversed(parts))

    def find_entry(self, name: bytes, places: Mapping[int, Self]) -> Self:
        """Return what a name in this directory stands for, "." and ".." among them. places: by id of the node."""
        if name == b".":
            return self
        return self.parent if name == b".." else places[id(self.node.children[name])]

    def link_again(self) -> None:
        """Count one more name. Raises BundleError for a directory."""
        if self.node.kind is NodeKind.DIRECTORY:
            raise refuse(WHAT, self.find_path(), "is a directory with a second name")
        self.links += 1

    def require_mode(self) -> None:
        """Raise BundleError unless the mode is of 12 bits."""
        if not 0 <= self.node.mode <= 0o7777:  # noqa: PLR2004 - 12 bits
            raise refuse(WHAT, self.find_path(), f"has the mode {self.node.mode:o}, wanted 12 bits")

    def require_target(self) -> None:
        """Raise BundleError unless a symlink's target is one that Linux can hold."""
        target = self.node.target
        if not 1 <= len(target) <= TARGET_MAX or b"\0" in target:
            raise refuse(WHAT, self.find_path(), "is a symlink whose target Linux cannot hold")

    def require_names(self, longest: int) -> None:
        """Raise BundleError unless every name in a directory is one that a file system can hold. longest: bytes."""
        for name in self.node.children:
            if not name or name in (b".", b"..") or len(name) > longest or b"/" in name or b"\0" in name:
                path = self.find_path() + b"/" + name
                raise refuse(WHAT, path.lstrip(b"/"), "has a name that no file system can hold")
