"""Put the layers of an image on one another, as metadata only.

The rules are those of the OCI image specification (layer.md); where it is silent, those of containers-storage
with the overlay driver, so that the tree is the one podman mounts:
- whiteouts hide only what lower layers hold, wherever they stand in their own layer; a character device 0:0
  is a whiteout too, as overlayfs has it;
- a directory that a layer needs but does not name is root:root 0755 and has no time, even if a lower layer says
  otherwise;
- on the way to an entry, a symlink of the same layer is followed, inside the image, at most 40 times; a
  symlink or file of a lower layer is replaced by a directory;
- the last hard link to an inode says its owner, mode and time, within one layer;
- a hard link may lead to a file of a lower layer (containers-storage refuses that).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from krunpy.image import limits, tarstream
from krunpy.image.normal import normalise_tree
from krunpy.image.tree import MAX_SYMLINKS, Node, NodeKind, refuse

if TYPE_CHECKING:
    from collections.abc import Iterable

    from krunpy.core.errors import BundleError
    from krunpy.image.limits import Limits
    from krunpy.image.tarstream import Entry

WHAT = "a layer"
WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"
ENGINE_NOTES = b".wh..wh."  # what aufs left in old images
MAJOR_MAX = (1 << 12) - 1
MINOR_MAX = (1 << 20) - 1
STEPS_MAX = 10_000_000  # components walked because of symlinks, in one image
KINDS = {
    tarstream.FILE: NodeKind.FILE,
    tarstream.LINK: NodeKind.FILE,
    tarstream.SYMLINK: NodeKind.SYMLINK,
    tarstream.CHAR: NodeKind.CHAR,
    tarstream.BLOCK: NodeKind.BLOCK,
    tarstream.DIRECTORY: NodeKind.DIRECTORY,
    tarstream.FIFO: NodeKind.FIFO,
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a node came from: the layer's number and, for a file, its data in that layer's tar.

    ranges: of a sparse file, (offset in the file, bytes), stored one after the other from `start`.
    """

    layer: int
    start: int = 0
    ranges: tuple[tuple[int, int], ...] | None = None


