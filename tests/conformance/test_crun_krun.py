"""crun's krun handler with a confidential image of ours: libkrun-sev is handed its disk and its configuration.

KRUNPY_CRUN names a crun that was configured with --with-libkrun, to run as root. There is no SEV here: the library that
it loads says what it is told (libkrun_sev.c).
"""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from krunpy.cli.app import app

CRUN = os.environ.get("KRUNPY_CRUN", "")
STATUS = 42  # of the library's krun_start_enter
pytestmark = [
    pytest.mark.skipif(not CRUN, reason="KRUNPY_CRUN names no crun that was built with libkrun"),
    pytest.mark.skipif(os.geteuid() != 0, reason="crun needs root here"),
]


def fnv(data: bytes) -> str:
    value = 0xCBF29CE484222325
    for octet in data:
        value = (value ^ octet) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An image of ours, unpacked as an engine does, with the configuration that crun itself proposes."""
    monkeypatch.setenv("KRUNPY_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("KRUNPY_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "passphrase").write_bytes(b"correct horse battery staple")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/hello").write_text("hello")
    words = ["image", "convert", "--format", "libkrun-sev", "--passphrase-file", str(tmp_path / "passphrase")]
    result = CliRunner().invoke(app, [*words, f"dir:{tmp_path / 'tree'}", str(tmp_path / "image")])
    assert result.exit_code == 0, result.output

    manifest, config = load_image(tmp_path / "image")
    rootfs = tmp_path / "bundle/rootfs"
    rootfs.mkdir(parents=True)
    for layer in manifest["layers"]:
        with tarfile.open(locate(tmp_path / "image", layer)) as archive:
            archive.extractall(rootfs, filter="fully_trusted")
    subprocess.run([CRUN, "spec"], cwd=rootfs.parent, check=True)
    proposed = json.loads((rootfs.parent / "config.json").read_bytes())
    settings = config["config"]
    proposed["process"]["args"] = [*settings.get("Entrypoint", ()), *settings.get("Cmd", ())]
    proposed["process"]["terminal"] = False
    proposed["annotations"] = {"run.oci.handler": "krun"}
    (rootfs.parent / "config.json").write_text(json.dumps(proposed))
    return rootfs.parent


def locate(image: Path, descriptor: dict) -> Path:
    return image / "blobs" / descriptor["digest"].replace(":", "/")


def load_image(image: Path) -> tuple[dict, dict]:
    index = json.loads((image / "index.json").read_bytes())
    manifest = json.loads(locate(image, index["manifests"][0]).read_bytes())
    return manifest, json.loads(locate(image, manifest["config"]).read_bytes())


@pytest.fixture
def crun(tmp_path: Path, bundle: Path):
    """Return how to run the bundle, in a mount namespace without the second hierarchy of control groups."""
    source = Path(__file__).parent / "libkrun_sev.c"
    library = tmp_path / "lib/libkrun-sev.so.1"
    library.parent.mkdir()
    subprocess.run(["cc", "-shared", "-fPIC", "-Wall", "-Werror", "-o", library, source], check=True)

    def call():
        hide = 'if mountpoint -q /sys/fs/cgroup/unified; then umount /sys/fs/cgroup/unified; fi; exec "$@"'
        words = [
            CRUN,
            "--root",
            str(tmp_path / "crun"),
            "run",
            "--bundle",
            str(bundle),
            f"krun-{os.getpid()}",
        ]
        environment = {"PATH": os.environ["PATH"], "LD_LIBRARY_PATH": str(library.parent)}
        return subprocess.run(
            ["unshare", "-m", "sh", "-c", hide, "sh", *words],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    return call


def test_crun_hands_libkrun_sev_our_disk_and_our_configuration_unchanged(bundle, crun):
    done = crun()

    disk, config = ((bundle / "rootfs" / name).read_bytes() for name in ("disk.img", "krun-sev.json"))
    assert done.stdout.splitlines() == [
        f"disk /disk.img {len(disk)} {fnv(disk)}",
        f"config /krun-sev.json {len(config)} {fnv(config)}",
        "start 7",
    ], done
    assert done.returncode == STATUS


def test_without_our_configuration_it_is_no_confidential_workload_for_crun(bundle, crun):
    (bundle / "rootfs/krun-sev.json").unlink()

    done = crun()

    assert "requires libkrun but it's not available" in done.stderr
    assert done.returncode != STATUS
