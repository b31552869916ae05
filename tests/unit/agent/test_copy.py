"""The agent's copy of a tree, for kernels without overlayfs: what comes out is what went in."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest
from disk_driver import DiskDriver, build_disk_driver

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> DiskDriver:
    return build_disk_driver(tmp_path_factory.mktemp("driver"))


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Path, Path]:
    """An empty tree, and one that is copied to."""
    for name in ("from", "to", "links"):
        (tmp_path / name).mkdir()
    return tmp_path / "from", tmp_path / "to"


def copy(driver: DiskDriver, trees: tuple[Path, Path]) -> tuple[int, bytes]:
    done = driver.call("copy", *trees, trees[1].parent / "links")
    if done[0] == 0:
        assert not (trees[1].parent / "links").exists()
    return done


def describe(root: Path) -> dict[str, tuple[object, ...]]:
    """Return all that a copy keeps, by path."""
    found = {}
    for folder, directories, files in os.walk(root):
        for path in [folder, *(os.path.join(folder, name) for name in directories + files)]:
            status = os.lstat(path)
            content: object = None
            if stat.S_ISREG(status.st_mode):
                with open(path, "rb") as stream:
                    content = stream.read()
            elif stat.S_ISLNK(status.st_mode):
                content = os.readlink(path)
            xattrs = {name: os.getxattr(path, name, follow_symlinks=False) for name in list_xattrs(path)}
            found[os.path.relpath(path, root)] = (
                status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, status.st_rdev, content, xattrs,
                status.st_nlink if not stat.S_ISDIR(status.st_mode) else 0,
            )  # fmt: skip
    return found


def list_xattrs(path: str) -> list[str]:
    return sorted(os.listxattr(path, follow_symlinks=False))


def test_files_directories_and_symbolic_links_are_copied(
    driver: DiskDriver, trees: tuple[Path, Path]
) -> None:
    source, target = trees
    (source / "bin").mkdir(mode=0o755)
    (source / "bin/su").write_bytes(os.urandom(200_000))
    (source / "bin/su").chmod(0o4755)
    (source / "empty").touch()
    (source / "tmp").mkdir()
    (source / "tmp").chmod(0o1777)
    (source / "dangling").symlink_to("../nowhere")
    os.mkfifo(source / "pipe", 0o620)
    (source / "deep").joinpath(*"abcdefghij").mkdir(parents=True)
    os.utime(source / "dangling", ns=(5, 1_234_567_891_000_000_007), follow_symlinks=False)
    os.utime(source / "bin", ns=(5, 1_600_000_000_000_000_001))
    os.utime(source, ns=(5, 1_500_000_000_000_000_003))
    before = describe(source)

    assert copy(driver, trees) == (0, b"")
    assert describe(target) == before


def test_the_names_of_one_file_stay_one_file(driver: DiskDriver, trees: tuple[Path, Path]) -> None:
    source, target = trees
    (source / "a").mkdir()
    (source / "a/one").write_text("shared")
    os.link(source / "a/one", source / "two")
    (source / "link").symlink_to("two")
    os.link(source / "link", source / "a/link", follow_symlinks=False)

    assert copy(driver, trees) == (0, b"")
    assert (target / "two").stat().st_ino == (target / "a/one").stat().st_ino
    assert (target / "two").stat().st_nlink == 2
    assert (target / "link").lstat().st_ino == (target / "a/link").lstat().st_ino
    assert describe(target) == describe(source)


def test_holes_take_no_room(driver: DiskDriver, trees: tuple[Path, Path]) -> None:
    source, target = trees
    with open(source / "sparse", "wb") as stream:
        stream.seek(3 * MIB)
        stream.write(b"data in the middle")
        stream.truncate(64 * MIB + 1)

    assert copy(driver, trees) == (0, b"")
    assert (target / "sparse").read_bytes() == (source / "sparse").read_bytes()
    assert (target / "sparse").stat().st_blocks * 512 < MIB


def test_extended_attributes_are_copied(driver: DiskDriver, trees: tuple[Path, Path]) -> None:
    source, target = trees
    (source / "file").touch()
    try:
        os.setxattr(source / "file", "user.note", b"\0binary\xff")
        os.setxattr(source, "user.empty", b"")
    except OSError:
        pytest.skip("the file system has no user attributes")

    assert copy(driver, trees) == (0, b"")
    assert describe(target) == describe(source)


def test_owners_devices_and_capabilities_are_copied(driver: DiskDriver, trees: tuple[Path, Path]) -> None:
    source, target = trees
    if os.geteuid() != 0:
        pytest.skip("only root makes devices")
    (source / "file").touch()
    os.chown(source / "file", 1000, 2**32 - 2)
    (source / "file").chmod(0o6711)
    (source / "link").symlink_to("file")
    os.lchown(source / "link", 7, 8)
    os.mknod(source / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    capability = bytes.fromhex("0100000200040000000000000000000000000000")
    os.setxattr(source / "file", "security.capability", capability)

    assert copy(driver, trees) == (0, b"")
    assert describe(target) == describe(source)


def test_what_cannot_be_copied_is_named(driver: DiskDriver, trees: tuple[Path, Path]) -> None:
    source, target = trees
    (source / "a").mkdir()
    (source / "a/b").write_text("from")
    (target / "a").mkdir()
    (target / "a/b").write_text("in the way")

    code, line = copy(driver, trees)

    assert code == 1
    assert line.startswith(b"10 cannot copy ")
    assert b"from/a/b: File exists" in line


def test_paths_that_are_too_long_are_refused(driver: DiskDriver, trees: tuple[Path, Path]) -> None:
    folder = os.open(trees[0], os.O_RDONLY)
    for _ in range(30):
        os.mkdir("x" * 200, dir_fd=folder)
        folder = os.open("x" * 200, os.O_RDONLY, dir_fd=folder)

    code, line = copy(driver, trees)

    assert code == 1
    assert b"File name too long" in line
