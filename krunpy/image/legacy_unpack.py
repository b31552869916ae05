"""Unpack a root file system from memory to a directory: whole or not at all, never over anything.

Every name is made below the open directory that holds it, so nothing in the image leads out. As root, owners,
devices and all extended attributes are kept; otherwise what is not is counted and said.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from krunpy.core.errors import HostError, UsageError
from krunpy.core.files import write_all
from krunpy.image.tree import Node, NodeKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from krunpy.image.ext4_source import Ext4Source

_DEVICES = {NodeKind.CHAR: stat.S_IFCHR, NodeKind.BLOCK: stat.S_IFBLK, NodeKind.SOCKET: stat.S_IFSOCK}
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_REFUSED = (errno.EPERM, errno.EACCES, errno.EINVAL, errno.EOPNOTSUPP)


@dataclass(slots=True)
class Unpacked:
    """What was made, and what this user or file system could not keep: names of each kind."""

    names: int = 0
    owners_lost: int = 0
    xattrs_lost: int = 0
    devices_lost: int = 0


def unpack(source: Ext4Source, directory: str) -> Unpacked:
    """Write the root file system to a directory that does not exist yet, and say what was kept.

    Raises UsageError if something of that name exists, HostError if it cannot be written, FormatError or BundleError
    if the source cannot be read; then nothing is left behind.
    """
    target = os.path.abspath(directory)
    _require_absent(target)
    draft = f"{target}.{os.urandom(8).hex()}.new"
    try:
        os.mkdir(draft, 0o700)
        try:
            done = _write(source, draft)
            _require_absent(target)
            os.rename(draft, target)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
    except OSError as error:
        raise HostError(f"cannot unpack to {directory}", why=(error.strerror or "error").lower()) from error
    return done


def _require_absent(target: str) -> None:
    if os.path.lexists(target):
        raise UsageError(
            f"cannot unpack to {target}", why="it exists", next="name a directory that does not exist"
        )


def _write(source: Ext4Source, draft: str) -> Unpacked:
    tree = source.read_tree()
    root = os.open(draft, _DIRECTORY)
    try:
        maker = _Maker(root)
        maker.make_names(root, tree, b"")
        for node, offset, piece in source.stream_below(tree):
            maker.write(node, offset, piece)
        maker.close_file()
        source.finish()
        maker.set_directories(root, tree)
    finally:
        os.close(root)
    return maker.done


class _Maker:
    """Makes the names of one tree, then its contents, then what directories say of themselves."""

    def __init__(self, root: int) -> None:
        self.done = Unpacked()
        self._root = root
        self._paths: dict[int, bytes] = {}
        self._node: Node | None = None
        self._file = -1

    def make_names(self, parent: int, directory: Node, prefix: bytes) -> None:
        """Make everything below an open directory; files are empty and have their size."""
        for name, node in directory.children.items():
            path = prefix + name
            self.done.names += 1
            self._make(parent, name, node, path)
            if node.kind is NodeKind.DIRECTORY:
                with _opened(parent, name) as child:
                    self.make_names(child, node, path + b"/")

    def _make(self, parent: int, name: bytes, node: Node, path: bytes) -> None:
        if id(node) in self._paths:
            with self._parent_of(self._paths[id(node)]) as (other, other_name):
                os.link(other_name, name, src_dir_fd=other, dst_dir_fd=parent, follow_symlinks=False)
            return
        if node.kind is NodeKind.DIRECTORY:
            os.mkdir(name, 0o700, dir_fd=parent)
            return
        if not self._make_leaf(parent, name, node):
            self.done.devices_lost += 1
            return
        self._paths[id(node)] = path
        if node.kind is not NodeKind.FILE:
            self._set(parent, name, node)

    def _make_leaf(self, parent: int, name: bytes, node: Node) -> bool:
        if node.kind is NodeKind.FILE:
            descriptor = os.open(name, _NEW_FILE, 0o600, dir_fd=parent)
            os.ftruncate(descriptor, node.size)
            os.close(descriptor)
            if not node.size:
                self._set(parent, name, node)
        elif node.kind is NodeKind.SYMLINK:
            os.symlink(node.target, name, dir_fd=parent)
        elif node.kind is NodeKind.FIFO:
            os.mkfifo(name, 0o600, dir_fd=parent)
        else:
            try:
                os.mknod(name, _DEVICES[node.kind] | 0o600, node.rdev, dir_fd=parent)
            except PermissionError:
                return False
        return True

    def write(self, node: Node, offset: int, piece: bytes | memoryview) -> None:
        """Write a piece of a file. Pieces of one file come together."""
        if node is not self._node:
            self.close_file()
            with self._parent_of(self._paths[id(node)]) as (parent, name):
                self._file = os.open(name, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
            self._node = node
        write_all(self._file, piece, offset)

    def close_file(self) -> None:
        """End the file under way."""
        if self._node is not None:
            os.close(self._file)
            self._node = None

    def set_directories(self, parent: int, directory: Node) -> None:
        """Give files that were written and directories, deepest first, their owner, mode, attributes and time."""
        for name, node in directory.children.items():
            if node.kind is NodeKind.DIRECTORY:
                with _opened(parent, name) as child:
                    self.set_directories(child, node)
            elif node.kind is NodeKind.FILE and node.size:
                self._set(parent, name, node)
        self._set(parent, b".", directory)

    def _set(self, parent: int, name: bytes, node: Node) -> None:
        try:
            os.chown(name, node.uid, node.gid, dir_fd=parent, follow_symlinks=False)
        except PermissionError:
            self.done.owners_lost += 1
        if node.kind is not NodeKind.SYMLINK:
            os.chmod(name, node.mode, dir_fd=parent)
        path = b"/proc/self/fd/%d/%b" % (parent, name)
        for key, value in node.xattrs.items():
            try:
                os.setxattr(path, key, value, follow_symlinks=False)
            except OSError as error:
                if error.errno not in _REFUSED:
                    raise
                self.done.xattrs_lost += 1
        if node.kind in (NodeKind.FILE, NodeKind.SYMLINK, NodeKind.DIRECTORY):
            os.utime(name, (node.mtime, node.mtime), dir_fd=parent, follow_symlinks=False)

    @contextlib.contextmanager
    def _parent_of(self, path: bytes) -> Iterator[tuple[int, bytes]]:
        """Give the open directory that holds a name, and its last component."""
        *above, name = path.split(b"/")
        with contextlib.ExitStack() as stack:
            parent = self._root
            for each in above:
                parent = stack.enter_context(_opened(parent, each))
            yield parent, name


@contextlib.contextmanager
def _opened(parent: int, name: bytes) -> Iterator[int]:
    descriptor = os.open(name, _DIRECTORY, dir_fd=parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def describe_losses(done: Unpacked) -> tuple[str, ...]:
    """Return what was not kept, one sentence each; none if everything was."""
    losses = {
        "owners": done.owners_lost,
        "extended attributes": done.xattrs_lost,
        "devices": done.devices_lost,
    }
    return tuple(f"{count} {what} could not be kept: run as root" for what, count in losses.items() if count)
