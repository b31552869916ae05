"""Walk a root file system directory once, for its fingerprint and, if asked, for its tree.

Symlinks are never followed: every directory is opened below the one that holds it. No file's data is read.
The fingerprint covers what normal.py keeps: of files also size, mtime, ctime and inode number, so that a
changed file changes it unless the clock did not move, which is why the newest ctime is told as well.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from krunpy.core.errors import BundleError
from krunpy.image import limits, normal
from krunpy.image.tree import Node, NodeKind, refuse

if TYPE_CHECKING:
    from krunpy.image.limits import Limits

DOMAIN = b"krunpy directory fingerprint v2\0"
OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
RACY_NS = 2_000_000_000  # nanoseconds: coarser than any file system's clock
KINDS = {
    stat.S_IFREG: NodeKind.FILE,
    stat.S_IFDIR: NodeKind.DIRECTORY,
    stat.S_IFLNK: NodeKind.SYMLINK,
    stat.S_IFCHR: NodeKind.CHAR,
    stat.S_IFBLK: NodeKind.BLOCK,
    stat.S_IFIFO: NodeKind.FIFO,
    stat.S_IFSOCK: NodeKind.SOCKET,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What one walk saw. `newest_ns` is the latest ctime of a file, nanoseconds since 1970."""

    fingerprint: str
    newest_ns: int
    tree: Node | None


@dataclass(frozen=True, slots=True)
class FileState:
    """What a regular file's stat said when the tree was read; it is compared when the file is."""

    ino: int
    size: int
    mtime_ns: int
    ctime_ns: int
    is_sparse: bool

    def agrees(self, now: os.stat_result) -> bool:
        """Say whether a file still is what it was."""
        seen = (now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns)
        return stat.S_ISREG(now.st_mode) and seen == (self.ino, self.size, self.mtime_ns, self.ctime_ns)


def open_directory(path: str) -> int:
    """Return a descriptor of a directory; the caller closes it. Raises BundleError if it cannot be read."""
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or "not a path"
        raise BundleError(f"cannot read the root file system {path}", why=why.lower()) from error


def fingerprint_directory(path: str, bounds: Limits = limits.DEFAULT_LIMITS) -> str:
    """Return the fingerprint of a root file system directory, hex, without building its tree.

    Raises BundleError if it cannot be walked.
    """
    descriptor = open_directory(path)
    try:
        return take_snapshot(descriptor, with_tree=False, bounds=bounds).fingerprint
    finally:
        os.close(descriptor)


def is_overlay(device: int) -> bool:
    """Say whether a device number (st_dev) is that of an overlay, which is what engines prepare."""
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as stream:
            return any(
                line.split(" ", 3)[2] == number and line.partition(" - ")[2].startswith("overlay ")
                for line in stream
            )
    except OSError:
        return False


def take_snapshot(root: int, *, with_tree: bool, bounds: Limits = limits.DEFAULT_LIMITS) -> Snapshot:
    """Return the fingerprint, and with_tree the normalised tree, of an open directory.

    Raises BundleError for what cannot be read or stored, a mount inside, or too much of anything.
    """
    walk = _Walk(root, bounds=bounds, with_tree=with_tree)
    tree = Node(kind=NodeKind.DIRECTORY, mode=0o755) if with_tree else None
    walk.directory(root, "", 1, tree)
    if tree is not None:
        normal.normalise_tree(tree)
    return Snapshot(fingerprint=walk.hash.hexdigest(), newest_ns=walk.newest_ns, tree=tree)


