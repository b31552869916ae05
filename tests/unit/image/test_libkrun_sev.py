"""Confidential images of libkrun, made from directories and archives and read back; what they may not show."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from krunpy.core.errors import BundleError, HostError, UsageError
from krunpy.core.octets import Secret
from krunpy.formats.krun_footer import parse_footer, parse_krun_config
from krunpy.image.legacy import open_legacy
from krunpy.image.legacy_report import report_image
from krunpy.image.libkrun_sev_output import Form, make_output
from krunpy.image.libkrun_sev_survey import UNIT_SIZE, Survey
from krunpy.image.source import open_source
from krunpy.image.tree import Node, NodeKind
from krunpy.oci.manifest import ImageConfig
from tests.fakes.libkrun_sev import CONFIG, PASSPHRASE, decrypt, make_image
from tests.unit.image.legacydisks import make_tree
from tests.unit.image.sourcetrees import describe, tree_digest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from krunpy.image.tree import Source

MARKER = b"plain text that must not be seen "


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = make_tree(tmp_path / "root")
    (root / ".krun_config.json").unlink()
    (root / "marked").write_bytes(MARKER * 1000)
    os.setxattr(root / "big", b"user.note", b"value")
    return root


def archive(tree: Path, target: Path, *, shuffled: bool = False) -> str:
    """Return a docker-archive of the tree, as a source."""
    layer = target.with_suffix(".layer")
    with tarfile.open(layer, "w", format=tarfile.PAX_FORMAT) as stream:
        names = sorted(tree.rglob("*"), reverse=shuffled)
        for path in names:
            entry = stream.gettarinfo(str(path), str(path.relative_to(tree)))
            if path.name == "big":
                entry.pax_headers = {"SCHILY.xattr.user.note": "value"}
            with open(path, "rb") if entry.isreg() else open(os.devnull, "rb") as contents:
                stream.addfile(entry, contents if entry.isreg() else None)
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {
            "type": "layers",
            "diff_ids": [f"sha256:{hashlib.sha256(layer.read_bytes()).hexdigest()}"],
        },
    }
    (target.parent / "config.json").write_text(json.dumps(config))
    (target.parent / "manifest.json").write_text(
        json.dumps([{"Config": "config.json", "Layers": [layer.name]}])
    )
    with tarfile.open(target, "w") as stream:
        for name in ("config.json", "manifest.json", layer.name):
            stream.add(target.parent / name, name)
    return f"docker-archive:{target}"


def test_it_is_read_back_as_it_was(tree: Path, tmp_path: Path) -> None:
    wanted = describe(open_source(f"dir:{tree}"))
    make_image(open_source(f"dir:{tree}"), f"{tmp_path}/image")

    with open_legacy(f"{tmp_path}/image", spool_directory=str(tmp_path)) as image:
        assert describe(image.open(PASSPHRASE)) == wanted


def test_inspect_finds_only_what_the_format_lacks(tree: Path, tmp_path: Path) -> None:
    make_image(open_source(f"dir:{tree}"), f"{tmp_path}/image")

    with open_legacy(f"{tmp_path}/image", spool_directory=str(tmp_path)) as image:
        report = report_image(image, image.open(PASSPHRASE), PASSPHRASE)

    assert [finding.split(":")[0] for finding in report.findings] == ["the disk has no integrity protection"]


@pytest.mark.parametrize("form", Form)
def test_the_same_twice_gives_the_same_bytes(tree: Path, tmp_path: Path, form: Form) -> None:
    for name in ("one", "two"):
        make_image(open_source(f"dir:{tree}"), f"{tmp_path}/{name}", form=form)

    assert read_all(tmp_path / "one") == read_all(tmp_path / "two")


def test_a_directory_and_its_archive_give_the_same_disk(tree: Path, tmp_path: Path) -> None:
    (tree / "fifo").unlink()
    os.utime(tree, (1_000_000, 1_000_000))
    (tmp_path / "a").mkdir()
    make_image(open_source(f"dir:{tree}"), f"{tmp_path}/one")
    make_image(open_source(archive(tree, tmp_path / "a/image.tar", shuffled=True)), f"{tmp_path}/two")

    assert read_all(tmp_path / "one") == read_all(tmp_path / "two")


def test_the_disk_ends_as_libkrun_wants_it(tree: Path, tmp_path: Path) -> None:
    made = make_image(open_source(f"dir:{tree}"), f"{tmp_path}/image")
    disk, document = (
        (tmp_path / "image/disk.img").read_bytes(),
        (tmp_path / "image/krun-sev.json").read_bytes(),
    )

    assert len(disk) == made.size
    assert len(disk) % 4096 == 0
    assert parse_footer(disk) == document
    assert set(json.loads(document)) == {
        "tee", "tee_data", "workload_id", "cpus", "ram_mib", "attestation_url",
    }  # fmt: skip
    assert parse_krun_config(document) == replace(CONFIG, workload_id=made.config.workload_id)


def test_nothing_of_the_contents_or_the_passphrase_is_seen(tree: Path, tmp_path: Path) -> None:
    make_image(open_source(f"dir:{tree}"), f"{tmp_path}/image.tar", form=Form.ARCHIVE)
    raw = (tmp_path / "image.tar").read_bytes()

    assert MARKER not in raw
    assert b"os-release" not in raw
    assert PASSPHRASE.reveal() not in raw
    assert MARKER in (tmp_path / decrypt_to(tmp_path / "image.tar", tmp_path)).read_bytes()


def test_one_changed_byte_of_a_file_changes_every_block(tree: Path, tmp_path: Path) -> None:
    """The key depends on the contents: under one key, all other blocks would be the same."""
    make_image(open_source(f"dir:{tree}"), f"{tmp_path}/one")
    status = os.stat(tree / "marked")
    with open(tree / "marked", "r+b") as stream:
        stream.write(b"P")
    os.utime(tree / "marked", ns=(status.st_atime_ns, status.st_mtime_ns))
    make_image(open_source(f"dir:{tree}"), f"{tmp_path}/two")

    assert shared_blocks(tmp_path) == 0


@pytest.mark.parametrize(
    "options", [{"passphrase": Secret(b"f" * 64)}, {"slop": "30MB"}], ids=["passphrase", "slop"]
)
def test_another_passphrase_or_room_changes_every_block(
    tree: Path, tmp_path: Path, options: dict[str, object]
) -> None:
    make_image(open_source(f"dir:{tree}"), f"{tmp_path}/one")
    make_image(open_source(f"dir:{tree}"), f"{tmp_path}/two", **options)

    assert shared_blocks(tmp_path) == 0


def test_a_short_passphrase_costs_more(tree: Path, tmp_path: Path) -> None:
    make_image(open_source(f"dir:{tree}"), f"{tmp_path}/image", passphrase=Secret(b"secret123"))

    with open_legacy(f"{tmp_path}/image", spool_directory=str(tmp_path)) as image:
        assert image.volume is not None
        assert [slot.kdf.cost for slot in image.volume.keyslots] == [600_000]
        image.open(Secret(b"secret123"))


@pytest.mark.parametrize(("slop", "most"), [("64MB", 1 << 20), ("400%+20MB", 6 << 20)])
def test_slop_is_free_beside_the_contents(tree: Path, tmp_path: Path, slop: str, most: int) -> None:
    made = make_image(open_source(f"dir:{tree}"), f"{tmp_path}/image", slop=slop)

    wanted = {"64MB": 64 << 20, "400%+20MB": 20 << 20}[slop]
    assert wanted <= made.free <= wanted + most


def test_an_image_layout_is_one_that_we_open(tree: Path, tmp_path: Path) -> None:
    wanted = tree_digest(open_source(f"dir:{tree}"))
    make_image(open_source(f"dir:{tree}"), f"{tmp_path}/layout", form=Form.LAYOUT)
    outer = open_source(f"oci:{tmp_path}/layout")

    names = (b"entrypoint", b"tmp", b"disk.img", b"krun-sev.json")
    modes = {name: outer.tree.children[name].mode for name in names}
    assert modes == {b"entrypoint": 0o755, b"tmp": 0o1777, b"disk.img": 0o600, b"krun-sev.json": 0o600}
    assert outer.config.entrypoint == ("/entrypoint",)
    outer.close()
    with open_legacy(f"oci:{tmp_path}/layout", spool_directory=str(tmp_path)) as image:
        assert tree_digest(image.open(PASSPHRASE)) == wanted


def test_the_image_s_configuration_is_inside(tree: Path, tmp_path: Path) -> None:
    source = open_source(f"dir:{tree}")
    source.config = ImageConfig(cmd=("/bin/a", "b"), env=("A=b",), cwd="/etc", labels={"x": "y"})
    make_image(source, f"{tmp_path}/image")

    with open_legacy(f"{tmp_path}/image", spool_directory=str(tmp_path)) as image:
        assert image.open(PASSPHRASE).config == source.config


class Changing:
    """A source whose files are read once as they are, and then with other bytes."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._reads = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._source, name)

    def stream(self) -> Iterator[tuple[Node, int, bytes]]:
        self._reads += 1
        for node, offset, piece in self._source.stream():
            yield node, offset, bytes(piece) if self._reads == 1 else b"\1" * len(piece)


