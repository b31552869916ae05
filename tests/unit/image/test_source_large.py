"""Layers that are large without being bombs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sourcetars import Layout, entry, layer

from krunpy.image.limits import Limits
from krunpy.image.source import open_source

if TYPE_CHECKING:
    from pathlib import Path


def test_a_large_layer_that_is_not_compressed_is_no_bomb(tmp_path: Path) -> None:
    plain = layer(entry(b"large", bytes(8 << 20)))

    source = open_source(Layout([plain]).write(tmp_path / "l"), bounds=Limits(ratio=2, ratio_from=1 << 20))

    assert source.tree.children[b"large"].size == 8 << 20
    source.close()
