"""Confidential images of libkrun that we write: cryptsetup opens them, e2fsck agrees, our reader reads them back."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from krunpy.cli.app import app
from krunpy.core.octets import Secret
from krunpy.image.legacy import open_legacy
from krunpy.image.luks_reader import LuksReader

if TYPE_CHECKING:
    from pathlib import Path

PASSPHRASE = b"correct horse battery staple"
MARKER = b"plaintext that no disk may hold"
BLOCK = 4096


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "bin").mkdir(parents=True)
    (root / "bin/sh").write_bytes(MARKER * 1000)
    os.link(root / "bin/sh", root / "bin/ash")
    (root / "short").symlink_to("bin/sh")
    (root / "long").symlink_to("x" * 200)
    with open(root / "sparse", "wb") as stream:
        stream.seek(3 * 2**20)
        stream.write(b"end")
    (root / "many").mkdir()
    for number in range(300):
        (root / "many" / f"a-rather-long-name-{number:04}").write_text(str(number))
    os.mkfifo(root / "fifo")
    return root


@pytest.fixture
def convert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("KRUNPY_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("KRUNPY_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "passphrase").write_bytes(PASSPHRASE)

    def call(source: Path, output: Path, *options: str) -> Path:
        words = ["image", "convert", "--format", "libkrun-sev", *options]
        words += ["--passphrase-file", str(tmp_path / "passphrase"), f"dir:{source}", str(output)]
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, result.output
        return output

    return call


def test_cryptsetup_opens_it_with_its_passphrase_only(tree, convert, tmp_path):
    if shutil.which("cryptsetup") is None:
        pytest.skip("cryptsetup is not installed")
    disk = convert(tree, tmp_path / "out", "--disk-only") / "disk.img"

    for passphrase, wanted in ((PASSPHRASE, 0), (PASSPHRASE + b"r", 2)):
        words = ["cryptsetup", "open", "--test-passphrase", "--key-file", "-", str(disk)]
        assert subprocess.run(words, input=passphrase, check=False, capture_output=True).returncode == wanted


def test_e2fsck_finds_nothing_wrong_with_the_file_system(tree, convert, tmp_path):
    if shutil.which("e2fsck") is None:
        pytest.skip("e2fsck is not installed")
    output = convert(tree, tmp_path / "out", "--disk-only")
    plain = tmp_path / "plain.img"
    plain.write_bytes(_decrypt(output))

    done = subprocess.run(["e2fsck", "-fn", str(plain)], check=False, capture_output=True, text=True)

    assert done.returncode == 0, done.stdout
    assert MARKER in plain.read_bytes()


def test_it_is_read_back_as_it_was(tree, convert, tmp_path):
    output, back = convert(tree, tmp_path / "out", "--disk-only"), tmp_path / "back"

    words = ["image", "unpack", "--passphrase-file", str(tmp_path / "passphrase"), str(output), str(back)]
    result = CliRunner().invoke(app, words)

    assert result.exit_code == 0, result.output
    for name in ("bin/sh", "sparse", "many/a-rather-long-name-0299"):
        assert (back / name).read_bytes() == (tree / name).read_bytes()
    assert os.readlink(back / "short") == "bin/sh"
    assert os.readlink(back / "long") == "x" * 200
    assert (back / "bin/ash").stat().st_ino == (back / "bin/sh").stat().st_ino
    assert len(list((back / "many").iterdir())) == 300


def test_the_same_source_and_passphrase_give_the_same_archive_and_no_plaintext(tree, convert, tmp_path):
    first = convert(tree, tmp_path / "a.tar").read_bytes()

    assert first == convert(tree, tmp_path / "b.tar").read_bytes()
    assert MARKER not in first
    left = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert not [path for path in left if MARKER in path.read_bytes()]


def test_the_archive_holds_what_libkrun_looks_for(tree, convert, tmp_path):
    with tarfile.open(convert(tree, tmp_path / "a.tar")) as archive:
        blobs = {entry.name: archive.extractfile(entry).read() for entry in archive if entry.isfile()}

    (named,) = json.loads(blobs["index.json"])["manifests"]
    manifest = json.loads(_take(blobs, named))
    assert json.loads(_take(blobs, manifest["config"]))["config"]["Entrypoint"] == ["/entrypoint"]
    (layer,) = manifest["layers"]
    (tmp_path / "layer").write_bytes(_take(blobs, layer))
    with tarfile.open(tmp_path / "layer") as inner:
        modes = {entry.name.strip("./"): entry.mode for entry in inner}
    assert modes == {"entrypoint": 0o755, "krun-sev.json": 0o600, "tmp": 0o1777, "disk.img": 0o600}


@pytest.mark.usefixtures("convert")
def test_an_address_too_long_for_the_guest_is_refused(tree, tmp_path):
    words = ["image", "convert", "--format", "libkrun-sev", "--attestation-url", f"http://{'a' * 80}:80"]
    words += ["--passphrase-file", str(tmp_path / "passphrase"), f"dir:{tree}", str(tmp_path / "out")]

    result = CliRunner().invoke(app, words)

    assert result.exit_code != 0
    assert not (tmp_path / "out").exists()


def _take(blobs: dict[str, bytes], named: dict[str, str]) -> bytes:
    blob = blobs["blobs/" + named["digest"].replace(":", "/")]
    assert hashlib.sha256(blob).hexdigest() == named["digest"].removeprefix("sha256:")
    return blob


def _decrypt(directory: Path) -> bytes:
    with open_legacy(str(directory), spool_directory=str(directory)) as image:
        assert image.volume is not None
        key = image._unlock(Secret(PASSPHRASE))
        reader = LuksReader(image.disk, image.volume, key)
        blocks = int.from_bytes(reader.read(1024 + 4, 4), "little")  # s_blocks_count_lo
        return b"".join(reader.read(number * BLOCK, BLOCK) for number in range(blocks))
