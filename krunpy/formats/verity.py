"""dm-verity: the superblock, the shape of the hash tree, and the hashing of blocks.

Hash type 1, SHA-256, blocks of 4096 bytes, salt before the data: the defaults of `veritysetup format`. This
module does not read or write disks. Source: Linux Documentation/admin-guide/device-mapper/verity.rst and
cryptsetup 2.6 lib/verity/verity.c (struct verity_sb).
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

from krunpy.core.errors import FormatError

BLOCK_SIZE = 4096  # bytes
DIGEST_SIZE = 32  # bytes
DIGESTS_PER_BLOCK = BLOCK_SIZE // DIGEST_SIZE
SALT_SIZE = 32  # bytes
MAX_DATA_BLOCKS = 2**48

_SUPERBLOCK = struct.Struct("<8sII16s32sIIQH6x256s168x")
_SIGNATURE = b"verity\0\0"
_WHAT = "cannot read the verity superblock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Superblock:
    """What a verity superblock says: block count, salt (0 to 256 bytes), UUID (16 bytes)."""

    data_blocks: int
    salt: bytes
    uuid: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One level of the hash tree: its first block on the disk and how many blocks it has."""

    start: int
    blocks: int


def plan_tree(data_blocks: int, hash_start_block: int) -> tuple[Level, ...]:
    """Return the levels of the hash tree, the one over the data first.

    On the disk the top level comes first, at hash_start_block. A single data block has no levels: its
    digest is the root hash.
    """
    sizes = []
    count = data_blocks
    while count > 1:
        count = -(-count // DIGESTS_PER_BLOCK)
        sizes.append(count)
    levels = []
    start = hash_start_block
    for size in reversed(sizes):
        levels.append(Level(start=start, blocks=size))
        start += size
    return tuple(reversed(levels))


def hash_blocks(salt: bytes, data: bytes | bytearray | memoryview) -> bytes:
    """Return SHA-256(salt + block) of every 4096-byte block of data, joined.

    data: bytes, contiguous; a last part under 4096 bytes is hashed as it is (pad it before).
    """
    view = memoryview(data).cast("B")
    copy = hashlib.sha256(salt).copy
    digests = []
    for start in range(0, len(view), BLOCK_SIZE):
        state = copy()
        state.update(view[start : start + BLOCK_SIZE])
        digests.append(state.digest())
    return b"".join(digests)


def pack_superblock(superblock: Superblock) -> bytes:
    """Return the 512 bytes of a superblock."""
    return _SUPERBLOCK.pack(
        _SIGNATURE, 1, 1, superblock.uuid, b"sha256", BLOCK_SIZE, BLOCK_SIZE,
        superblock.data_blocks, len(superblock.salt), superblock.salt,
    )  # fmt: skip


def parse_superblock(data: bytes) -> Superblock:
    """Return what the first 512 bytes say.

    Raises FormatError on any other bytes, and on an algorithm or block size that is not ours.
    """
    if len(data) < _SUPERBLOCK.size:
        raise FormatError(_WHAT, why=f"seen {len(data)} bytes, wanted {_SUPERBLOCK.size}")
    signature, version, kind, uuid, name, block, hash_block, count, size, salt = _SUPERBLOCK.unpack_from(data)
    superblock = Superblock(data_blocks=count, salt=salt[: min(size, 256)], uuid=uuid)
    reasons = {
        "the signature is not that of dm-verity": signature != _SIGNATURE,
        f"version {version} and hash type {kind}, wanted 1 and 1": (version, kind) != (1, 1),
        "the algorithm is not sha256": name.rstrip(b"\0") != b"sha256",
        f"blocks of {block} and {hash_block} bytes, wanted 4096": (block, hash_block) != (BLOCK_SIZE,) * 2,
        f"{count} data blocks, wanted 1 to 2^48": not 1 <= count <= MAX_DATA_BLOCKS,
        f"a salt of {size} bytes, at most 256 are allowed": size > len(salt),
    }
    for why, is_wrong in reasons.items():
        if is_wrong:
            raise FormatError(_WHAT, why=why)
    if pack_superblock(superblock) != data[: _SUPERBLOCK.size]:
        raise FormatError(_WHAT, why="bytes that have no meaning are not zero")
    return superblock
