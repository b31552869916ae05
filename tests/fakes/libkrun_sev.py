"""Confidential images of libkrun that krunpy made, for tests: made, decrypted, and file systems without encryption."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from krunpy.core.octets import Secret
from krunpy.formats.krun_footer import KrunConfig
from krunpy.image.legacy import open_legacy
from krunpy.image.libkrun_sev import SevImage, convert_libkrun_sev
from krunpy.image.libkrun_sev_ext4 import Layout
from krunpy.image.libkrun_sev_output import Form, make_output
from krunpy.image.libkrun_sev_plan import make_root, plan_places
from krunpy.image.libkrun_sev_slop import parse_slop
from krunpy.image.luks_reader import LuksReader
from krunpy.image.tree import Node, NodeKind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from krunpy.image.libkrun_sev_survey import Shape
    from krunpy.image.tree import Source

PASSPHRASE = Secret(b"0123456789abcdef" * 4)
CONFIG = KrunConfig(
    workload_id="", cpus=2, ram_mib=512, tee="snp", tee_data='{"gen":"genoa"}', attestation_url=""
)
CONFIG_NODE = Node(kind=NodeKind.FILE, mode=0o600)


def make_image(
    source: Source,
    path: str,
    *,
    form: Form = Form.DISK_ONLY,
    passphrase: Secret = PASSPHRASE,
    config: KrunConfig = CONFIG,
    slop: str = "25%",
) -> SevImage:
    """Write the image of a source and close the source."""
    try:
        with make_output(path, form) as output:
            return convert_libkrun_sev(
                source, output, passphrase=passphrase, config=config, slop=parse_slop(slop)
            )
    finally:
        source.close()


def decrypt(path: str, target: str, passphrase: Secret = PASSPHRASE) -> str:
    """Write the payload of an image's disk in the clear; return where."""
    with open_legacy(path, spool_directory=os.path.dirname(target)) as image:
        image.open(passphrase)
        assert image.volume is not None
        volume = LuksReader(image.disk, image.volume, image._unlock(passphrase))
        with open(target, "wb") as stream:
            stream.writelines(volume.read(offset, 1 << 20) for offset in range(0, volume.size, 1 << 20))
    return target


def write_metadata(root: Node, path: str, shapes: Mapping[int, Shape], slop: str = "25%") -> Layout:
    """Write a file system in the clear, without the contents of its files."""
    layout = Layout(plan_places(make_root(root, CONFIG_NODE), shapes), parse_slop(slop))
    with open(path, "wb") as stream:
        for block, data in layout.pack_metadata():
            stream.seek(block * 4096)
            stream.write(data)
        stream.truncate(layout.geometry.blocks * 4096)
    return layout
