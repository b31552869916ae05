from __future__ import annotations

import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krunpy.core.errors import FormatError
from krunpy.formats import erofs
from krunpy.formats.crc32c import CRC32C_START, fold_crc32c
from krunpy.formats.device import encode_device

INODE = {"number": 1, "mode": 0o100644, "links": 1, "size": 5, "location": 9, "uid": 0, "gid": 0, "mtime": -1,
         "is_inline": False, "xattr_size": 0}  # fmt: skip


def test_the_checksum_is_that_of_the_kernel() -> None:
    # CRC-32C of "123456789" is 0xe3069283; the kernel leaves out the last inversion
    assert fold_crc32c(CRC32C_START, b"123456789") ^ 0xFFFFFFFF == 0xE3069283


def test_the_superblock_carries_a_checksum_over_its_block() -> None:
    block = bytearray(erofs.pack_superblock(root_nid=2, inodes=3, blocks=4, meta_block=1))
    seen = struct.unpack_from("<I", block, 1028)[0]
    block[1028:1032] = bytes(4)

    assert len(block) == 4096
    assert seen == fold_crc32c(CRC32C_START, block[1024:])


@given(st.lists(st.binary(min_size=1, max_size=255), unique=True, min_size=1, max_size=400).map(sorted))
def test_directory_blocks_hold_every_name_once_and_no_block_overflows(names: list[bytes]) -> None:
    blocks = list(erofs.split_directory(names))

    assert [names[i] for first, last, _ in blocks for i in range(first, last)] == names
    for first, last, used in blocks:
        packed = erofs.pack_directory_block([(name, 1, erofs.FileType.FILE) for name in names[first:last]])
        assert len(packed) == used <= 4096


@pytest.mark.parametrize(
    "change",
    [
        {"size": -1},
        {"uid": 1 << 32},
        {"gid": -1},
        {"mtime": 1 << 63},
        {"location": 1 << 32},
        {"mode": 1 << 16},
        {"links": 1 << 32},
    ],
)
def test_a_field_that_does_not_fit_an_inode_is_refused(change: dict[str, int]) -> None:
    with pytest.raises(FormatError, match="does not fit"):
        erofs.pack_inode(erofs.Inode(**{**INODE, **change}))


def test_devices_are_in_the_kernels_form() -> None:
    assert encode_device(os.makedev(8, 300)) == 44 | 8 << 8 | 256 << 12


@pytest.mark.parametrize("device", [os.makedev(4096, 0), os.makedev(0, 1 << 20)])
def test_a_device_number_that_is_too_large_is_refused(device: int) -> None:
    with pytest.raises(FormatError, match="over 4095:1048575"):
        encode_device(device)


def test_extended_attributes_are_sorted_and_aligned() -> None:
    first = erofs.pack_xattrs({b"user.b": b"12345", b"user.a": b""})

    assert first == erofs.pack_xattrs({b"user.a": b"", b"user.b": b"12345"})
    assert first == bytes(12) + b"\1\1\0\0a\0\0\0" + b"\1\1\5\0b12345\0\0"


def test_extended_attributes_that_the_inode_cannot_count_are_refused() -> None:
    with pytest.raises(FormatError, match="at most"):
        erofs.pack_xattrs({b"user.%d" % index: bytes(65535) for index in range(5)})
