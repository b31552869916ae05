"""Our hash tree against veritysetup. No device-mapper is needed."""

from __future__ import annotations

import os
import random
import re
from typing import TYPE_CHECKING

import pytest

from krunpy.core.errors import ToolError
from krunpy.core.octets import Secret
from krunpy.core.proc import find_program, run
from krunpy.image.disk import DiskWriter, plan_disk

if TYPE_CHECKING:
    from krunpy.formats.disk import Disk

pytestmark = pytest.mark.skipif(find_program("veritysetup") is None, reason="veritysetup is not installed")


def make(path: str, blocks: int, key: Secret | None) -> Disk:
    geometry = plan_disk(blocks * 4096, encrypt=key is not None)
    with open(path, "w+b") as stream, DiskWriter(stream.fileno(), geometry, key) as writer:
        writer.write(0, os.urandom(blocks * 4096))
        return writer.finish()


def verify(path: str, disk: Disk) -> None:
    offset = disk.data_blocks * 4096
    run(["veritysetup", "verify", path, path, disk.root_hash.hex(), f"--hash-offset={offset}"], timeout_s=60)


@pytest.mark.parametrize("blocks", [2, 127, 128, 129, 16383, 16384, 16385])
def test_veritysetup_verifies_and_computes_the_same_root(tmp_path, blocks: int) -> None:
    path = str(tmp_path / "disk")
    disk = make(path, blocks, None)

    verify(path, disk)
    argv = [
        "veritysetup",
        "format",
        f"--salt={disk.salt.hex()}",
        f"--data-blocks={blocks}",
        path,
        str(tmp_path / "tree"),
    ]
    text = run(argv, timeout_s=60).stdout.decode()

    found = re.search(r"Root hash:\s+([0-9a-f]{64})", text)
    assert found is not None
    assert found[1] == disk.root_hash.hex()
    tree = (tmp_path / "tree").read_bytes()[4096:]
    with open(path, "rb") as stream:
        stream.seek(disk.hash_start_block * 4096)
        assert stream.read() == tree


def test_a_flipped_bit_anywhere_but_the_superblock_is_found(tmp_path) -> None:
    path = str(tmp_path / "disk")
    disk = make(path, 700, Secret(os.urandom(64)))
    verify(path, disk)
    size = os.stat(path).st_size
    covered = [position for position in range(size) if position // 4096 != disk.data_blocks]
    places = [*random.Random(7).sample(covered, 40), 0, 4096, 32768, disk.payload_offset, size - 1]

    for place in places:
        with open(path, "r+b") as stream:
            stream.seek(place)
            byte = stream.read(1)[0]
            stream.seek(place)
            stream.write(bytes([byte ^ 1 << place % 8]))
            stream.flush()
            with pytest.raises(ToolError):
                verify(path, disk)
            stream.seek(place)
            stream.write(bytes([byte]))
    verify(path, disk)