class LayerStack:
    """The tree of the layers applied so far, lowest first. `root` is normalised by finish()."""

    def __init__(self, bounds: Limits) -> None:
        self.root = Node(kind=NodeKind.DIRECTORY, mode=0o755, content=Place(-1))
        self._bounds = bounds
        self._here = Place(-1)
        self._steps = 0

    def apply(self, number: int, entries: Iterable[Entry]) -> None:
        """Put one layer on top. Raises BundleError for an entry that cannot be."""
        self._here = Place(number)
        additions: list[tuple[list[bytes], Entry | Node]] = []
        whiteouts: list[list[bytes]] = []
        for entry in entries:
            names = self._split(entry.name)
            if names and (names[-1].startswith(WHITEOUT) or _is_overlay_whiteout(entry)):
                whiteouts.extend(_hidden(names, entry))
            elif entry.kind == tarstream.LINK:
                additions.append((names, entry))
            else:
                additions.append((names, self._make_node(entry)))
        for names in whiteouts:
            self._hide(names)
        for names, addition in additions:
            self._add(names, addition)

    def finish(self) -> Node:
        """Return the tree, normalised."""
        normalise_tree(self.root)
        return self.root

    def _split(self, path: bytes) -> list[bytes]:
        """Return the components of an entry's name; none for the root directory."""
        if len(path) > limits.PATH_MAX:
            raise refuse(WHAT, path, f"is a name of {len(path)} bytes, at most {limits.PATH_MAX} are allowed")
        names = [name for name in path.split(b"/") if name not in (b"", b".")]
        if b".." in names:
            raise refuse(WHAT, path, "leads out of its directory with '..'")
        for name in names:
            limits.require_name(name, path)
        return names

    def _make_node(self, entry: Entry) -> Node:
        kind = KINDS[entry.kind]
        for what, value in (("owner", entry.uid), ("group", entry.gid)):
            if not 0 <= value <= limits.ID_MAX:
                raise refuse(WHAT, entry.name, f"has {what} {value}, wanted 0 to {limits.ID_MAX}")
        xattrs = {name: value for name, value in entry.xattrs.items() if limits.is_kept_xattr(name)}
        limits.require_xattrs(xattrs, entry.name)
        node = Node(
            kind=kind, mode=entry.mode, uid=entry.uid, gid=entry.gid, xattrs=xattrs, content=self._here
        )
        if kind in (NodeKind.FILE, NodeKind.SYMLINK, NodeKind.DIRECTORY):
            node.mtime = limits.clamp_mtime(entry.mtime)
        if kind is NodeKind.FILE:
            node.size = entry.size
            node.content = Place(self._here.layer, entry.start, entry.ranges)
        elif kind is NodeKind.SYMLINK:
            node.mode = 0o777
            node.target = _require_target(entry)
        elif kind in (NodeKind.CHAR, NodeKind.BLOCK):
            node.rdev = _device(entry)
        return node

    def _add(self, names: list[bytes], addition: Entry | Node) -> None:
        path = b"/".join(names)
        if not names:
            if not isinstance(addition, Node) or addition.kind is not NodeKind.DIRECTORY:
                raise refuse(WHAT, b"", "is not a directory")
            return
        parent = self._parent(names[:-1], path)
        node = addition if isinstance(addition, Node) else self._linked(addition)
        existing = parent.children.get(names[-1])
        if existing is not None and existing.kind is node.kind is NodeKind.DIRECTORY:
            existing.mode, existing.uid, existing.gid = node.mode, node.uid, node.gid
            existing.xattrs, existing.content, existing.mtime = node.xattrs, node.content, node.mtime
        else:
            parent.children[names[-1]] = node

    def _parent(self, names: list[bytes], path: bytes) -> Node:
        """Return the directory for an entry; make what is missing."""
        stack = [self.root]
        hops = [MAX_SYMLINKS]
        for name in names:
            node = stack[-1].children.get(name)
            if node is not None and node.kind is NodeKind.DIRECTORY:
                if node.content.layer != self._here.layer:
                    node.mode, node.uid, node.gid = 0o755, 0, 0
                    node.xattrs, node.content, node.mtime = {}, self._here, 0
                stack.append(node)
            elif node is None or node.content.layer != self._here.layer:
                made = Node(kind=NodeKind.DIRECTORY, mode=0o755, content=self._here)
                stack[-1].children[name] = made
                stack.append(made)
            elif node.kind is NodeKind.SYMLINK:
                stack = self._follow(stack, node, hops, path)
            else:
                raise refuse(WHAT, path, "is below a name that is not a directory")
        self._require_depth(len(stack), path)
        return stack[-1]

    def _require_depth(self, depth: int, path: bytes) -> None:
        if depth > self._bounds.depth:
            raise refuse(WHAT, path, f"is {depth} levels deep, at most {self._bounds.depth} are allowed")

    def _linked(self, entry: Entry) -> Node:
        """Return the inode that a hard link leads to."""
        names = self._split(entry.link)
        stack = [self.root]
        hops = [MAX_SYMLINKS]
        for name in names[:-1]:
            node = stack[-1].children.get(name)
            if node is not None and node.kind is NodeKind.SYMLINK:
                stack = self._follow(stack, node, hops, entry.name)
            elif node is not None:
                stack.append(node)
            else:
                break
        node = stack[-1].children.get(names[-1]) if names else self.root
        link = entry.link.decode(errors="backslashreplace")[:200]
        if node is None:
            raise refuse(WHAT, entry.name, f"is a hard link to {link!r}, which is not there")
        if node.kind is NodeKind.DIRECTORY:
            raise refuse(WHAT, entry.name, f"is a hard link to {link!r}, which is a directory")
        if node.content.layer == self._here.layer:
            _take_attributes(node, self._make_node(entry))
        return node

    def _follow(self, stack: list[Node], link: Node, hops: list[int], path: bytes) -> list[Node]:
        """Return the directories from the root to where a symlink in the last of `stack` leads.

        hops: how many symlinks may still be followed, counted down in place.
        """
        hops[0] -= 1
        if hops[0] < 0:
            raise refuse(WHAT, path, f"leads through more than {MAX_SYMLINKS} symlinks")
        names = link.target.split(b"/")
        self._steps += len(names)
        if self._steps > STEPS_MAX:
            raise refuse(WHAT, path, f"brings the steps through symlinks to more than {STEPS_MAX}")
        found = stack[:1] if link.target.startswith(b"/") else list(stack)
        for name in names:
            if name in (b"", b"."):
                continue
            if name == b"..":
                found = found[:-1] or found
                continue
            node = found[-1].children.get(name)
            if node is not None and node.kind is NodeKind.SYMLINK:
                found = self._follow(found, node, hops, path)
            elif node is not None and node.kind is NodeKind.DIRECTORY:
                found.append(node)
            else:
                raise refuse(WHAT, path, "leads through a symlink to no directory")
        return found

    def _hide(self, names: list[bytes]) -> None:
        """Take a name of a lower layer away, or all names of a directory if the last is OPAQUE."""
        directory = self.root
        for name in names[:-1]:
            child = directory.children.get(name)
            if child is None or child.kind is not NodeKind.DIRECTORY:
                return
            directory = child
        if names[-1] == OPAQUE:
            directory.children = {}
        else:
            directory.children.pop(names[-1], None)


def _is_overlay_whiteout(entry: Entry) -> bool:
    return entry.kind == tarstream.CHAR and entry.major == 0 and entry.minor == 0


def _hidden(names: list[bytes], entry: Entry) -> list[list[bytes]]:
    """Return what a whiteout hides: names, or OPAQUE as the last component."""
    last = names[-1]
    if last == OPAQUE or not last.startswith(WHITEOUT):
        return [names]
    if last.startswith(ENGINE_NOTES):
        return []
    hidden = last[len(WHITEOUT) :]
    if hidden in (b"", b".", b".."):
        raise refuse(WHAT, entry.name, "is a whiteout of no name")
    return [[*names[:-1], hidden]]


def _take_attributes(node: Node, link: Node) -> None:
    """Give an inode what a further hard link says of it; xattrs are added, as the engines do."""
    node.uid, node.gid = link.uid, link.gid
    if node.kind is not NodeKind.SYMLINK:
        node.mode = link.mode
    if node.kind in (NodeKind.FILE, NodeKind.SYMLINK):
        node.mtime = link.mtime
    node.xattrs = {**node.xattrs, **link.xattrs}


def _require_target(entry: Entry) -> bytes:
    if not 0 < len(entry.link) < limits.PATH_MAX:
        why = f"is a symlink with a target of {len(entry.link)} bytes, wanted 1 to {limits.PATH_MAX - 1}"
        raise refuse(WHAT, entry.name, why)
    return entry.link


def _device(entry: Entry) -> int:
    if not (0 <= entry.major <= MAJOR_MAX and 0 <= entry.minor <= MINOR_MAX):
        raise _bad_device(entry)
    return os.makedev(entry.major, entry.minor)


def _bad_device(entry: Entry) -> BundleError:
    why = f"is device {entry.major}:{entry.minor}, wanted at most {MAJOR_MAX}:{MINOR_MAX}"
    return refuse(WHAT, entry.name, why)
