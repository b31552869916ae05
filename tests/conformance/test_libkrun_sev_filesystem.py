"""The ext4 in our confidential images of libkrun, against e2fsck and the kernel of this machine."""

from __future__ import annotations

import contextlib
import os
import struct
import time
from typing import TYPE_CHECKING

import pytest

from krunpy.core.errors import ToolError
from krunpy.core.proc import find_program, run
from krunpy.image.dirsource import DirectorySource
from krunpy.image.libkrun_sev_entrypoint import build_entrypoint
from krunpy.image.libkrun_sev_survey import Shape
from krunpy.image.tree import Node, NodeKind
from tests.conformance.test_erofs_mount import flatten, make_tree, same_contents, scan
from tests.fakes.libkrun_sev import PASSPHRASE, decrypt, make_image, write_metadata

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ADDED = {b"/.krun_config.json", b"/lost+found"}
# user::rwx, user:1000:rw-, group::r-x, mask::rwx, other::r--
ACCESS_LIST = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", *entry)
    for entry in (
        (1, 7, 0xFFFFFFFF),
        (2, 6, 1000),
        (4, 5, 0xFFFFFFFF),
        (16, 7, 0xFFFFFFFF),
        (32, 4, 0xFFFFFFFF),
    )
)
needs_e2fsck = pytest.mark.skipif(find_program("e2fsck") is None, reason="e2fsprogs is not installed")


def check(path: str) -> str:
    """Have e2fsck look at everything; it raises ToolError if one thing is wrong."""
    return run(["e2fsck", "-fn", path], timeout_s=300).stdout.decode()


@contextlib.contextmanager
def mounted(path: str, tmp_path: Path, mode: str) -> Iterator[str]:
    mount = str(tmp_path / "mnt")
    os.mkdir(mount)
    run(["mount", "-t", "ext4", "-o", f"loop,{mode}", path, mount], timeout_s=30)
    try:
        yield mount
    finally:
        run(["umount", mount], timeout_s=30)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = str(tmp_path_factory.mktemp("tree") / "root")
    make_tree(os.fsencode(root), is_root=os.geteuid() == 0)
    os.symlink("y" * 59, f"{root}/fast")
    os.symlink("y" * 60, f"{root}/slow")
    os.setxattr(f"{root}/empty", b"user.a", b"in the inode")
    os.setxattr(f"{root}/empty", b"user.bb", b"b" * 3800)
    os.setxattr(f"{root}/odd", b"system.posix_acl_access", ACCESS_LIST)
    os.setxattr(f"{root}/odd", b"system.posix_acl_default", ACCESS_LIST)
    with open(f"{root}/pieces", "wb") as stream:
        for number in range(30):
            stream.seek(number * 200_000)
            stream.write(b"%d" % number)
    os.utime(f"{root}/pieces", (5_000_000_000, 5_000_000_000))  # needs more than 32 bits
    return root


@pytest.fixture(scope="module")
def image(tree: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("made") / "image")
    make_image(DirectorySource(tree, now_ns=time.time_ns), path)
    return path


@pytest.fixture
def plain(image: str, tmp_path: Path) -> str:
    return decrypt(image, f"{tmp_path}/plain")


@needs_e2fsck
def test_e2fsck_finds_nothing_wrong(plain: str) -> None:
    assert "Pass 5" in check(plain)


@pytest.mark.root
def test_the_kernel_mounts_it_and_shows_the_same_tree(plain: str, tree: str, tmp_path: Path) -> None:
    wanted = flatten(DirectorySource(tree, now_ns=time.time_ns).tree)

    with mounted(plain, tmp_path, "ro") as mount:
        seen = scan(os.fsencode(mount))

        assert set(seen) - set(wanted) == ADDED
        # the root has a directory more
        assert {path for path in wanted if path and seen[path] != wanted[path]} == set()
        files = (path for path, entry in wanted.items() if entry[0] is NodeKind.FILE)
        assert same_contents(os.fsencode(mount), os.fsencode(tree), files)
        assert os.stat(f"{mount}/sparse").st_blocks * 512 < 200_000
        assert os.stat(f"{mount}/.krun_config.json").st_mode & 0o7777 == 0o600


