from __future__ import annotations

import os
import socket
import tempfile
import time
from typing import TYPE_CHECKING

import pytest
from sourcetrees import describe, read_contents

from krunpy.core.errors import BundleError
from krunpy.image.dirsource import DirectorySource
from krunpy.image.dirwalk import fingerprint_directory
from krunpy.image.limits import Limits
from krunpy.image.tree import Node, NodeKind, walk_tree

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LATER_NS = 3_000_000_000  # nanoseconds: after this, nothing is racy


def reads_everything() -> bool:
    """Say whether permissions do not bind this process, as those of root with its capabilities."""
    with tempfile.NamedTemporaryFile() as file:
        os.chmod(file.name, 0)
        return os.access(file.name, os.R_OK)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "rootfs"
    for name in ("etc", "usr/bin", "var"):
        (path / name).mkdir(parents=True)
    (path / "etc/passwd").write_bytes(b"root:x:0:0::/:/bin/sh\n")
    (path / "usr/bin/tool").write_bytes(b"#!" * 3000)
    (path / "usr/bin/tool").chmod(0o4755)
    (path / "bin").symlink_to("usr/bin")
    return path


def opened(path: Path, later_ns: int = LATER_NS, **bounds: int) -> DirectorySource:
    return DirectorySource(str(path), now_ns=lambda: time.time_ns() + later_ns, bounds=Limits(**bounds))


def node(source: DirectorySource, path: bytes) -> Node:
    return dict(walk_tree(source.tree))[path]


def test_metadata_and_contents_are_those_of_the_directory(root: Path) -> None:
    os.utime(root / "usr/bin/tool", ns=(0, 1_500_000_000_999_999_999))
    source = opened(root)

    tool = node(source, b"usr/bin/tool")

    assert (tool.mode, tool.uid, tool.gid, tool.mtime) == (
        0o4755,
        os.getuid(),
        (root / "etc").stat().st_gid,
        1_500_000_000,
    )
    assert read_contents(source)[id(tool)] == b"#!" * 3000
    assert node(source, b"bin").target == b"usr/bin"
    source.finish()
    source.close()


def test_a_directory_keeps_its_time_but_those_that_engines_change_have_none(root: Path) -> None:
    for name in ("usr/bin", "usr", "var", "etc", "."):
        os.utime(root / name, (1_500_000_000, 1_500_000_000))
    source = opened(root)

    times = {path: each.mtime for path, each in walk_tree(source.tree) if each.kind is NodeKind.DIRECTORY}

    assert {times[path] for path in (b"usr", b"usr/bin", b"var")} == {1_500_000_000}
    assert {times[path] for path in (b"etc", b"run", b"dev", b"proc", b"sys")} == {0}
    source.close()


def test_another_time_of_a_directory_is_another_fingerprint(root: Path) -> None:
    first = fingerprint_directory(str(root))
    os.utime(root / "var", (5, 5))
    second = fingerprint_directory(str(root))
    os.utime(root / "etc", (5, 5))

    assert first != second
    assert fingerprint_directory(str(root)) == second


def test_hard_links_are_one_node_and_are_streamed_once(root: Path) -> None:
    os.link(root / "etc/passwd", root / "var/same")
    source = opened(root)

    assert node(source, b"etc/passwd") is node(source, b"var/same")
    assert sorted(read_contents(source).values()) == [b"#!" * 3000, b"root:x:0:0::/:/bin/sh\n"]


def test_names_need_not_be_text(root: Path) -> None:
    name = b"odd\xff\xfe \n\x1b[31m"
    (root / os.fsdecode(name)).write_bytes(b"x")
    os.symlink(b"\xff", os.fsencode(root / "link"))

    source = opened(root)

    assert node(source, name).size == 1
    assert node(source, b"link").target == b"\xff"


