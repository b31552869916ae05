from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING

import pytest
from legacydisks import (
    CONFIG,
    KEY,
    PASSPHRASE,
    make_disk,
    make_ext4,
    make_footer,
    make_image,
    make_luks1,
    make_tree,
)
from sourcetars import Layout, entry, layer, squeezed
from sourcetrees import describe_tree, tree_digest

from krunpy.core.errors import BundleError, FormatError, UsageError
from krunpy.core.octets import Secret
from krunpy.core.proc import find_program
from krunpy.formats.krun_footer import parse_footer, parse_krun_config
from krunpy.image.blob import open_region
from krunpy.image.cache import ImageCache
from krunpy.image.convert import ConvertOptions, convert
from krunpy.image.legacy import LegacyImage, open_legacy
from krunpy.image.legacy_config import parse_image_config
from krunpy.image.legacy_report import report_image
from krunpy.image.legacy_unpack import unpack
from krunpy.image.source import open_source

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(find_program("mke2fs") is None, reason="e2fsprogs is not installed")
SECRET = Secret(PASSPHRASE)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tree(tmp_path_factory.mktemp("tree") / "root")


@pytest.fixture(scope="module")
def filesystem(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_ext4(tree, tmp_path_factory.mktemp("fs") / "fs", "-b", "1024")


@pytest.fixture
def image(filesystem: Path, tmp_path: Path) -> Path:
    return make_image(tmp_path / "image", filesystem)


def opened(path: Path, tmp_path: Path) -> LegacyImage:
    return open_legacy(str(path), spool_directory=str(tmp_path))


def findings(path: Path, tmp_path: Path, secret: Secret | None = None) -> str:
    with opened(path, tmp_path) as legacy:
        source = legacy.open(secret) if secret is not None else None
        return "\n".join(report_image(legacy, source, secret).findings)


def test_the_root_file_system_is_that_of_the_tree_and_its_configuration_is_read(
    image: Path, tree: Path, tmp_path: Path
) -> None:
    with opened(image, tmp_path) as legacy:
        source = legacy.open(SECRET)
        assert source.config.cmd == ("/bin/a",)
        assert source.config.env == ("A=b",)
        found = tree_digest(source)

    wanted = open_source(f"dir:{tree}")
    wanted.tree.children.pop(b".krun_config.json")
    assert found == tree_digest(wanted)
    wanted.close()


@pytest.mark.parametrize("is_compressed", [False, True])
def test_a_disk_inside_an_image_is_found(filesystem: Path, tmp_path: Path, *, is_compressed: bool) -> None:
    document = json.dumps(CONFIG).encode()
    raw = layer(entry(b"disk.img", make_disk(filesystem)), entry(b"krun-sev.json", document))
    Layout([raw], stored=[squeezed(raw)] if is_compressed else None).write(tmp_path / "layout")

    with opened(tmp_path / "layout", tmp_path) as legacy:
        assert legacy.open(SECRET).tree.children[b"big"].size == 512_000


def test_a_disk_alone_is_found(image: Path, tmp_path: Path) -> None:
    with opened(image / "disk.img", tmp_path) as legacy:
        assert legacy.document is None
        assert b"etc" in legacy.open(SECRET).tree.children


def test_another_passphrase_is_refused(image: Path, tmp_path: Path) -> None:
    with opened(image, tmp_path) as legacy, pytest.raises(UsageError, match="opens none of its key slots"):
        legacy.open(Secret(b"wrong"))


def test_no_passphrase_is_refused(image: Path, tmp_path: Path) -> None:
    with opened(image, tmp_path) as legacy, pytest.raises(UsageError, match="it is encrypted"):
        legacy.open(None)


def test_a_source_without_a_disk_is_refused(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no files disk\.img and krun-sev\.json"):
        opened(tree, tmp_path)


def test_a_disk_that_changes_while_it_is_read_is_refused(image: Path, tmp_path: Path) -> None:
    with opened(image, tmp_path) as legacy:
        source = legacy.open(SECRET)
        os.utime(image / "disk.img", (1, 1))

        with pytest.raises(BundleError, match="changed while it was read"):
            source.finish()


def test_it_unpacks_to_what_it_was_made_from(image: Path, tree: Path, tmp_path: Path) -> None:
    with opened(image, tmp_path) as legacy:
        unpack(legacy.open(SECRET), str(tmp_path / "out"))

    def rows(path: Path) -> dict[bytes, tuple[object, ...]]:
        source = open_source(f"dir:{path}")
        found = describe_tree(source.tree, {})
        source.close()
        return found

    assert rows(tmp_path / "out") == rows(tree)
    assert (tmp_path / "out/big").read_bytes() == (tree / "big").read_bytes()
    assert os.stat(tmp_path / "out/hard").st_ino == os.stat(tmp_path / "out/etc/os-release").st_ino
    assert os.stat(tmp_path / "out/sparse").st_blocks < 100


def test_it_does_not_unpack_over_anything(image: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()

    with opened(image, tmp_path) as legacy, pytest.raises(UsageError, match="it exists"):
        unpack(legacy.open(SECRET), str(tmp_path / "out"))


def test_nothing_is_left_of_an_unpacking_that_fails(filesystem: Path, tmp_path: Path) -> None:
    folder = make_image(tmp_path / "image", filesystem)
    with opened(folder, tmp_path) as legacy:
        source = legacy.open(SECRET)
        os.utime(folder / "disk.img", (1, 1))
        with pytest.raises(BundleError):
            unpack(source, str(tmp_path / "out"))

    assert [path.name for path in tmp_path.iterdir()] == ["image"]


def test_one_key_and_one_disk_give_one_image(image: Path, tmp_path: Path) -> None:
    hashes = set()
    for name in ("a", "b"):
        cache = ImageCache(str(tmp_path / name), lambda: 1.0)
        with opened(image, tmp_path) as legacy:
            made = convert(legacy.open(SECRET), cache=cache, options=ConvertOptions(key=Secret(KEY)))
        hashes.add((made.image_id, made.disk.root_hash))

    assert len(hashes) == 1


def test_importing_writes_no_plaintext(image: Path, tmp_path: Path) -> None:
    cache = ImageCache(str(tmp_path / "cache"), lambda: 1.0)
    with opened(image, tmp_path) as legacy:
        convert(legacy.open(SECRET), cache=cache, options=ConvertOptions(key=Secret(KEY)))

    command = ["grep", "-rlF", "a-rather-long-name", str(tmp_path)]
    assert subprocess.run(command, capture_output=True, check=False).stdout == b""


def test_missing_integrity_and_the_generation_are_said(image: Path, tmp_path: Path) -> None:
    said = findings(image, tmp_path)

    assert "no integrity protection" in said
    assert "milan only" in said


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        ({"workload_id": "w" * 256}, "workload id overflows"),
        ({"attestation_url": "https://h/" + "u" * 90}, "URL overflows"),
        ({"attestation_url": "http://h"}, "plain http"),
        ({"attestation_url": "https://h"}, "can debug"),
        ({"tee": "abc"}, "is not one of"),
        ({"cpus": 0}, "not one that libkrun reads"),
    ],
)
def test_what_is_wrong_with_the_configuration_is_said(
    filesystem: Path, tmp_path: Path, change: dict[str, object], finding: str
) -> None:
    assert finding in findings(make_image(tmp_path / "image", filesystem, CONFIG | change), tmp_path)


def test_sound_strings_are_not_said_to_overflow(filesystem: Path, tmp_path: Path) -> None:
    sound = CONFIG | {"workload_id": "w" * 255, "attestation_url": "https://h/" + "u" * 89}

    assert "overflows" not in findings(make_image(tmp_path / "image", filesystem, sound), tmp_path)


def test_plaintext_beside_the_disk_is_said(image: Path, tmp_path: Path) -> None:
    (image / "plain.img123").write_bytes(b"")

    assert "plain.img123" in findings(image, tmp_path)


def test_a_footer_that_differs_is_said(image: Path, tmp_path: Path) -> None:
    (image / "krun-sev.json").write_text(json.dumps(CONFIG | {"cpus": 4}))

    assert "differ" in findings(image, tmp_path)


def test_the_passphrase_in_the_image_is_said_and_not_shown(filesystem: Path, tmp_path: Path) -> None:
    folder = make_image(tmp_path / "image", filesystem, CONFIG | {"note": PASSPHRASE.decode()})

    said = findings(folder, tmp_path, SECRET)

    assert "holds the passphrase" in said
    assert PASSPHRASE.decode() not in said


def test_the_facts_are_those_of_the_disk(image: Path, tmp_path: Path) -> None:
    with opened(image, tmp_path) as legacy:
        facts = report_image(legacy, legacy.open(SECRET), SECRET).facts

    assert facts["luks_version"] == 1
    assert facts["cipher"] == "aes-xts-plain64"
    assert facts["memory_mib"] == 512
    assert facts["key_slots"] == [{"name": "1", "kdf": "pbkdf2-sha256, 1000 iterations", "opens_here": True}]


def test_a_footer_longer_than_the_disk_is_refused() -> None:
    with pytest.raises(FormatError, match="it says that it has"):
        parse_footer(b"x" + b"KRUN" + (100).to_bytes(8, "little"))


def test_a_footer_is_read_back() -> None:
    raw = parse_footer(b"before" + make_footer(CONFIG))

    assert raw is not None
    assert parse_krun_config(raw).workload_id == "wl"
    assert parse_footer(b"no footer at all") is None


def test_the_configuration_of_oci2cw_is_what_buildah_inspect_prints() -> None:
    image = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": ["/e"], "WorkingDir": "/w"},
        "rootfs": {},
    }
    raw = json.dumps({"Type": "buildah 0.0.1", "FromImage": "x", "OCIv1": image}).encode()

    assert parse_image_config(raw).entrypoint == ("/e",)


def test_a_payload_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    (tmp_path / "disk.img").write_bytes(make_luks1()[:300_000])
    region = open_region(str(tmp_path / "disk.img"), "disk.img")

    with (
        LegacyImage(disk=region, document=None, names=()) as legacy,
        pytest.raises(FormatError, match=r"is cut off|payload reaches"),
    ):
        legacy.open(SECRET)
