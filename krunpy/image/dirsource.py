"""A root filesystem directory as a source: read through descriptors, and refused if it changes meanwhile."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from krunpy.core.errors import BundleError
from krunpy.image import dirwalk
from krunpy.image.limits import DEFAULT_LIMITS, Limits
from krunpy.image.tree import CHUNK_SIZE, Node, NodeKind, refuse, walk_tree
from krunpy.oci.manifest import ImageConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

WHAT = "the root file system"
OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class DirectorySource:
    """The files below one directory, which is held open.

    now_ns: a clock, nanoseconds since 1970, only for `racy`.
    """

    def __init__(self, path: str, *, now_ns: Callable[[], int], bounds: Limits = DEFAULT_LIMITS) -> None:
        self.config = ImageConfig()
        self._path = path
        self._bounds = bounds
        self._now_ns = now_ns
        self._started_ns = now_ns()
        self._snapshot: dirwalk.Snapshot | None = None
        self._root = dirwalk.open_directory(path)

    @property
    def tree(self) -> Node:
        """Return the root directory. The first use walks it."""
        if self._snapshot is None or self._snapshot.tree is None:
            before = self._snapshot
            self._started_ns = self._now_ns()
            self._snapshot = dirwalk.take_snapshot(self._root, with_tree=True, bounds=self._bounds)
            if before is not None and before.fingerprint != self._snapshot.fingerprint:
                raise self._changed()
        tree = self._snapshot.tree
        assert tree is not None
        return tree

    def fingerprint(self) -> str:
        """Return the fingerprint of the directory's metadata; see dirwalk."""
        return self._walked().fingerprint

    @property
    def racy(self) -> bool:
        """Say whether a file changed less than two seconds before the walk."""
        newest_ns = self._walked().newest_ns
        return newest_ns > self._started_ns - dirwalk.RACY_NS

    def _walked(self) -> dirwalk.Snapshot:
        if self._snapshot is None:
            self._started_ns = self._now_ns()
            self._snapshot = dirwalk.take_snapshot(self._root, with_tree=False, bounds=self._bounds)
        return self._snapshot

    def stream(self) -> Iterator[tuple[Node, int, bytes | memoryview]]:
        """Yield (file, offset, bytes) for every distinct file, a directory at a time."""
        yield from _stream_directory(self._root, self.tree, b"", set())

    def read_file(self, node: Node, limit: int) -> bytes:
        """Return a file's contents. Raises BundleError if it is longer than `limit` bytes, or changed."""
        path = next((path for path, each in walk_tree(self.tree) if each is node), None)
        if path is None or node.kind is not NodeKind.FILE:
            msg = "the node is not a file of this source"
            raise ValueError(msg)
        if node.size > limit:
            raise refuse(WHAT, path, f"is {node.size} bytes, at most {limit} are allowed")
        contents = bytearray(node.size)
        for offset, chunk in _read_below(self._root, path.split(b"/"), node, path):
            contents[offset : offset + len(chunk)] = chunk
        return bytes(contents)

    def finish(self) -> None:
        """Walk the directory again. Raises BundleError if anything changed since the first walk."""
        again = dirwalk.take_snapshot(self._root, with_tree=False, bounds=self._bounds)
        if again.fingerprint != self.fingerprint():
            raise self._changed()

    def _changed(self) -> BundleError:
        why = "the source changed while it was read"
        return BundleError(
            f"cannot read {WHAT} {self._path}", why=why, next="stop what writes to it, then try again"
        )

    def close(self) -> None:
        """Close the directory."""
        if self._root >= 0:
            os.close(self._root)
            self._root = -1


def _stream_directory(
    descriptor: int, directory: Node, prefix: bytes, seen: set[int]
) -> Iterator[tuple[Node, int, bytes | memoryview]]:
    """Yield the files of one directory and those below. seen: ids of hard-linked files already given."""
    below: list[tuple[bytes, Node]] = []
    for name, node in directory.children.items():
        if node.kind is NodeKind.DIRECTORY:
            if node.children:
                below.append((name, node))
        elif node.size and id(node) not in seen:
            seen.add(id(node))
            for offset, chunk in _read_at(descriptor, name, node, prefix + name):
                yield node, offset, chunk
    for name, node in below:
        path = prefix + name
        try:
            child = os.open(name, dirwalk.OPEN_DIRECTORY, dir_fd=descriptor)
        except OSError as error:
            raise failed(path, error) from error
        try:
            yield from _stream_directory(child, node, path + b"/", seen)
        finally:
            os.close(child)


def _read_below(descriptor: int, names: list[bytes], node: Node, path: bytes) -> Iterator[tuple[int, bytes]]:
    if len(names) == 1:
        yield from _read_at(descriptor, names[0], node, path)
        return
    try:
        child = os.open(names[0], dirwalk.OPEN_DIRECTORY, dir_fd=descriptor)
    except OSError as error:
        raise failed(path, error) from error
    try:
        yield from _read_below(child, names[1:], node, path)
    finally:
        os.close(child)


def _read_at(directory: int, name: bytes, node: Node, path: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, bytes) of one file, and require that it is the one that was walked, before and after."""
    state: dirwalk.FileState = node.content
    try:
        descriptor = os.open(name, OPEN_FILE, dir_fd=directory)
    except OSError as error:
        raise failed(path, error) from error
    try:
        if not state.agrees(os.fstat(descriptor)):
            raise refuse(WHAT, path, "changed while it was read")
        for start, end in _data_ranges(descriptor, state):
            offset = start
            while offset < end:
                chunk = os.pread(descriptor, min(end - offset, CHUNK_SIZE), offset)
                if not chunk:
                    raise refuse(WHAT, path, "changed while it was read: it became shorter")
                yield offset, chunk
                offset += len(chunk)
        if not state.agrees(os.fstat(descriptor)):
            raise refuse(WHAT, path, "changed while it was read")
    except OSError as error:
        raise failed(path, error) from error
    finally:
        os.close(descriptor)


def _data_ranges(descriptor: int, state: dirwalk.FileState) -> Iterator[tuple[int, int]]:
    """Yield the [start, end) of a file that are not holes."""
    if not state.is_sparse:
        yield 0, state.size
        return
    end = 0
    while end < state.size:
        try:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                return
            if error.errno != errno.EINVAL:
                raise
            yield end, state.size  # the file system does not tell
            return
        end = min(os.lseek(descriptor, start, os.SEEK_HOLE), state.size)
        yield start, end


def failed(path: bytes, error: OSError) -> BundleError:
    """Return the error for a file that could be walked, but not be opened or read."""
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ESTALE, errno.ENXIO):
        return refuse(WHAT, path, f"changed while it was read: {dirwalk.changed(error)}")
    return refuse(WHAT, path, f"cannot be read: {dirwalk.changed(error)}")