def test_symlinks_are_never_followed(root: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_bytes(b"x")
    (root / "var/out").symlink_to(tmp_path / "outside")

    assert not [path for path, _ in walk_tree(opened(root).tree) if b"secret" in path]


def test_holes_of_a_sparse_file_are_not_streamed(root: Path) -> None:
    with (root / "var/sparse").open("wb") as stream:
        stream.truncate(8 << 20)
        stream.seek(4 << 20)
        stream.write(b"middle")
    (root / "var/hole").touch()
    os.truncate(root / "var/hole", 1 << 20)
    source = opened(root)

    streamed = sum(len(chunk) for each, _, chunk in source.stream() if each is node(source, b"var/sparse"))
    contents = read_contents(source)[id(node(source, b"var/sparse"))]

    assert contents == bytes(4 << 20) + b"middle" + bytes((4 << 20) - 6)
    if (root / "var/sparse").stat().st_blocks * 512 < 4 << 20:  # this file system knows holes
        assert streamed < 1 << 20


def test_a_large_file_comes_in_pieces_of_at_most_a_mebibyte(root: Path) -> None:
    (root / "var/large").write_bytes(os.urandom(1 << 20) * 2 + b"end")
    source = opened(root)

    assert len(read_contents(source)[id(node(source, b"var/large"))]) == (2 << 20) + 3


def test_fifos_and_sockets_are_kept_and_not_opened(root: Path) -> None:
    os.mkfifo(root / "var/fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "var/s"))
        source = opened(root)

        assert node(source, b"var/fifo").kind is NodeKind.FIFO
        assert node(source, b"var/s").kind is NodeKind.SOCKET
        assert describe(source)


def test_extended_attributes_are_kept(root: Path) -> None:
    try:
        os.setxattr(root / "etc", "user.one", b"1")
        os.setxattr(root / "etc/passwd", "user.two", b"\0\xff")
        os.setxattr(root / "etc/passwd", "user.overlay.origin", b"")
    except OSError:
        pytest.skip("this file system has no user attributes")

    source = opened(root)

    assert node(source, b"etc").xattrs == {b"user.one": b"1"}
    assert node(source, b"etc/passwd").xattrs == {b"user.two": b"\0\xff"}


def test_what_an_engine_adds_changes_neither_tree_nor_fingerprint(root: Path) -> None:
    for name in ("run", "dev"):
        (root / name).mkdir(mode=0o755)
    before = opened(root)
    expected = before.fingerprint(), describe(before)

    for name in (
        "etc/hosts",
        "etc/hostname",
        "etc/resolv.conf",
        "run/.containerenv",
        ".dockerenv",
        "dev/null",
    ):
        (root / name).touch()
    (root / "etc/mtab").symlink_to("/proc/mounts")
    root.chmod(0o555)
    after = opened(root)

    assert (after.fingerprint(), describe(after)) == expected


def test_missing_mount_points_are_made(root: Path) -> None:
    made = describe(opened(root))

    assert {name: (made[name][0], made[name][1]) for name in (b"dev", b"proc", b"run", b"sys", b"tmp")} == {
        b"dev": ("DIRECTORY", "0o755"),
        b"proc": ("DIRECTORY", "0o755"),
        b"run": ("DIRECTORY", "0o755"),
        b"sys": ("DIRECTORY", "0o755"),
        b"tmp": ("DIRECTORY", "0o1777"),
    }


CHANGES: list[Callable[[Path], object]] = [
    lambda root: (root / "etc/passwd").write_bytes(b"other\n"),
    lambda root: (root / "etc/passwd").chmod(0o600),
    lambda root: (root / "etc/passwd").touch(),
    lambda root: (root / "etc/new").touch(),
    lambda root: (root / "etc/passwd").unlink(),
    lambda root: (root / "etc/passwd").rename(root / "etc/renamed"),
    lambda root: (root / "etc").chmod(0o700),
    lambda root: (root / "empty").mkdir(),
    lambda root: os.mkfifo(root / "fifo"),
    lambda root: ((root / "bin").unlink(), (root / "bin").symlink_to("usr/sbin")),
    lambda root: (
        (root / "x").write_bytes((root / "etc/passwd").read_bytes()),
        (root / "x").rename(root / "etc/passwd"),
    ),
    lambda root: (root / "var").rename(root / "etc/var"),
]


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_changes_the_fingerprint_and_is_found_at_the_end(
    root: Path, change: Callable[[Path], object]
) -> None:
    source = opened(root)
    before = source.fingerprint()
    assert source.tree
    source.finish()
    time.sleep(0.005)

    change(root)

    assert fingerprint_directory(str(root)) != before
    with pytest.raises(BundleError, match="the source changed while it was read"):
        source.finish()


def test_the_fingerprint_is_the_same_with_and_without_the_tree(root: Path) -> None:
    source = opened(root)
    assert source.tree

    assert source.fingerprint() == fingerprint_directory(str(root)) == opened(root).fingerprint()


def test_equal_directories_elsewhere_have_their_own_fingerprint(root: Path, tmp_path: Path) -> None:
    """Inode numbers are in it: a copy is another source until its contents are read."""
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy/etc").mkdir()
    (tmp_path / "copy/etc/passwd").write_bytes((root / "etc/passwd").read_bytes())

    assert fingerprint_directory(str(tmp_path / "copy")) != fingerprint_directory(str(root))


def test_a_file_changed_a_moment_ago_makes_the_source_racy(root: Path) -> None:
    assert opened(root, later_ns=0).racy
    assert not opened(root).racy


def test_an_empty_file_of_the_engine_does_not_make_it_racy(root: Path) -> None:
    started_ns = time.time_ns()
    (root / "etc/hosts").touch()
    os.utime(root / "etc/hosts", ns=(started_ns + 10 * LATER_NS, started_ns + 10 * LATER_NS))

    assert not opened(root).racy


@pytest.mark.parametrize("contents", [b"longer than it was before\n" * 9, b"s", b"ROOT:x:0:0::/:/bin/sh\n"])
def test_a_file_that_changes_before_it_is_streamed_is_refused(root: Path, contents: bytes) -> None:
    source = opened(root)
    assert source.tree
    time.sleep(0.005)
    (root / "etc/passwd").write_bytes(contents)

    with pytest.raises(BundleError, match=r"/etc/passwd changed while it was read"):
        list(source.stream())


def test_a_file_that_becomes_shorter_while_it_is_streamed_is_refused(root: Path) -> None:
    (root / "var/large").write_bytes(os.urandom(3 << 20))
    source = opened(root)
    stream = source.stream()
    large = node(source, b"var/large")
    while next(stream)[0] is not large:
        pass

    os.truncate(root / "var/large", 1 << 20)

    with pytest.raises(BundleError, match=r"/var/large changed while it was read: it became shorter"):
        list(stream)


def test_a_file_replaced_by_a_fifo_or_symlink_is_refused_without_waiting(root: Path) -> None:
    for make in (os.mkfifo, lambda path: os.symlink("/dev/zero", path)):
        source = opened(root)
        assert source.tree
        (root / "etc/passwd").unlink()
        make(root / "etc/passwd")

        with pytest.raises(BundleError, match=r"/etc/passwd changed while it was read"):
            list(source.stream())
        (root / "etc/passwd").unlink()
        (root / "etc/passwd").write_bytes(b"x")


def test_a_directory_replaced_by_a_symlink_is_refused(root: Path, tmp_path: Path) -> None:
    source = opened(root)
    assert source.tree
    (root / "etc").rename(tmp_path / "moved")
    (root / "etc").symlink_to(tmp_path / "moved")

    with pytest.raises(BundleError, match=r"/etc changed while it was read"):
        list(source.stream())


def test_limits_are_held(root: Path) -> None:
    with pytest.raises(BundleError, match="entries to 7, at most 6"):
        assert opened(root, entries=6).tree
    with pytest.raises(BundleError, match="is 3 levels deep, at most 2"):
        assert opened(root, depth=2).tree
    with pytest.raises(BundleError, match="bytes, at most 6000 are allowed"):
        assert opened(root, total=6000).tree


def test_read_file_is_bounded(root: Path) -> None:
    source = opened(root)

    assert source.read_file(node(source, b"etc/passwd"), 100) == b"root:x:0:0::/:/bin/sh\n"
    with pytest.raises(BundleError, match=r"/usr/bin/tool is 6000 bytes, at most 100"):
        source.read_file(node(source, b"usr/bin/tool"), 100)


@pytest.mark.parametrize("name", ["missing", "file", "a\0b"])
def test_what_is_no_directory_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(BundleError, match="cannot read the root file system"):
        opened(tmp_path / name)


def test_proc_must_be_a_directory(root: Path) -> None:
    (root / "proc").symlink_to("elsewhere")

    with pytest.raises(BundleError, match=r"/proc is not a directory"):
        assert opened(root).tree


@pytest.mark.skipif(reads_everything(), reason="permissions do not bind root")
def test_an_unreadable_file_is_refused_by_name(root: Path) -> None:
    (root / "etc/passwd").chmod(0)

    with pytest.raises(BundleError, match=r"/etc/passwd cannot be read: permission denied"):
        list(opened(root).stream())


@pytest.mark.skipif(reads_everything(), reason="permissions do not bind root")
def test_an_unreadable_directory_is_refused_by_name(root: Path) -> None:
    (root / "usr/bin").chmod(0)

    with pytest.raises(BundleError, match=r"/usr/bin cannot be read: permission denied"):
        assert opened(root).tree
    (root / "usr/bin").chmod(0o755)
