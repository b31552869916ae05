"""A source in memory, and readers of disks that share no code with the writers."""

from __future__ import annotations

import hashlib
import os
import stat
import struct
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from krunpy.image.tree import Node, NodeKind
from krunpy.oci.manifest import ImageConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIXES = {
    1: b"user.",
    2: b"system.posix_acl_access",
    3: b"system.posix_acl_default",
    4: b"trusted.",
    6: b"security.",
}


def file(content: bytes, **fields) -> Node:
    return Node(
        kind=NodeKind.FILE, mode=fields.pop("mode", 0o644), size=len(content), content=content, **fields
    )


def directory(children: dict[bytes, Node], **fields) -> Node:
    return Node(kind=NodeKind.DIRECTORY, mode=fields.pop("mode", 0o755), children=children, **fields)


class MemorySource:
    """Streams the contents that its nodes hold; `pieces` is the size of a piece, zeros are left out."""

    def __init__(
        self, tree: Node, *, piece: int = 1 << 20, backwards: bool = False, racy: bool = False
    ) -> None:
        self.tree = tree
        self.config = ImageConfig(cmd=("sh",), env=("A=é",), labels={"k": "v"})
        self.racy = racy
        self.piece = piece
        self.backwards = backwards
        self.streamed = 0

    def stream(self) -> Iterator[tuple[Node, int, bytes]]:
        self.streamed += 1
        seen: dict[int, Node] = {}
        pending = [self.tree]
        while pending:
            node = pending.pop()
            pending.extend(node.children.values())
            if node.kind is NodeKind.FILE:
                seen[id(node)] = node
        for node in sorted(seen.values(), key=lambda item: item.content, reverse=self.backwards):
            for offset in range(0, node.size, self.piece):
                piece = node.content[offset : offset + self.piece]
                if piece.strip(b"\0"):
                    yield node, offset, piece

    def finish(self) -> None:
        return

    def fingerprint(self) -> str:
        return hashlib.sha256(repr(flatten(self.tree)).encode()).hexdigest()

    def close(self) -> None:
        return


def flatten(root: Node) -> dict[bytes, tuple]:
    """Return path -> (mode, uid, gid, mtime, links, device, xattrs, contents, identity) of a tree."""
    names: dict[int, list[bytes]] = {}
    found: dict[bytes, Node] = {}
    pending = [(b"", root)]
    while pending:
        path, node = pending.pop()
        found[path] = node
        names.setdefault(id(node), []).append(path)
        pending.extend((path + b"/" + name, child) for name, child in node.children.items())
    kinds = {
        NodeKind.FILE: stat.S_IFREG, NodeKind.DIRECTORY: stat.S_IFDIR, NodeKind.SYMLINK: stat.S_IFLNK,
        NodeKind.CHAR: stat.S_IFCHR, NodeKind.BLOCK: stat.S_IFBLK, NodeKind.FIFO: stat.S_IFIFO,
        NodeKind.SOCKET: stat.S_IFSOCK,
    }  # fmt: skip
    flat = {}
    for path, node in found.items():
        links = len(names[id(node)])
        if node.kind is NodeKind.DIRECTORY:
            links = 2 + sum(child.kind is NodeKind.DIRECTORY for child in node.children.values())
        contents = node.content if node.kind is NodeKind.FILE else node.target
        flat[path] = (kinds[node.kind] | node.mode, node.uid, node.gid, node.mtime, links, node.rdev,
                      dict(sorted(node.xattrs.items())), contents, min(names[id(node)]))  # fmt: skip
    return dict(sorted(flat.items()))


