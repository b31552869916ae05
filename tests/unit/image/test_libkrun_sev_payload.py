"""The encrypted payload: every block once, wherever it lies, in sectors of 512 bytes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from krunpy.core.errors import BundleError
from krunpy.core.octets import Secret
from krunpy.image.libkrun_sev_payload import BATCH_BLOCKS, FileBlocks, PayloadWriter
from krunpy.image.libkrun_sev_survey import Shape
from krunpy.image.tree import Node, NodeKind
from tests.fakes.libkrun_sev import write_metadata
from tests.unit.image.legacydisks import encrypt

if TYPE_CHECKING:
    from pathlib import Path

    from krunpy.image.libkrun_sev_ext4 import Layout

KEY = bytes(range(64))
RUNS = ((16, 16), (48, 1), (64, 36))


@settings(max_examples=20, deadline=None)
@given(sizes=st.lists(st.integers(1, 300), min_size=1, max_size=6), order=st.randoms(use_true_random=False))
def test_blocks_in_any_order_are_encrypted_as_sectors_of_their_place(tmp_path_factory, sizes, order) -> None:
    data = os.urandom(4096) * sum(sizes)
    starts = [sum(sizes[:index]) for index in range(len(sizes))]
    pieces = list(zip(starts, sizes, strict=True))
    order.shuffle(pieces)
    path = tmp_path_factory.mktemp("payload") / "disk"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)

    writer = PayloadWriter(descriptor, 4096, Secret(KEY))
    for first, count in pieces:
        writer.put(first, data[first * 4096 : (first + count) * 4096])
    writer.flush()
    os.close(descriptor)

    assert writer.written == sum(sizes)
    assert path.read_bytes()[4096:] == encrypt(KEY, data)


def test_zeros_are_encrypted_too(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path / "disk", os.O_RDWR | os.O_CREAT)

    writer = PayloadWriter(descriptor, 0, Secret(KEY))
    writer.fill(0, BATCH_BLOCKS + 3)
    writer.flush()
    os.close(descriptor)

    raw = (tmp_path / "disk").read_bytes()
    sectors = {raw[at : at + 512] for at in range(0, len(raw), 512)}
    assert len(sectors) == (BATCH_BLOCKS + 3) * 8
    assert bytes(512) not in sectors


class Blocks:
    """What was put where, each block once."""

    def __init__(self) -> None:
        self.found: dict[int, bytes] = {}

    def put(self, block: int, data: memoryview) -> None:
        for index in range(len(data) // 4096):
            assert block + index not in self.found
            self.found[block + index] = bytes(data[index * 4096 : (index + 1) * 4096])

    def fill(self, block: int, count: int) -> None:
        self.put(block, memoryview(bytes(count * 4096)))


@pytest.fixture
def torn(tmp_path: Path) -> tuple[Layout, Node]:
    """A file of 100 blocks of which RUNS are stored."""
    file = Node(kind=NodeKind.FILE, mode=0o644, size=100 * 4096)
    root = Node(kind=NodeKind.DIRECTORY, mode=0o755, children={b"file": file})
    return write_metadata(root, f"{tmp_path}/plain", {id(file): Shape(RUNS, b"")}), file


def contents_of(block: int) -> bytes:
    stored = any(first <= block < first + count for first, count in RUNS)
    return bytes([block + 1 if stored else 0]) * 4096


@pytest.mark.parametrize("pieces", [[(0, 100)], [(0, 33), (33, 67)], [(16, 16), (48, 1), (64, 36)]])
def test_blocks_of_a_file_find_their_places_around_holes(torn, pieces: list[tuple[int, int]]) -> None:
    layout, file = torn
    place, blocks = layout.find_place(file), Blocks()

    target = FileBlocks(layout, blocks)
    for first, count in pieces:
        target.write((place.block + first) * 4096, b"".join(map(contents_of, range(first, first + count))))

    assert blocks.found == {
        each.physical + step: contents_of(each.logical + step)
        for each in place.extents
        for step in range(each.blocks)
    }


def test_zeros_that_were_left_out_reach_stored_blocks_only(torn) -> None:
    layout, file = torn
    place, blocks = layout.find_place(file), Blocks()

    FileBlocks(layout, blocks).fill(place.block * 4096, 100 * 4096)

    assert len(blocks.found) == sum(count for _, count in RUNS)
    assert set(blocks.found.values()) == {bytes(4096)}


def test_what_is_no_zeros_in_a_hole_is_refused(torn) -> None:
    layout, file = torn
    place = layout.find_place(file)

    with pytest.raises(BundleError, match="cannot read"):
        FileBlocks(layout, Blocks()).write((place.block + 15) * 4096, bytes(4095) + b"x")