@pytest.mark.root
def test_the_kernel_writes_to_it_and_it_stays_sound(plain: str, tmp_path: Path) -> None:
    with mounted(plain, tmp_path, "rw") as mount:
        for number in range(500):
            with open(f"{mount}/many/new-{number}", "wb") as stream:
                stream.write(b"x" * number)
        os.unlink(f"{mount}/exact")
        os.rename(f"{mount}/usr", f"{mount}/odd/usr")
        os.setxattr(f"{mount}/pieces", b"user.x", b"y" * 300)
        with open(f"{mount}/pieces", "r+b") as stream:
            stream.seek(100_000)
            stream.write(b"in a hole")

    assert "Pass 5" in check(plain)


@needs_e2fsck
def test_what_stretches_the_format_is_sound(tmp_path: Path) -> None:
    """Maps of depth 2, a file over several copies of the superblock, more inodes and links than 16 bits count."""
    torn = Node(kind=NodeKind.FILE, mode=0o644, size=6000 * 4096)
    large = Node(kind=NodeKind.FILE, mode=0o644, size=900_000 * 4096)
    many = {b"%d" % number: Node(kind=NodeKind.FILE, mode=0o644) for number in range(50_000)}
    wide = {b"d%d" % number: Node(kind=NodeKind.DIRECTORY, mode=0o755) for number in range(66_000)}
    children = {
        b"torn": torn,
        b"large": large,
        b"many": Node(kind=NodeKind.DIRECTORY, mode=0o755, children=many),
        b"wide": Node(kind=NodeKind.DIRECTORY, mode=0o755, children=wide),
    }
    shapes = {
        id(torn): Shape(tuple((number, 1) for number in range(0, 6000, 2)), b""),
        id(large): Shape(((0, 900_000),), b""),
    }

    root = Node(kind=NodeKind.DIRECTORY, mode=0o755, children=children)
    layout = write_metadata(root, f"{tmp_path}/plain", shapes, slop="0%")

    assert layout.geometry.groups > 25
    assert "Pass 5" in check(f"{tmp_path}/plain")


@needs_e2fsck
@pytest.mark.parametrize("files", [0, 1, 9_000, 33_000])
def test_small_file_systems_are_sound_without_any_slop(tmp_path: Path, files: int) -> None:
    children = {b"%d" % number: Node(kind=NodeKind.FIFO, mode=0o644) for number in range(files)}
    root = Node(kind=NodeKind.DIRECTORY, mode=0o755, children=children)

    write_metadata(root, f"{tmp_path}/plain", {}, slop="0%")

    assert "Pass 5" in check(f"{tmp_path}/plain")


@pytest.mark.skipif(find_program("cryptsetup") is None, reason="cryptsetup is not installed")
def test_cryptsetup_shows_one_slot_of_eight_where_it_puts_it_itself(image: str) -> None:
    dump = run(["cryptsetup", "luksDump", f"{image}/disk.img"], timeout_s=60).stdout.decode()
    words = [line.split() for line in dump.splitlines()]

    assert ["Payload", "offset:", "4096"] in words
    assert ["Key", "material", "offset:", "8"] in words
    assert [line for line in words if line[:1] == ["Iterations:"]] == [["Iterations:", "1000"]]
    assert sum("DISABLED" in line for line in words) == 7
    assert PASSPHRASE.reveal().decode() not in dump


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the program is for x86-64")
def test_the_image_s_program_says_what_it_is_and_fails(tmp_path: Path) -> None:
    (tmp_path / "entrypoint").write_bytes(build_entrypoint())
    (tmp_path / "entrypoint").chmod(0o755)

    with pytest.raises(ToolError, match="confidential workload"):
        run([f"{tmp_path}/entrypoint"], timeout_s=10)
