"""An image made of layers as a source: indexed in a first pass, streamed in a second, unpacked never.

The first pass checks every layer's digest, as it is stored and uncompressed; the second checks again, because
the files lie where others may write.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from krunpy.core.errors import BundleError, FormatError
from krunpy.image.blob import MAGIC_SIZE, ChunkReader, Meter, Region, find_compression, gunzip
from krunpy.image.layers import LayerStack, Place
from krunpy.image.limits import DEFAULT_LIMITS, Limits
from krunpy.image.tarstream import read_entries
from krunpy.image.tree import CHUNK_SIZE, Node, NodeKind, walk_tree
from krunpy.image.zstd import unzstd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from krunpy.image.tarstream import Entry
    from krunpy.oci.manifest import ImageConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer. digest: of the stored bytes, "" if nothing says it; diff_id: of the uncompressed tar."""

    region: Region
    digest: str
    diff_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """Data of a file in the tar of its layer: `size` bytes at `start`, for `offset` in the file."""

    start: int
    size: int
    offset: int
    node: Node


class LayeredSource:
    """An image whose layers lie in open files.

    digest: of the image, "sha256:...".
    """

    racy = False  # a digest of contents does not depend on clocks

    def __init__(
        self,
        layers: tuple[Layer, ...],
        config: ImageConfig,
        *,
        digest: str,
        bounds: Limits = DEFAULT_LIMITS,
    ) -> None:
        self.config = config
        self._layers = layers
        self._digest = digest
        self._closers: list[Callable[[], None]] = []
        self._bounds = bounds
        self._tree: Node | None = None
        self._states = {layer.region.descriptor: _state(layer.region.descriptor) for layer in layers}

    @property
    def tree(self) -> Node:
        """Return the root directory. The first use reads and checks all layers."""
        if self._tree is None:
            meter = Meter(self._bounds)
            stack = LayerStack(self._bounds)
            for number, layer in enumerate(self._layers):
                _index_layer(stack, number, layer, meter)
            self._tree = stack.finish()
        return self._tree

    def stream(self) -> Iterator[tuple[Node, int, bytes | memoryview]]:
        """Yield (file, offset, bytes) for every distinct file, in the order of the layers."""
        extents: list[list[Extent]] = [[] for _ in self._layers]
        seen: set[int] = set()
        for _, node in walk_tree(self.tree):
            if node.kind is NodeKind.FILE and node.size and id(node) not in seen:
                seen.add(id(node))
                extents[node.content.layer].extend(_extents(node))
        del seen
        for layer, wanted in zip(self._layers, extents, strict=True):
            if wanted:
                wanted.sort(key=_start)
                yield from _stream_layer(layer, wanted, Meter(self._bounds))

    def read_file(self, node: Node, limit: int) -> bytes:
        """Return a file's contents. Raises BundleError if it is longer than `limit` bytes."""
        if node.size > limit:
            raise BundleError(
                "cannot read a file of the image", why=f"it is {node.size} bytes, at most {limit} are allowed"
            )
        contents = bytearray(node.size)
        extents = _extents(node)
        missing = sum(extent.size for extent in extents)
        if not missing:
            return bytes(contents)
        for _, offset, chunk in _stream_layer(self._layers[node.content.layer], extents, Meter(self._bounds)):
            contents[offset : offset + len(chunk)] = chunk
            missing -= len(chunk)
            if not missing:
                break
        return bytes(contents)

    def finish(self) -> None:
        """Raise BundleError if one of the files that hold the layers changed since it was opened."""
        for descriptor, state in self._states.items():
            if _state(descriptor) != state:
                raise BundleError("cannot read the image", why="the source changed while it was read")

    def fingerprint(self) -> str:
        """Return the digest of the image's manifest or configuration, hex."""
        return self._digest.partition(":")[2]

    def add_closer(self, close: Callable[[], None]) -> None:
        """Have something called by close(), last first."""
        self._closers.append(close)

    def close(self) -> None:
        """Close the files."""
        while self._closers:
            self._closers.pop()()


def _state(descriptor: int) -> tuple[int, int, int]:
    status = os.fstat(descriptor)
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _start(extent: Extent) -> int:
    return extent.start


def _extents(node: Node) -> list[Extent]:
    place: Place = node.content
    if place.ranges is None:
        return [Extent(start=place.start, size=node.size, offset=0, node=node)] if node.size else []
    found = []
    start = place.start
    for offset, size in place.ranges:
        found.append(Extent(start=start, size=size, offset=offset, node=node))
        start += size
    return found


