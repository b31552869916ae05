from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krunpy.core.errors import FormatError
from krunpy.formats.verity import Superblock, hash_blocks, pack_superblock, parse_superblock, plan_tree

SUPERBLOCK = Superblock(data_blocks=1000, salt=bytes(range(32)), uuid=b"u" * 16)


@pytest.mark.parametrize(
    ("data_blocks", "levels"),
    [(1, []), (2, [1]), (128, [1]), (129, [2, 1]), (16384, [128, 1]), (16385, [129, 2, 1])],
)
def test_a_level_has_one_digest_for_each_block_below(data_blocks: int, levels: list[int]) -> None:
    assert [level.blocks for level in plan_tree(data_blocks, 7)] == levels


def test_the_top_level_comes_first_on_the_disk() -> None:
    assert [level.start for level in plan_tree(16385, 100)] == [103, 101, 100]


def test_the_salt_stands_before_the_block() -> None:
    data = b"a" * 4096 + b"b" * 4096

    assert hash_blocks(b"salt", data)[32:] == hashlib.sha256(b"salt" + b"b" * 4096).digest()


@given(st.integers(1, 2**48), st.binary(max_size=256), st.binary(min_size=16, max_size=16))
def test_a_superblock_reads_back(data_blocks: int, salt: bytes, uuid: bytes) -> None:
    superblock = Superblock(data_blocks=data_blocks, salt=salt, uuid=uuid)

    assert parse_superblock(pack_superblock(superblock) + b"more") == superblock


@given(
    st.binary(max_size=700) | st.binary(max_size=520).map(lambda tail: b"verity\0\0\1\0\0\0\1\0\0\0" + tail)
)
def test_any_bytes_give_a_superblock_or_a_format_error(data: bytes) -> None:
    try:
        parse_superblock(data)
    except FormatError:
        return


@pytest.mark.parametrize("offset", [0, 8, 12, 32, 37, 64, 68, 80 + 1, 82, 130, 400])
def test_a_changed_byte_of_the_superblock_is_refused(offset: int) -> None:
    data = bytearray(pack_superblock(SUPERBLOCK))
    data[offset] ^= 2

    with pytest.raises(FormatError, match="cannot read the verity superblock"):
        parse_superblock(bytes(data))