class _Walk:
    def __init__(self, root: int, *, bounds: Limits, with_tree: bool) -> None:
        self.bounds = bounds
        self.hash = hashlib.sha256(DOMAIN)
        self.newest_ns = 0
        self._device = os.fstat(root).st_dev
        self._is_engines = is_overlay(self._device)
        self._entries = 0
        self._total = 0
        self._with_tree = with_tree
        self._linked: dict[tuple[int, int], Node] = {}

    def directory(self, descriptor: int, prefix: str, depth: int, node: Node | None) -> None:
        """Walk what an open directory holds. prefix: "" or its path with a slash; depth: of its names."""
        try:
            with os.scandir(descriptor) as scan:
                entries = sorted(scan, key=_name)
        except OSError as error:
            raise _failed(prefix, error) from error
        self._require_bounds(prefix, len(entries), depth)
        has_rules = prefix in ("", "etc/", "run/")
        for entry in entries:
            path = prefix + entry.name
            try:
                status = entry.stat(follow_symlinks=False)
                kind = KINDS[stat.S_IFMT(status.st_mode)]
                target = os.readlink(entry.name, dir_fd=descriptor) if kind is NodeKind.SYMLINK else ""
                if has_rules and _is_engines(os.fsencode(path), kind, status.st_size, os.fsencode(target)):
                    continue
                self._entry(descriptor, path, entry.name, depth, (status, kind, target), node)
            except OSError as error:
                raise _failed(path, error) from error

    def _entry(
        self,
        parent: int,
        path: str,
        name: str,
        depth: int,
        seen: tuple[os.stat_result, NodeKind, str],
        node: Node | None,
    ) -> None:
        status, kind, target = seen
        if kind is NodeKind.DIRECTORY:
            self._enter(parent, path, name, depth, status, node)
            return
        self._record(name, status, kind, target)
        if node is not None:
            node.children[os.fsencode(name)] = self._node(parent, path, name, status, kind, target)

    def _record(self, name: str, status: os.stat_result, kind: NodeKind, target: str) -> None:
        """Fold one name that is no directory. Neither names nor targets hold a zero byte: it ends them."""
        common = f"{name}\0{status.st_mode} {status.st_uid} {status.st_gid} "
        if kind is NodeKind.FILE:
            ctime = status.st_ctime_ns
            self.newest_ns = max(self.newest_ns, ctime)
            rest = f"{status.st_size} {status.st_mtime_ns} {ctime} {status.st_ino}\0"
        elif kind is NodeKind.SYMLINK:
            rest = f"{status.st_mtime_ns} {target}\0"
        else:
            rest = f"{status.st_rdev} {status.st_ino}\0"
        self.hash.update((common + rest).encode(errors="surrogateescape"))

    def _enter(
        self, parent: int, path: str, name: str, depth: int, status: os.stat_result, node: Node | None
    ) -> None:
        child = None
        is_kernels = depth == 1 and os.fsencode(name) in normal.KERNEL_DIRECTORIES
        if not is_kernels and status.st_dev != self._device:
            why = "has another file system mounted on it; unmount it, or copy its contents into the source"
            raise refuse("the root file system", os.fsencode(path), why)
        descriptor = os.open(name, OPEN_DIRECTORY, dir_fd=parent)
        try:
            xattrs = read_xattrs(descriptor, os.fsencode(path))
            folded = b"".join(b"%b\0%d %b" % (key, len(xattrs[key]), xattrs[key]) for key in sorted(xattrs))
            is_timeless = depth == 1 and os.fsencode(name) in normal.TIMELESS_DIRECTORIES
            mtime = self._directory_mtime(status, is_timeless=is_timeless)
            head = f"{name}\0{status.st_mode} {status.st_uid} {status.st_gid} {mtime} {len(folded)}\0"
            self.hash.update(head.encode(errors="surrogateescape") + folded)
            if node is not None:
                child = Node(
                    kind=NodeKind.DIRECTORY,
                    mode=stat.S_IMODE(status.st_mode),
                    uid=status.st_uid,
                    gid=status.st_gid,
                    mtime=mtime,
                    xattrs=xattrs,
                )
                node.children[os.fsencode(name)] = child
            if not is_kernels:
                self.directory(descriptor, path + "/", depth + 1, child)
        finally:
            os.close(descriptor)
        self.hash.update(b"/\0")

    def _directory_mtime(self, status: os.stat_result, *, is_timeless: bool) -> int:
        """Return a directory's time in seconds, 0 if it has none that the image it came from would also have.

        What an engine unpacked has the time of its layer's entry, set after the directory was filled. Where there
        was no entry, nothing set a time: the last change of the contents is the last change of the inode.
        """
        was_never_set = self._is_engines and status.st_mtime_ns == status.st_ctime_ns
        if is_timeless or was_never_set:
            return 0
        return limits.clamp_mtime(status.st_mtime_ns // 1_000_000_000)

    def _node(
        self, parent: int, path: str, name: str, status: os.stat_result, kind: NodeKind, target: str
    ) -> Node:
        key = (status.st_dev, status.st_ino)
        if status.st_nlink > 1 and key in self._linked:
            return self._linked[key]
        if kind is NodeKind.CHAR and status.st_rdev == 0:
            why = "is a whiteout of overlayfs; give the merged directory, not one of its layers"
            raise refuse("the root file system", os.fsencode(path), why)
        node = Node(
            kind=kind,
            mode=0o777 if kind is NodeKind.SYMLINK else stat.S_IMODE(status.st_mode),
            uid=status.st_uid,
            gid=status.st_gid,
            target=os.fsencode(target),
            rdev=status.st_rdev if kind in (NodeKind.CHAR, NodeKind.BLOCK) else 0,
            xattrs=read_xattrs(b"/proc/self/fd/%d/%b" % (parent, os.fsencode(name)), os.fsencode(path)),
        )
        if kind in (NodeKind.FILE, NodeKind.SYMLINK):
            node.mtime = limits.clamp_mtime(status.st_mtime_ns // 1_000_000_000)
        if kind is NodeKind.FILE:
            self._add_content(node, path, status)
        if status.st_nlink > 1:
            self._linked[key] = node
        return node

    def _add_content(self, node: Node, path: str, status: os.stat_result) -> None:
        size = node.size = status.st_size
        is_sparse = status.st_blocks * 512 < size
        node.content = FileState(status.st_ino, size, status.st_mtime_ns, status.st_ctime_ns, is_sparse)
        self._total += size
        if self._total > self.bounds.total:
            why = f"brings the files to {self._total} bytes, at most {self.bounds.total} are allowed"
            raise refuse("the root file system", os.fsencode(path), why)

    def _require_bounds(self, prefix: str, count: int, depth: int) -> None:
        self._entries += count
        if self._entries > self.bounds.entries:
            why = f"brings the entries to {self._entries}, at most {self.bounds.entries} are allowed"
            raise refuse("the root file system", os.fsencode(prefix), why)
        if count and depth > self.bounds.depth:
            why = f"is {depth} levels deep, at most {self.bounds.depth} are allowed"
            raise refuse("the root file system", os.fsencode(prefix), why)


def _name(entry: os.DirEntry[str]) -> str:
    return entry.name


def _is_engines(path: bytes, kind: NodeKind, size: int, target: bytes) -> bool:
    if kind is NodeKind.FILE:
        return normal.is_engine_file(path, size)
    return kind is NodeKind.SYMLINK and normal.is_engine_symlink(path, target)


def read_xattrs(place: int | bytes, path: bytes) -> dict[bytes, bytes]:
    """Return the extended attributes to keep of an open file or of a path that is not followed.

    path: the name inside the source, for messages. Raises BundleError if they are too large.
    """
    is_open = isinstance(place, int)
    try:
        names = os.listxattr(place, follow_symlinks=is_open)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return {}
        raise
    if not names:
        return {}
    found = {
        os.fsencode(name): os.getxattr(place, name, follow_symlinks=is_open)
        for name in names
        if limits.is_kept_xattr(os.fsencode(name))
    }
    limits.require_xattrs(found, path)
    return found


def _failed(path: str, error: OSError) -> BundleError:
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE, errno.ENODATA):
        return refuse(
            "the root file system", os.fsencode(path), "changed while it was read: " + changed(error)
        )
    return refuse("the root file system", os.fsencode(path), f"cannot be read: {changed(error)}")


def changed(error: OSError) -> str:
    """Return the system's word for an error in lower case."""
    return (error.strerror or "error").lower()