class ErofsReader:
    """Reads the erofs that we write, as erofs_fs.h describes it; asserts what the kernel relies on."""

    def __init__(self, image: bytes) -> None:
        self.image = image
        self.magic, self.checksum, self.compat, self.bits, self.slots, self.root, self.inodes = (
            struct.unpack_from("<IIIBBHQ", image, 1024)
        )
        self.blocks, self.meta = struct.unpack_from("<II", image, 1024 + 36)
        assert self.magic == 0xE0F5E1E2
        assert self.bits == 12
        assert self.blocks * 4096 == len(image)

    def flatten(self) -> dict[bytes, tuple]:
        names: dict[int, list[bytes]] = {}
        pending = [(b"", self.root, self.root)]
        found = {}
        while pending:
            path, nid, parent = pending.pop()
            names.setdefault(nid, []).append(path)
            fields, xattrs, data = self.read_inode(nid)
            found[path] = (nid, fields, xattrs, data)
            if stat.S_ISDIR(fields[0]):
                entries = self.read_directory(data)
                assert entries[b"."] == (nid, 2)
                assert entries[b".."] == (parent, 2)
                for name, (child, kind) in entries.items():
                    if name not in (b".", b".."):
                        mode = self.read_inode(child)[0][0]
                        assert kind == {8: 1, 4: 2, 2: 3, 6: 4, 1: 5, 12: 6, 10: 7}[mode >> 12]
                        pending.append((path + b"/" + name, child, nid))
        assert len(names) == self.inodes
        flat = {}
        for path, (nid, fields, xattrs, data) in found.items():
            mode, uid, gid, mtime, links, device = fields
            contents = b"" if stat.S_ISDIR(mode) else data
            flat[path] = (
                mode,
                uid,
                gid,
                mtime,
                links,
                device,
                dict(sorted(xattrs.items())),
                contents,
                min(names[nid]),
            )
        return dict(sorted(flat.items()))

    def read_inode(self, nid: int) -> tuple[tuple, dict[bytes, bytes], bytes]:
        start = self.meta * 4096 + nid * 32
        form, count, mode, _, size, location, _, uid, gid, mtime, nsec, links = struct.unpack_from(
            "<HHHHQIIIIqII", self.image, start
        )
        assert form & 1
        assert start // 4096 == (start + 63) // 4096
        assert nsec == 0
        body = 12 + 4 * (count - 1) if count else 0
        xattrs = self.read_xattrs(start + 64, body) if count else {}
        device = 0
        if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            device = os.makedev((location >> 8) & 0xFFF, (location & 0xFF) | ((location >> 12) & 0xFFF00))
        if form >> 1 == 2:
            data_start = start + 64 + body
            assert size <= 4096
            assert data_start // 4096 == (data_start + size - 1) // 4096
        else:
            assert form >> 1 == 0
            data_start = location * 4096
            assert data_start + size <= len(self.image) or not size
        data = self.image[data_start : data_start + size]
        return (mode, uid, gid, mtime, links, device), xattrs, data

    def read_xattrs(self, start: int, size: int) -> dict[bytes, bytes]:
        assert self.image[start : start + 12] == bytes(12)
        position, end, found = start + 12, start + size, {}
        while position < end:
            length, index, value_size = struct.unpack_from("<BBH", self.image, position)
            name = PREFIXES[index] + self.image[position + 4 : position + 4 + length]
            value = position + 4 + length
            found[name] = self.image[value : value + value_size]
            position = value + value_size
            position += -position % 4
        assert position == end
        return found

    def read_directory(self, data: bytes) -> dict[bytes, tuple[int, int]]:
        entries: list[tuple[bytes, tuple[int, int]]] = []
        for start in range(0, len(data), 4096):
            block = data[start : start + 4096]
            count = struct.unpack_from("<H", block, 8)[0] // 12
            records = [struct.unpack_from("<QHBB", block, 12 * index) for index in range(count)]
            ends = [record[1] for record in records[1:]] + [len(block)]
            for (nid, offset, kind, _), end in zip(records, ends, strict=True):
                entries.append((block[offset:end].rstrip(b"\0"), (nid, kind)))
        names = [name for name, _ in entries]
        assert names == sorted(set(names))
        return dict(entries)


def decrypt(key: bytes, ciphertext: bytes) -> bytes:
    """Decrypt a segment of 4096-byte sectors, IV counted in 512-byte sectors."""
    parts = []
    for start in range(0, len(ciphertext), 4096):
        cipher = Cipher(algorithms.AES(key), modes.XTS((start // 512).to_bytes(16, "little")))
        parts.append(cipher.decryptor().update(ciphertext[start : start + 4096]))
    return b"".join(parts)


def root_hash(disk: bytes, data_blocks: int, salt: bytes) -> bytes:
    """Return the root hash over the first blocks of a disk, as dm-verity defines it."""
    level = [hashlib.sha256(salt + disk[i * 4096 : i * 4096 + 4096]).digest() for i in range(data_blocks)]
    while len(level) > 1:
        blocks = [b"".join(level[i : i + 128]).ljust(4096, b"\0") for i in range(0, len(level), 128)]
        level = [hashlib.sha256(salt + block).digest() for block in blocks]
    return level[0]
