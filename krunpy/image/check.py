"""Whether a disk in the cache is still, bit for bit, what was converted.

No protection against this host: the guest's dm-verity is that, block by block as it reads. This finds a damaged
or changed disk before a machine is started, also where the workload would never have read the block.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from krunpy.core.errors import EvidenceError, HostError
from krunpy.core.files import load_bounded, write_atomically
from krunpy.formats.verity import (
    BLOCK_SIZE,
    DIGEST_SIZE,
    DIGESTS_PER_BLOCK,
    Superblock,
    hash_blocks,
    pack_superblock,
    plan_tree,
)

if TYPE_CHECKING:
    from krunpy.formats.disk import Disk
    from krunpy.image.workload import WorkloadImage

_STEP = 256 * BLOCK_SIZE  # bytes
_SEEN_NAME = "checked"
_LIMIT = 256  # bytes


def require_intact(image: WorkloadImage, descriptor: int) -> None:
    """Return if the open disk fits the image's root hash; compare everything once, then only after a change.

    Raises EvidenceError that names the first block that does not fit.
    """
    status = os.fstat(descriptor)
    seen = f"{status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}\n".encode()
    path = os.path.join(image.directory, _SEEN_NAME)
    if os.path.exists(path) and load_bounded(path, _LIMIT) == seen:
        return
    wrong = find_wrong_block(descriptor, image.disk, image.size)
    if wrong is not None:
        raise EvidenceError(
            f"cannot use the disk of image {image.image_id[:12]}",
            why=f"disk integrity: it was changed: block {wrong} does not fit the root hash",
            next=f"krunpy image rm {image.image_id[:12]}; it is converted anew by the next run",
        )
    write_atomically(path, seen)


def find_wrong_block(descriptor: int, disk: Disk, size: int) -> int | None:
    """Return the number of the first block that does not fit, None if all do. size: bytes of the whole file."""
    if os.fstat(descriptor).st_size != size:
        return min(os.fstat(descriptor).st_size, size) // BLOCK_SIZE
    levels = plan_tree(disk.data_blocks, disk.hash_start_block)
    start, count = 0, disk.data_blocks
    for level in levels:
        wrong = _compare(descriptor, disk.salt, (start, count), level.start)
        if wrong is not None:
            return wrong
        start, count = level.start, level.blocks
    if hash_blocks(disk.salt, _read(descriptor, start, 1)) != disk.root_hash:
        return start
    superblock = Superblock(data_blocks=disk.data_blocks, salt=disk.salt, uuid=disk.root_hash[:16])
    if _read(descriptor, disk.data_blocks, 1) != pack_superblock(superblock).ljust(BLOCK_SIZE, b"\0"):
        return disk.data_blocks
    end = disk.hash_start_block + sum(level.blocks for level in levels)
    return None if end * BLOCK_SIZE == size else end


def _compare(descriptor: int, salt: bytes, blocks: tuple[int, int], above: int) -> int | None:
    """Compare blocks (first, count) with their digests in the level that begins at block `above`."""
    first, count = blocks
    step = _STEP // BLOCK_SIZE
    for done in range(0, count, step):
        taken = min(step, count - done)
        digests = hash_blocks(salt, _read(descriptor, first + done, taken))
        place = above + done // DIGESTS_PER_BLOCK
        wanted = _read(descriptor, place, -(-taken // DIGESTS_PER_BLOCK))
        padded = digests.ljust(len(wanted), b"\0")
        if padded != wanted:
            return _name_wrong(padded, wanted, first + done, taken, place)
    return None


def _name_wrong(digests: bytes, wanted: bytes, first: int, count: int, place: int) -> int:
    for index in range(count):
        at = slice(index * DIGEST_SIZE, (index + 1) * DIGEST_SIZE)
        if digests[at] != wanted[at]:
            return first + index
    return place


def _read(descriptor: int, block: int, count: int) -> bytes:
    data = b""
    while len(data) < count * BLOCK_SIZE:
        part = os.pread(descriptor, count * BLOCK_SIZE - len(data), block * BLOCK_SIZE + len(data))
        if not part:
            raise HostError("cannot read the disk", why=f"it ends before block {block + count}")
        data += part
    return data