def _index_layer(stack: LayerStack, number: int, layer: Layer, meter: Meter) -> None:
    try:
        reader = ChunkReader(_read_layer(layer, meter, is_first=True))
        stack.apply(number, _bounded(read_entries(reader, meter.count_entry), meter))
        reader.drain()
    except FormatError as error:
        _require_stored(layer)
        raise FormatError(f"cannot read {layer.region.name}", why=f"{error.what}: {error.why}") from error
    except BundleError:
        _require_stored(layer)
        raise


def _require_stored(layer: Layer) -> None:
    """Raise BundleError if the stored bytes are not what they should be: damage comes before its symptoms."""
    is_plain = not find_compression(layer.region.read(0, MAGIC_SIZE))
    check = _Check(layer.digest or (layer.diff_id if is_plain else ""), layer.region.name)
    for _ in check.pass_on(layer.region.pieces()):
        pass
    check.finish()


def _bounded(entries: Iterator[Entry], meter: Meter) -> Iterator[Entry]:
    """Count what sparse files claim; everything else is counted as bytes of the layer."""
    for entry in entries:
        if entry.ranges is not None:
            meter.count_bytes(entry.size)
            for _ in entry.ranges:
                meter.count_entry()
        yield entry


def _stream_layer(
    layer: Layer, extents: list[Extent], meter: Meter
) -> Iterator[tuple[Node, int, bytes | memoryview]]:
    """Yield the wanted data of one layer. extents: sorted by start, none empty."""
    position = 0  # of the chunk's first byte in the tar
    index = done = 0  # the extent at hand, and how much of it was given
    for chunk in _read_layer(layer, meter, is_first=False):
        end = position + len(chunk)
        view = memoryview(chunk)
        while index < len(extents) and extents[index].start + done < end:
            extent = extents[index]
            begin = extent.start + done - position
            size = min(extent.size - done, len(chunk) - begin)
            yield extent.node, extent.offset + done, view[begin : begin + size]
            done += size
            if done == extent.size:
                index += 1
                done = 0
        position = end


def _read_layer(layer: Layer, meter: Meter, *, is_first: bool) -> Iterator[bytes]:
    """Yield the uncompressed tar of a layer; at its end, check what was read.

    The first time both digests are checked. Later one is enough: that of the stored bytes if it is known.
    """
    name = layer.region.name
    stored = _Check(layer.digest, name)
    unpacked = _Check(layer.diff_id if is_first or not layer.digest else "", name)
    compression = find_compression(layer.region.read(0, MAGIC_SIZE))
    pieces = stored.pass_on(layer.region.pieces(CHUNK_SIZE if not compression else CHUNK_SIZE // 4))
    if stored.wanted == unpacked.wanted and not compression:
        unpacked = _Check("", name)
    before = 0
    for chunk, taken in _uncompress(pieces, compression, name):
        meter.count_bytes(len(chunk))
        meter.count_ratio(len(chunk), taken - before)
        before = taken
        unpacked.update(chunk)
        yield chunk
    stored.finish()
    unpacked.finish()


def _uncompress(pieces: Iterator[bytes], compression: str, name: str) -> Iterator[tuple[bytes, int]]:
    if compression == "gzip":
        return gunzip(pieces)
    if compression == "zstd":
        return unzstd(pieces)
    if compression:
        raise BundleError(
            f"cannot read {name}", why=f"compression: seen {compression}, wanted none, gzip or zstd"
        )
    return _count_plain(pieces)


def _count_plain(pieces: Iterator[bytes]) -> Iterator[tuple[bytes, int]]:
    taken = 0
    for piece in pieces:
        taken += len(piece)
        yield piece, taken


class _Check:
    """Hashes bytes on their way and compares in the end; does nothing if no digest is wanted."""

    def __init__(self, wanted: str, name: str) -> None:
        self.wanted = wanted
        self._name = name
        self._algorithm = wanted.partition(":")[0]
        self._hash = hashlib.new(self._algorithm) if wanted else None

    def update(self, chunk: bytes) -> None:
        """Hash one chunk."""
        if self._hash is not None:
            self._hash.update(chunk)

    def pass_on(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """Yield the pieces, hashed."""
        for piece in pieces:
            self.update(piece)
            yield piece

    def finish(self) -> None:
        """Raise BundleError unless the digest is the wanted one."""
        if self._hash is None:
            return
        seen = f"{self._algorithm}:{self._hash.hexdigest()}"
        if seen != self.wanted:
            raise BundleError(f"cannot read {self._name}", why=f"digest: seen {seen}, wanted {self.wanted}")
