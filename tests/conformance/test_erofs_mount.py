"""Our file systems against fsck.erofs and the kernel of this machine."""

from __future__ import annotations

import os
import stat
import time
from typing import TYPE_CHECKING

import pytest

from krunpy.core.proc import find_program, run
from krunpy.image.cache import ImageCache
from krunpy.image.convert import ConvertOptions, convert
from krunpy.image.dirsource import DirectorySource
from krunpy.image.erofs import Layout
from krunpy.image.tree import Node, NodeKind

if TYPE_CHECKING:
    from collections.abc import Iterator

KINDS = {
    stat.S_IFREG: NodeKind.FILE,
    stat.S_IFDIR: NodeKind.DIRECTORY,
    stat.S_IFLNK: NodeKind.SYMLINK,
    stat.S_IFCHR: NodeKind.CHAR,
    stat.S_IFBLK: NodeKind.BLOCK,
    stat.S_IFIFO: NodeKind.FIFO,
    stat.S_IFSOCK: NodeKind.SOCKET,
}
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")  # cap_net_bind_service=ep
needs_fsck = pytest.mark.skipif(find_program("fsck.erofs") is None, reason="erofs-utils is not installed")


def make_tree(root: bytes, *, is_root: bool) -> None:
    os.makedirs(root + b"/usr/bin")
    write(root + b"/usr/bin/tool", os.urandom(123456))
    os.link(root + b"/usr/bin/tool", root + b"/usr/hard")
    write(root + b"/empty", b"")
    write(root + b"/exact", os.urandom(8192))
    with open(root + b"/sparse", "wb") as stream:
        stream.seek(3_000_000)
        stream.write(b"end")
        stream.truncate(5_000_000)
    os.mkdir(root + b"/many")
    for index in range(10_000):
        write(
            root + b"/many/%d-%s" % (index, b"n" * (index % 60)), b"%d" % index if index % 100 == 0 else b""
        )
    os.mkdir(root + b"/odd")
    for name in (b"a" * 255, b"\xff\xfe", b"new\nline", b" ", b"-rf", b"!", b"...", b"\x01", "é中".encode()):
        write(root + b"/odd/" + name, name)
    os.symlink(b"usr/bin/tool", root + b"/link")
    os.symlink(b"x" * 4095, root + b"/longlink")
    os.symlink(b"loop", root + b"/loop")
    os.mkfifo(root + b"/fifo")
    deep = root + b"/deep"
    for _ in range(40):
        deep += b"/d"
    os.makedirs(deep)
    os.chmod(root + b"/usr/bin/tool", 0o6755)
    os.chmod(root + b"/many", 0o1777)
    os.setxattr(root + b"/exact", b"user.note", b"\0binary\xff")
    if is_root:
        os.chown(root + b"/exact", 70000, 4_000_000_000)
        os.chown(root + b"/link", 12, 13, follow_symlinks=False)
        os.mknod(root + b"/char", stat.S_IFCHR | 0o620, os.makedev(5, 1))
        os.mknod(root + b"/block", stat.S_IFBLK | 0o660, os.makedev(259, 70000))
        os.mknod(root + b"/socket", stat.S_IFSOCK | 0o755)
        os.setxattr(root + b"/usr/bin/tool", b"security.capability", CAPABILITY)
        os.setxattr(root + b"/many", b"trusted.note", b"t" * 3000)


def write(path: bytes, contents: bytes) -> None:
    with open(path, "wb") as stream:
        stream.write(contents)


def scan(root: bytes) -> dict[bytes, tuple]:
    """Return path -> (kind, mode, uid, gid, time, links, size, device, target, xattrs, first name)."""
    found: dict[bytes, tuple] = {}
    first: dict[int, bytes] = {}
    pending = [b""]
    while pending:
        path = pending.pop()
        full = root + path
        status = os.lstat(full)
        kind = KINDS[stat.S_IFMT(status.st_mode)]
        if kind is NodeKind.DIRECTORY:
            pending += sorted((path + b"/" + os.fsencode(name) for name in os.listdir(full)), reverse=True)
        xattrs = {os.fsencode(name): os.getxattr(full, name, follow_symlinks=False)
                  for name in sorted(os.listxattr(full, follow_symlinks=False))}  # fmt: skip
        size = status.st_size if kind in (NodeKind.FILE, NodeKind.SYMLINK) else 0
        device = status.st_rdev if kind in (NodeKind.CHAR, NodeKind.BLOCK) else 0
        target = os.readlink(full) if kind is NodeKind.SYMLINK else b""
        identity = first.setdefault(status.st_ino, path) if kind is not NodeKind.DIRECTORY else b""
        found[path] = (kind, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, int(status.st_mtime),
                       status.st_nlink, size, device, target, xattrs, identity)  # fmt: skip
    return dict(sorted(found.items()))


