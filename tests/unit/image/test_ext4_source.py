from __future__ import annotations

import contextlib
import os
import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from legacydisks import make_ext4, make_tree
from sourcetrees import tree_digest

from krunpy.core.errors import BundleError, FormatError
from krunpy.core.proc import find_program, run
from krunpy.formats.ext4_parse import parse_superblock
from krunpy.image.ext4_source import Ext4Source
from krunpy.image.limits import Limits
from krunpy.image.source import open_source
from krunpy.image.tree import NodeKind, find_node

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(find_program("mke2fs") is None, reason="e2fsprogs is not installed")
FORMS = {
    "blocks of 1 KiB": ("-b", "1024"),
    "blocks of 2 KiB": ("-b", "2048"),
    "blocks of 4 KiB without journal": ("-b", "4096", "-O", "^has_journal"),
    "no checksums": ("-O", "^metadata_csum"),
    "block maps of ext2, small inodes": ("-O", "^extent,^metadata_csum,^64bit", "-I", "128", "-b", "1024"),
}


class Bytes:
    """A volume in memory."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)

    def read(self, offset: int, size: int) -> bytes:
        return self.data[offset : offset + size]


def source_of(data: bytes, bounds: Limits | None = None) -> Ext4Source:
    more = {} if bounds is None else {"bounds": bounds}
    return Ext4Source(Bytes(data), fingerprint=str, finish=lambda: None, close=lambda: None, **more)


def read_all(source: Ext4Source) -> int:
    return sum(len(piece) for _, _, piece in source.stream())


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tree(tmp_path_factory.mktemp("tree") / "root")


@pytest.fixture(scope="module")
def image(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return make_ext4(tree, tmp_path_factory.mktemp("image") / "fs", "-b", "1024").read_bytes()


@pytest.mark.parametrize("form", FORMS)
def test_the_tree_and_its_contents_are_those_of_the_directory(form: str, tree: Path, tmp_path: Path) -> None:
    raw = make_ext4(tree, tmp_path / "fs", *FORMS[form]).read_bytes()

    wanted = open_source(f"dir:{tree}")
    assert tree_digest(source_of(raw)) == tree_digest(wanted)
    wanted.close()


def test_an_indexed_directory_is_read_whole(tree: Path, tmp_path: Path) -> None:
    path = make_ext4(tree, tmp_path / "fs", "-b", "1024")
    run(["e2fsck", "-fyD", str(path)], timeout_s=60, codes=(0, 1))

    many = find_node(source_of(path.read_bytes()).tree, b"many")
    assert many is not None
    assert len(many.children) == 150


def test_a_hard_link_is_one_node(image: bytes) -> None:
    root = source_of(image).tree

    assert root.children[b"hard"] is find_node(root, b"etc/os-release")


def test_one_flipped_bit_of_the_superblock_is_refused(image: bytes) -> None:
    superblock = bytearray(image[1024:2048])
    parse_superblock(bytes(superblock))
    superblock[0x100] ^= 1

    with pytest.raises(FormatError, match="checksum of the superblock"):
        parse_superblock(bytes(superblock))


def test_one_flipped_bit_of_an_inode_is_refused(image: bytes) -> None:
    source = source_of(image)
    inode = source.tree.children[b"big"].content
    place = image.index(inode.map)
    damaged = bytearray(image)
    damaged[place - 0x28 + 4] ^= 1  # the size

    with pytest.raises(FormatError, match=f"inode {inode.number}: checksum"):
        source_of(bytes(damaged)).read_tree()


def test_one_flipped_bit_of_a_directory_is_refused(image: bytes) -> None:
    damaged = bytearray(image)
    damaged[image.index(b"a-rather-long-name")] ^= 1

    with pytest.raises(FormatError, match=r"directory of inode .*checksum"):
        source_of(bytes(damaged)).read_tree()


@pytest.mark.parametrize(
    ("offset", "value", "reason"),
    [
        (0x60, 0x4, "journal_recovery"),
        (0x60, 0x8000, "inline_data"),
        (0x60, 0x10000, "encrypt"),
        (0x60, 0x20000, "casefold"),
        (0x60, 0x40000000, "unknown features"),
        (0x64, 0x200, "bigalloc"),
        (0x64, 0x10000, "not unmounted cleanly"),
        (0x3A, 0x2, "not unmounted cleanly"),
    ],
)
def test_what_is_not_read_is_refused_by_name(
    tree: Path, tmp_path: Path, offset: int, value: int, reason: str
) -> None:
    raw = bytearray(make_ext4(tree, tmp_path / "fs", "-O", "^metadata_csum").read_bytes())
    number = int.from_bytes(raw[1024 + offset : 1028 + offset], "little") | value
    raw[1024 + offset : 1028 + offset] = number.to_bytes(4, "little")

    with pytest.raises(FormatError, match=reason):
        source_of(bytes(raw))


def test_a_volume_that_is_cut_off_is_refused(image: bytes) -> None:
    with pytest.raises(FormatError, match="the volume"):
        source_of(image[:-1024])


def test_a_directory_below_itself_is_refused(tree: Path, tmp_path: Path) -> None:
    raw = bytearray(make_ext4(tree, tmp_path / "fs", "-O", "^metadata_csum").read_bytes())
    inner = source_of(bytes(raw)).tree.children[b"etc"].content.number
    at = raw.index(b"\x0a\x01os-release") - 6
    raw[at : at + 4] = inner.to_bytes(4, "little")

    with pytest.raises(BundleError, match="a directory that has another name already"):
        source_of(bytes(raw)).read_tree()


def test_more_names_than_allowed_are_refused(image: bytes) -> None:
    with pytest.raises(BundleError, match="more than 20 entries"):
        source_of(image, Limits(entries=20)).read_tree()


def test_blocks_that_are_mapped_more_often_than_there_are_blocks_are_refused(image: bytes) -> None:
    source = source_of(image)
    inode = source.tree.children[b"big"].content
    meter = source.filesystem.make_meter()
    again = (list(source.filesystem.map_data(inode, meter)) for _ in range(100))

    with pytest.raises(FormatError, match="share blocks"):
        list(again)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), count=st.integers(1, 40))
def test_a_damaged_file_system_is_read_or_refused(
    image_without_checksums: bytes, seed: int, count: int
) -> None:
    chance = random.Random(seed)
    raw = bytearray(image_without_checksums)
    used = len(raw) // 8  # superblock, descriptors, inodes and directories lie at the front
    for _ in range(count):
        raw[chance.randrange(1024, used)] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))

    with contextlib.suppress(FormatError, BundleError):
        read_all(source_of(bytes(raw)))


@pytest.fixture(scope="module")
def image_without_checksums(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    options = ("-b", "1024", "-O", "^metadata_csum,^has_journal", "-N", "256")
    return make_ext4(tree, tmp_path_factory.mktemp("plain") / "fs", *options, size="2M").read_bytes()


@pytest.mark.skipif(os.geteuid() != 0, reason="devices and owners need root")
def test_devices_owners_and_attributes_are_read(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "file").write_text("x")
    os.mknod(root / "char", 0o20600, os.makedev(5, 300))
    os.mknod(root / "block", 0o60600, os.makedev(8, 1))
    os.chown(root / "file", 100_000, 200_000)
    with contextlib.suppress(OSError):
        os.setxattr(root / "file", "trusted.name", b"v" * 600)
    wanted = open_source(f"dir:{root}")

    found = source_of(make_ext4(root, tmp_path / "fs").read_bytes())

    assert tree_digest(found) == tree_digest(wanted)
    assert found.tree.children[b"char"].kind is NodeKind.CHAR
    wanted.close()
