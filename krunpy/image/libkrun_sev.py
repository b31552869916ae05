"""Convert a source to a confidential image of libkrun, as `buildah mkcw` makes them, and reproducibly.

    disk.img = LUKS1 header | AES-XTS of an ext4 with /.krun_config.json in it | footer with krun-sev.json

XTS leaks which blocks two disks under one key have in common, so no two different disks may share a key, though one
passphrase may serve many. Hence the source is read twice: the first reading gives a digest of everything that the
file system shows, the second is encrypted. Volume key, salts and UUID come from one seed, of passphrase and digest;
deriving the seed costs what opening the key slot costs, so that it is no cheaper way to try passphrases.
Nothing is written in the clear, not even for a moment. The format itself has no integrity protection.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from krunpy.core.files import write_all
from krunpy.core.octets import Secret
from krunpy.formats import luks1
from krunpy.formats.ext4_write import BLOCK_SIZE
from krunpy.formats.krun_footer import encode_krun_config, pack_footer
from krunpy.image.contents import ContentWriter
from krunpy.image.libkrun_sev_config import DERIVED_ID_SIZE
from krunpy.image.libkrun_sev_ext4 import Layout
from krunpy.image.libkrun_sev_payload import FileBlocks, PayloadWriter
from krunpy.image.libkrun_sev_plan import make_root, plan_places
from krunpy.image.libkrun_sev_survey import Survey
from krunpy.image.tree import Node, NodeKind, walk_tree
from krunpy.oci.layout_write import encode_image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from krunpy.formats.krun_footer import KrunConfig
    from krunpy.image.libkrun_sev_output import Output
    from krunpy.image.libkrun_sev_slop import Slop
    from krunpy.image.tree import Source

LONG_PASSPHRASE = 32  # bytes: from here on it is taken for a key, which needs no stretching
SHORT_ITERATIONS = 600_000  # of PBKDF2 for a shorter one; the guest pays them at every start, up to a second
_STEP = 4 * 1024 * 1024  # bytes between two calls of progress
_DOMAIN = b"krunpy libkrun-sev seed v1\0"


@dataclass(frozen=True, slots=True, kw_only=True)
class SevImage:
    """An image that was made. size: of disk.img in bytes; free: of its file system."""

    config: KrunConfig
    size: int
    free: int


def convert_libkrun_sev(
    source: Source,
    output: Output,
    *,
    passphrase: Secret,
    config: KrunConfig,
    slop: Slop,
    progress: Callable[[int, int], None] | None = None,
) -> SevImage:
    """Write the image of a source: one source, passphrase, configuration and slop give the same bytes.

    config: as `require_config` takes it; an empty workload id is derived.
    progress: called with bytes done and bytes in all, both readings counted.

    Raises BundleError if the source cannot be represented or changes, OSError if the output fails.
    """
    pieces = _Pieces(source, progress)
    survey = Survey()
    for node, offset, piece in pieces.stream():
        survey.take(node, offset, piece)
    layout = Layout(plan_places(make_root(source.tree, pieces.config), survey.finish()), slop)
    iterations = luks1.ITERATIONS if len(passphrase) >= LONG_PASSPHRASE else SHORT_ITERATIONS
    seed = Secret(
        hashlib.pbkdf2_hmac(
            "sha256", passphrase.reveal(), _DOMAIN + layout.digest, iterations, luks1.SEED_SIZE
        )
    )
    if not config.workload_id:
        config = replace(config, workload_id=luks1.derive(seed, b"workload id", DERIVED_ID_SIZE // 2).hex())
    document = encode_krun_config(config)
    footer = pack_footer(document)
    payload_size = layout.geometry.blocks * BLOCK_SIZE
    size = luks1.PAYLOAD_OFFSET + payload_size + len(footer)
    descriptor, start = output.open_disk(document, size)
    write_all(descriptor, luks1.build_header(seed, passphrase, iterations), start)
    writer = PayloadWriter(descriptor, start + luks1.PAYLOAD_OFFSET, luks1.derive_key(seed))
    _write_payload(layout, writer, pieces)
    source.finish()
    write_all(descriptor, footer, start + luks1.PAYLOAD_OFFSET + payload_size)
    return SevImage(
        config=config, size=size, free=sum(end - start for start, end in layout.gaps) * BLOCK_SIZE
    )


def _write_payload(layout: Layout, writer: PayloadWriter, pieces: _Pieces) -> None:
    for block, data in layout.pack_metadata():
        writer.put(block, data)
    contents = ContentWriter(layout, FileBlocks(layout, writer))
    for node, offset, piece in pieces.stream():
        if id(node) in layout.places:  # the source's own /.krun_config.json is not
            contents.take(node, offset, piece)
    contents.finish()
    for first, end in layout.gaps:
        writer.fill(first, end - first)
    writer.flush()
    assert writer.written == layout.geometry.blocks, (
        f"{writer.written} of {layout.geometry.blocks} blocks were written"
    )


class _Pieces:
    """The contents of a source's files and of the configuration, read as often as they are asked for."""

    def __init__(self, source: Source, progress: Callable[[int, int], None] | None) -> None:
        document = encode_image(source.config, ())
        self.config = Node(kind=NodeKind.FILE, mode=0o600, size=len(document), content=document)
        self._source = source
        self._progress = progress
        self._done = 0
        files = {id(node): node.size for _, node in walk_tree(source.tree)}
        self._total = 2 * sum(files.values())

    def stream(self) -> Iterator[tuple[Node, int, bytes | memoryview]]:
        yield self.config, 0, self.config.content
        told = start = self._done
        for node, offset, piece in self._source.stream():
            yield node, offset, piece
            self._done += len(piece)
            if self._progress is not None and self._done - told >= _STEP:
                told = self._done
                self._progress(self._done, self._total)
        # holes count as done
        self._done = start + self._total // 2
        if self._progress is not None:
            self._progress(self._done, self._total)