def flatten(root: Node) -> dict[bytes, tuple]:
    """Return what `scan` should find of a tree."""
    found: dict[bytes, Node] = {}
    names: dict[int, list[bytes]] = {}
    pending = [(b"", root)]
    while pending:
        path, node = pending.pop()
        found[path] = node
        names.setdefault(id(node), []).append(path)
        pending += [(path + b"/" + name, child) for name, child in node.children.items()]
    flat = {}
    for path, node in found.items():
        links = len(names[id(node)])
        size, identity = node.size, min(names[id(node)])
        if node.kind is NodeKind.DIRECTORY:
            links = 2 + sum(child.kind is NodeKind.DIRECTORY for child in node.children.values())
            identity = b""
        elif node.kind is NodeKind.SYMLINK:
            size = len(node.target)
        owner, xattrs = (node.uid, node.gid), dict(sorted(node.xattrs.items()))
        entry = (
            node.kind,
            node.mode,
            *owner,
            node.mtime,
            links,
            size,
            node.rdev,
            node.target,
            xattrs,
            identity,
        )
        flat[path] = entry
    return dict(sorted(flat.items()))


def same_contents(left: bytes, right: bytes, paths: Iterator[bytes]) -> bool:
    for path in paths:
        with open(left + path, "rb") as one, open(right + path, "rb") as other:
            if one.read() != other.read():
                return False
    return True


@pytest.fixture
def image(tmp_path):
    root = str(tmp_path / "root")
    make_tree(os.fsencode(root), is_root=os.geteuid() == 0)
    source = DirectorySource(root, now_ns=time.time_ns)
    cache = ImageCache(str(tmp_path / "cache"), time.time)
    return convert(source, cache=cache, options=ConvertOptions(encrypt=False)), source.tree, root


def payload_of(image, path: str) -> str:
    with open(image.disk_path, "rb") as disk, open(path, "wb") as stream:
        stream.write(disk.read(image.disk.payload_size))
    return path


@needs_fsck
def test_fsck_finds_nothing_wrong_and_extracts_the_contents(image, tmp_path) -> None:
    made, tree, root = image
    payload = payload_of(made, str(tmp_path / "payload"))

    if os.geteuid() == 0:
        run(["fsck.erofs", f"--extract={tmp_path}/out", payload], timeout_s=60)
        files = (path for path, entry in flatten(tree).items() if entry[0] is NodeKind.FILE)
        assert same_contents(os.fsencode(tmp_path / "out"), os.fsencode(root), files)
    else:
        run(["fsck.erofs", payload], timeout_s=60)


@pytest.mark.root
def test_the_kernel_mounts_it_and_shows_the_same_tree(image, tmp_path) -> None:
    made, tree, root = image
    mount = str(tmp_path / "mnt")
    os.mkdir(mount)
    options = f"loop,ro,sizelimit={made.disk.payload_size}"
    run(["mount", "-t", "erofs", "-o", options, made.disk_path, mount], timeout_s=30)
    try:
        seen, wanted = scan(os.fsencode(mount)), flatten(tree)
        assert list(seen) == list(wanted)
        assert {path for path in seen if seen[path] != wanted[path]} == set()
        files = (path for path, entry in wanted.items() if entry[0] is NodeKind.FILE)
        assert same_contents(os.fsencode(mount), os.fsencode(root), files)
        assert os.lstat(mount + "/many/9999-" + "n" * (9999 % 60)).st_size == 0
        with pytest.raises(FileNotFoundError):
            os.lstat(mount + "/many/9999")
    finally:
        run(["umount", mount], timeout_s=30)


@pytest.mark.root
def test_the_kernel_reads_large_extended_attributes_and_a_5_gib_file(tmp_path) -> None:
    values = {b"user.%d" % index: os.urandom(30000) for index in range(2)}
    tree = Node(
        kind=NodeKind.DIRECTORY,
        mode=0o755,
        children={
            b"big": Node(kind=NodeKind.FILE, mode=0o600, size=5 << 30, mtime=-5),
            b"small": Node(kind=NodeKind.FILE, mode=0o600, xattrs=values),
            b"link": Node(
                kind=NodeKind.SYMLINK, mode=0o777, target=b"t" * 4000, xattrs={b"trusted.t": b"x" * 100}
            ),
            b"zlast": Node(kind=NodeKind.FILE, mode=0o640, size=5),
        },
    )
    layout, path, mount = Layout(tree), str(tmp_path / "image"), str(tmp_path / "mnt")
    with open(path, "wb") as stream:
        stream.writelines(layout.pack_metadata())
        stream.truncate(layout.blocks * 4096)
        stream.seek(layout.find_place(tree.children[b"zlast"]).block * 4096)
        stream.write(b"hello")
    os.mkdir(mount)
    run(["mount", "-t", "erofs", "-o", "loop,ro", path, mount], timeout_s=30)
    try:
        assert scan(os.fsencode(mount)) == flatten(tree)
        with open(mount + "/big", "rb") as stream:
            stream.seek((5 << 30) - 4)
            assert stream.read() == bytes(4)
        with open(mount + "/zlast", "rb") as stream:
            assert stream.read() == b"hello"
    finally:
        run(["umount", mount], timeout_s=30)
