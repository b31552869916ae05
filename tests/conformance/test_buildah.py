"""Images that buildah itself makes, with `buildah mkcw`: inspected, unpacked, imported.

KRUNPY_BUILDAH names a buildah of 1.32 or newer, to run as root. What it asks of libkrunfw, the launch digest of a
bundle, is answered by a program made here: nothing in the image depends on it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from krunpy.core.octets import Secret
from krunpy.core.proc import run
from krunpy.image.cache import ImageCache
from krunpy.image.convert import ConvertOptions, convert
from krunpy.image.legacy import open_legacy
from krunpy.image.legacy_report import report_image
from krunpy.image.legacy_unpack import unpack
from krunpy.image.source import open_source
from tests.unit.image.legacydisks import make_tree
from tests.unit.image.sourcetrees import describe_tree, tree_digest

if TYPE_CHECKING:
    from pathlib import Path

BUILDAH = os.environ.get("KRUNPY_BUILDAH", "")
PASSPHRASE = Secret(b"secret123")
pytestmark = [
    pytest.mark.skipif(not BUILDAH, reason="KRUNPY_BUILDAH names no buildah that has mkcw"),
    pytest.mark.skipif(os.geteuid() != 0, reason="buildah needs root here"),
]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_tree(tmp_path_factory.mktemp("tree") / "root")
    (root / ".krun_config.json").unlink()
    (root / "fifo").unlink()  # buildah add does not take it
    return root


@pytest.fixture(scope="module")
def image(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    work = tmp_path_factory.mktemp("buildah")
    tool = work / "bin/krunfw_measurement"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\necho 'SNP: {'a' * 96}'\n")
    tool.chmod(0o755)
    (work / "libkrunfw-sev.so.4").touch()
    environment = {
        "PATH": f"{tool.parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
        "LD_LIBRARY_PATH": str(work),
    }

    def buildah(*words: str) -> None:
        storage = ["--root", str(work / "root"), "--runroot", str(work / "run"), "--storage-driver", "vfs"]
        run(["unshare", "-m", BUILDAH, *storage, *words], timeout_s=300, env=environment)

    buildah("from", "--name", "made", "scratch")
    buildah("add", "-q", "made", str(tree), "/")
    buildah("config", "--env", "A=b", "--cmd", '["/bin/a"]', "--workingdir", "/etc", "made")
    buildah("commit", "-q", "made", "localhost/plain")
    buildah("mkcw", "-p", PASSPHRASE.reveal().decode(), "-t", "snp", "localhost/plain", "localhost/cw")
    buildah("push", "-q", "localhost/cw", f"oci:{work}/layout:cw")
    return f"oci:{work}/layout"


def test_it_is_inspected(image: str, tmp_path: Path) -> None:
    with open_legacy(image, spool_directory=str(tmp_path)) as legacy:
        report = report_image(legacy, legacy.open(PASSPHRASE), PASSPHRASE)

    assert report.facts["tee"] == "snp"
    assert report.facts["luks_version"] == 1
    assert any("milan only" in finding for finding in report.findings)
    assert not any("differ" in finding or "passphrase" in finding for finding in report.findings)


def test_it_unpacks_to_the_tree_it_was_made_from(image: str, tree: Path, tmp_path: Path) -> None:
    with open_legacy(image, spool_directory=str(tmp_path)) as legacy:
        unpack(legacy.open(PASSPHRASE), str(tmp_path / "out"))
    (tmp_path / "out/.krun_config.json").unlink()

    found, wanted = open_source(f"dir:{tmp_path}/out"), open_source(f"dir:{tree}")
    assert describe_tree(found.tree, {}) == describe_tree(wanted.tree, {})
    assert tree_digest(found) == tree_digest(wanted)


def test_it_imports_with_its_configuration(image: str, tmp_path: Path) -> None:
    cache = ImageCache(str(tmp_path / "cache"), lambda: 1.0)
    with open_legacy(image, spool_directory=str(tmp_path)) as legacy:
        made = convert(
            legacy.open(PASSPHRASE), cache=cache, options=ConvertOptions(key=Secret(bytes(range(64))))
        )

    assert made.config.cmd == ("/bin/a",)
    assert made.config.cwd == "/etc"
    assert "A=b" in made.config.env
