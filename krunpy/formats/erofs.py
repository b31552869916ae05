"""Bytes of an erofs file system: superblock, inodes, directory blocks and extended attributes.

This module packs single records; it does not decide where they lie (`krunpy.image.erofs` does), and it knows
no compression, no shared extended attributes and no chunks. Source: Linux 6.12, fs/erofs/erofs_fs.h and
Documentation/filesystems/erofs.rst; read by 6.1 and newer.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

from krunpy.core.errors import FormatError
from krunpy.formats.crc32c import CRC32C_START, fold_crc32c

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

BLOCK_SIZE = 4096  # bytes
SUPERBLOCK_OFFSET = 1024  # bytes
SLOT_SIZE = 32  # bytes; an inode's number (nid) counts slots from the metadata block
INODE_SIZE = 64  # bytes, extended form: the compact one has no time of change
MAX_NAME = 255  # bytes
MAX_BLOCKS = 2**32 - 1
MAX_XATTR_VALUE = 65535  # bytes
MAX_XATTRS = 12 + 4 * (2**16 - 2)  # bytes: the inode counts them in 4-byte units, 16 bits

_MAGIC = 0xE0F5E1E2
_COMPAT_CHECKSUM = 1
_COMPAT_MTIME = 2
_SUPERBLOCK = struct.Struct("<IIIBBHQQIIII16s16sIHHHBBIQB23x")
_INODE = struct.Struct("<HHHHQIIIIqII16x")
_DIRENT = struct.Struct("<QHBx")
_XATTR_HEADER_SIZE = 12
_XATTR_ENTRY = struct.Struct("<BBH")
_XATTR_PREFIXES = (
    (b"user.", 1),
    (b"trusted.", 4),
    (b"security.", 6),
)
_XATTR_WHOLE_NAMES = {b"system.posix_acl_access": 2, b"system.posix_acl_default": 3}


class FileType(IntEnum):
    """The type in a directory entry."""

    FILE = 1
    DIRECTORY = 2
    CHAR = 3
    BLOCK = 4
    FIFO = 5
    SOCKET = 6
    SYMLINK = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Inode:
    """One inode.

    mode:       type and permission bits, 16 bits.
    mtime:      seconds since 1970, may be negative.
    location:   the first data block, or the device number of `encode_device`, or 0.
    is_inline:  the last part of the data follows the inode and its extended attributes.
    xattr_size: bytes of `pack_xattrs`, 0 if there are none.
    """

    number: int
    mode: int
    links: int
    size: int
    location: int
    uid: int
    gid: int
    mtime: int
    is_inline: bool
    xattr_size: int


def pack_inode(inode: Inode) -> bytes:
    """Return the 64 bytes of an extended inode.

    Raises FormatError if a field does not fit.
    """
    count = (inode.xattr_size - _XATTR_HEADER_SIZE) // 4 + 1 if inode.xattr_size else 0
    layout = 1 | ((2 if inode.is_inline else 0) << 1)  # extended; flat inline or flat plain
    try:
        return _INODE.pack(
            layout, count, inode.mode, 0, inode.size, inode.location, inode.number,
            inode.uid, inode.gid, inode.mtime, 0, inode.links,
        )  # fmt: skip
    except struct.error as error:
        raise FormatError("cannot pack an erofs inode", why=f"a field does not fit: {inode}") from error


def split_directory(names: Sequence[bytes]) -> Iterator[tuple[int, int, int]]:
    """Yield (first, last + 1, bytes used) of the names that share a block, in order.

    names: sorted by bytes, "." and ".." among them, each at most 255 bytes.
    """
    first, used = 0, 0
    for index, name in enumerate(names):
        size = _DIRENT.size + len(name)
        if used + size > BLOCK_SIZE:
            yield first, index, used
            first, used = index, 0
        used += size
    yield first, len(names), used


def pack_directory_block(entries: Sequence[tuple[bytes, int, FileType]]) -> bytes:
    """Return one directory block without padding: (name, nid, type) of each entry, sorted by name."""
    offset = _DIRENT.size * len(entries)
    records, names = [], []
    for name, nid, kind in entries:
        records.append(_DIRENT.pack(nid, offset, kind))
        names.append(name)
        offset += len(name)
    return b"".join((*records, *names))


def pack_xattrs(xattrs: Mapping[bytes, bytes]) -> bytes:
    """Return the inline form of extended attributes, empty if there are none; sorted by name.

    Raises FormatError if a name has a prefix that erofs cannot hold, or a name or value is too long.
    """
    if not xattrs:
        return b""
    parts = [bytes(_XATTR_HEADER_SIZE)]
    for name in sorted(xattrs):
        value = xattrs[name]
        index, rest = _split_xattr_name(name)
        if len(rest) > MAX_NAME or len(value) > MAX_XATTR_VALUE:
            raise FormatError("cannot pack an extended attribute", why=f"{_shown(name)} is too long")
        entry = _XATTR_ENTRY.pack(len(rest), index, len(value)) + rest + value
        parts.append(entry + bytes(-len(entry) % 4))
    packed = b"".join(parts)
    if len(packed) > MAX_XATTRS:
        raise FormatError("cannot pack extended attributes", why=f"{len(packed)} bytes, at most {MAX_XATTRS}")
    return packed


def _split_xattr_name(name: bytes) -> tuple[int, bytes]:
    if name in _XATTR_WHOLE_NAMES:
        return _XATTR_WHOLE_NAMES[name], b""
    for prefix, index in _XATTR_PREFIXES:
        if name.startswith(prefix) and len(name) > len(prefix):
            return index, name[len(prefix) :]
    raise FormatError(
        "cannot pack an extended attribute",
        why=f"{_shown(name)} is not in user, trusted, security or a POSIX access control list",
    )


def pack_superblock(*, root_nid: int, inodes: int, blocks: int, meta_block: int) -> bytes:
    """Return block 0, 4096 bytes: the superblock with its checksum.

    root_nid:   slot of the root directory, at most 65535.
    meta_block: block that slots are counted from.

    The UUID, the label and the build time are zero: the root hash names the file system.
    """
    block = bytearray(BLOCK_SIZE)
    _SUPERBLOCK.pack_into(
        block, SUPERBLOCK_OFFSET,
        _MAGIC, 0, _COMPAT_CHECKSUM | _COMPAT_MTIME, BLOCK_SIZE.bit_length() - 1, 0, root_nid, inodes, 0, 0,
        blocks, meta_block, 0, b"", b"", 0, 0, 0, 0, 0, 0, 0, 0, 0,
    )  # fmt: skip
    checksum = fold_crc32c(CRC32C_START, block[SUPERBLOCK_OFFSET:])
    struct.pack_into("<I", block, SUPERBLOCK_OFFSET + 4, checksum)
    return bytes(block)


def _shown(name: bytes) -> str:
    return repr(name[:80])[1:]