def test_a_hole_that_fills_between_the_two_readings_is_refused_and_nothing_stays(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root/zeros").write_bytes(bytes(4 * UNIT_SIZE))
    (tmp_path / "out").mkdir()

    with pytest.raises(BundleError, match="cannot read"):
        make_image(Changing(open_source(f"dir:{tmp_path}/root")), f"{tmp_path}/out/image")

    assert os.listdir(tmp_path / "out") == []


@pytest.mark.parametrize("form", Form)
def test_an_interrupted_output_leaves_nothing(tmp_path: Path, form: Form) -> None:
    def interrupt() -> None:
        with make_output(f"{tmp_path}/image", form) as output:
            output.open_disk(b"{}", 8192)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()

    assert os.listdir(tmp_path) == []


def test_what_is_there_already_stays(tmp_path: Path) -> None:
    (tmp_path / "image").write_text("mine")

    with pytest.raises(UsageError, match="cannot write"), make_output(f"{tmp_path}/image", Form.ARCHIVE):
        pass

    assert (tmp_path / "image").read_text() == "mine"


def test_a_full_or_missing_place_is_said(tmp_path: Path) -> None:
    with (
        pytest.raises(HostError, match="cannot write"),
        make_output(f"{tmp_path}/none/image", Form.ARCHIVE) as output,
    ):
        output.open_disk(b"{}", 8192)


def survey(size: int, *pieces: tuple[int, bytes]) -> object:
    node = Node(kind=NodeKind.FILE, mode=0o644, size=size)
    found = Survey()
    for offset, piece in pieces:
        found.take(node, offset, piece)
    return found.finish().get(id(node))


def test_a_hole_and_written_zeros_are_the_same() -> None:
    end = b"end" + bytes(UNIT_SIZE) + b"x"
    size = 3 * UNIT_SIZE + len(end)

    holes = survey(size, (3 * UNIT_SIZE, b"end"), (size - 1, b"x"))
    written = survey(size, (0, bytes(3 * UNIT_SIZE) + end))
    bytewise = survey(
        size,
        *((at, end[at - 3 * UNIT_SIZE : at - 3 * UNIT_SIZE + 777]) for at in range(3 * UNIT_SIZE, size, 777)),
    )

    assert holes == written == bytewise
    assert holes.runs == ((48, 17),)


def test_other_places_of_the_same_bytes_are_another_content() -> None:
    size = 4 * UNIT_SIZE

    shapes = [survey(size, (at, b"x")) for at in (0, 1, UNIT_SIZE, UNIT_SIZE + 1)]

    assert len({shape.digest for shape in shapes}) == 4


@pytest.mark.parametrize("pieces", [[(0, b"xx"), (1, b"x")], [(9, b"xx")], [(0, b"x" * 10), (0, b"x")]])
def test_pieces_that_overlap_or_stick_out_are_refused(pieces: list[tuple[int, bytes]]) -> None:
    with pytest.raises(BundleError, match="cannot read"):
        survey(10, *pieces)


def read_all(path: Path) -> dict[str, bytes]:
    if path.is_file():
        return {"": path.read_bytes()}
    return {str(each.relative_to(path)): each.read_bytes() for each in path.rglob("*") if each.is_file()}


def shared_blocks(tmp_path: Path) -> int:
    one, two = ((tmp_path / name / "disk.img").read_bytes() for name in ("one", "two"))
    start = 2 << 20
    blocks = range(start, min(len(one), len(two)) - 4096, 4096)
    return sum(one[at : at + 4096] == two[at : at + 4096] for at in blocks)


def decrypt_to(path: Path, tmp_path: Path) -> str:
    return os.path.basename(decrypt(str(path), f"{tmp_path}/plain"))
