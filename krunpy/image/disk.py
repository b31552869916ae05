"""Write the disk: LUKS2 header, encrypted payload, verity superblock, hash tree.

The payload may be written in any order; each block exactly once. It is encrypted in memory before it reaches
the file, and each block's digest goes straight to its place in the tree, so that memory does not grow with
the disk. This module knows nothing of file systems or caches. Source of the layout: docs/protocol.md,
section 1.
"""

from __future__ import annotations

import hashlib
import os
import queue
import threading
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from krunpy.core.files import write_all
from krunpy.core.octets import Digest32
from krunpy.formats import luks2, verity
from krunpy.formats.disk import Disk
from krunpy.image.xts import SectorCipher

if TYPE_CHECKING:
    from krunpy.core.octets import Secret

BLOCK_SIZE = 4096  # bytes
BATCH_SIZE = 1024 * 1024  # bytes encrypted and hashed at once
WORKERS = 2
_QUEUED = 4  # batches that wait or are worked on
# Fixed, so that the unencrypted form of one source has one root hash everywhere.
VERITY_SALT = Digest32(hashlib.sha256(b"krunpy verity salt v1").digest())


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """Where the parts of a disk lie. Sizes in bytes, blocks of 4096 bytes."""

    payload_offset: int
    payload_size: int
    data_blocks: int
    hash_start_block: int
    levels: tuple[verity.Level, ...]
    size: int


def plan_disk(payload_size: int, *, encrypt: bool) -> Geometry:
    """Return the geometry of a disk for a payload of whole blocks, at least two; payload_size in bytes."""
    offset = luks2.PAYLOAD_OFFSET if encrypt else 0
    data_blocks = (offset + payload_size) // BLOCK_SIZE
    start = data_blocks + 1
    levels = verity.plan_tree(data_blocks, start)
    return Geometry(
        payload_offset=offset,
        payload_size=payload_size,
        data_blocks=data_blocks,
        hash_start_block=start,
        levels=levels,
        size=(start + sum(level.blocks for level in levels)) * BLOCK_SIZE,
    )


class DiskWriter:
    """Writes one disk into an open file that is empty or all zeros.

    Use it as a context manager: leaving it ends its threads.
    """

    def __init__(self, descriptor: int, geometry: Geometry, key: Secret | None) -> None:
        """Make a writer. key: 64 bytes, or None for a payload that stays as it is."""
        self._descriptor = descriptor
        self._geometry = geometry
        self._key = key
        self._batch = bytearray()
        self._start = 0
        self._hashed = 0
        self._count = threading.Lock()
        self._pool = ThreadPoolExecutor(WORKERS, thread_name_prefix="disk")
        self._pending: set[Future[None]] = set()
        self._ciphers: queue.SimpleQueue[SectorCipher] = queue.SimpleQueue()
        os.ftruncate(descriptor, geometry.size)
        if key is not None:
            for _ in range(WORKERS):
                self._ciphers.put(SectorCipher(key, BATCH_SIZE))
            self._put_blocks(0, luks2.build_header(key, geometry.payload_size))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def write(self, position: int, data: bytes | bytearray | memoryview) -> None:
        """Take payload bytes: position and length in whole blocks, each block once.

        Raises OSError of this or an earlier write.
        """
        view = memoryview(data)
        while view:
            if position != self._start + len(self._batch) or len(self._batch) == BATCH_SIZE:
                self._flush()
                self._start = position
            taken = min(BATCH_SIZE - len(self._batch), len(view))
            self._batch += view[:taken]
            view = view[taken:]
            position += taken

    def fill(self, position: int, size: int) -> None:
        """Write zeros: position and size in whole blocks."""
        zeros = bytes(min(size, BATCH_SIZE))
        while size:
            taken = min(size, BATCH_SIZE)
            self.write(position, zeros[:taken])
            position += taken
            size -= taken

    def finish(self) -> Disk:
        """Write what is left, the hash tree and the superblock; return the disk's description.

        Raises OSError if a write fails, AssertionError if blocks were left out or written twice.
        """
        self._flush()
        self._wait_for(0)
        geometry = self._geometry
        assert self._hashed == geometry.data_blocks, (
            f"{self._hashed} of {geometry.data_blocks} blocks were written"
        )
        root = self._fold_tree()
        superblock = verity.Superblock(data_blocks=geometry.data_blocks, salt=VERITY_SALT, uuid=root[:16])
        packed = verity.pack_superblock(superblock).ljust(BLOCK_SIZE, b"\0")
        write_all(self._descriptor, packed, geometry.data_blocks * BLOCK_SIZE)
        return Disk(
            data_blocks=geometry.data_blocks,
            hash_start_block=geometry.hash_start_block,
            root_hash=root,
            salt=VERITY_SALT,
            cipher="none" if self._key is None else "aes-xts-plain64",
            key_size=0 if self._key is None else luks2.KEY_SIZE,
            payload_offset=geometry.payload_offset,
            payload_size=geometry.payload_size,
        )

    def _flush(self) -> None:
        if not self._batch:
            return
        self._wait_for(_QUEUED - 1)
        self._pending.add(self._pool.submit(self._put_batch, self._start, self._batch))
        self._batch = bytearray()

    def _wait_for(self, allowed: int) -> None:
        done = {future for future in self._pending if future.done()}
        while len(self._pending) - len(done) > allowed:
            done |= wait(self._pending - done, return_when=FIRST_COMPLETED).done
        self._pending -= done
        for future in done:
            future.result()

    def _put_batch(self, position: int, data: bytearray) -> None:
        if self._key is None:
            self._put_blocks(position, data)
            return
        cipher = self._ciphers.get()
        try:
            self._put_blocks(self._geometry.payload_offset + position, cipher.encrypt(data, position))
        finally:
            self._ciphers.put(cipher)

    def _put_blocks(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        write_all(self._descriptor, data, offset)
        digests = verity.hash_blocks(VERITY_SALT, data)
        leaves = self._geometry.levels[0].start * BLOCK_SIZE
        write_all(self._descriptor, digests, leaves + offset // BLOCK_SIZE * verity.DIGEST_SIZE)
        with self._count:
            self._hashed += len(data) // BLOCK_SIZE

    def _fold_tree(self) -> Digest32:
        levels = self._geometry.levels
        digests = b""
        for index, level in enumerate(levels):
            for first in range(0, level.blocks, BATCH_SIZE // BLOCK_SIZE):
                count = min(BATCH_SIZE // BLOCK_SIZE, level.blocks - first)
                blocks = _read_all(self._descriptor, count * BLOCK_SIZE, (level.start + first) * BLOCK_SIZE)
                digests = verity.hash_blocks(VERITY_SALT, blocks)
                if index + 1 < len(levels):
                    above = levels[index + 1].start * BLOCK_SIZE + first * verity.DIGEST_SIZE
                    write_all(self._descriptor, digests, above)
        return Digest32(digests)


def _read_all(descriptor: int, size: int, offset: int) -> bytes:
    parts = []
    while size:
        part = os.pread(descriptor, size, offset)
        if not part:
            msg = "the disk became shorter while it was written"
            raise OSError(msg)
        parts.append(part)
        size -= len(part)
        offset += len(part)
    return b"".join(parts)
