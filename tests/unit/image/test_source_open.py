from __future__ import annotations

import json
import os
import stat
from typing import TYPE_CHECKING

import pytest
from sourcetars import Layout, docker_archive, entry, layer, write_archive

from krunpy.core.errors import BundleError, HostError, KrunpyError, UsageError
from krunpy.image.dirsource import DirectorySource
from krunpy.image.layersource import LayeredSource
from krunpy.image.source import find_kind, open_source, split_name
from krunpy.image.storage import StorageSource
from krunpy.image.tree import find_node

if TYPE_CHECKING:
    from pathlib import Path

PLAIN = layer(entry(b"etc/passwd", b"root:x:0:0::/:/bin/sh\n"))
EVERY_ENTRY = "config.json .*oci-layout and index.json .*bin, sbin, usr"


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    (tmp_path / "rootfs/etc").mkdir(parents=True)
    (tmp_path / "rootfs/etc/mark").write_bytes(b"x")
    return tmp_path / "rootfs"


@pytest.fixture
def bundle(rootfs: Path) -> Path:
    config = {"ociVersion": "1.0.2", "root": {"path": "rootfs"}, "process": {"cwd": "/", "args": ["a"]}}
    (rootfs.parent / "config.json").write_text(json.dumps(config))
    return rootfs.parent


def test_each_kind_of_path_is_recognised_by_what_lies_there(bundle: Path, tmp_path: Path) -> None:
    Layout([PLAIN]).write(tmp_path / "image")
    write_archive(tmp_path / "d.tar", docker_archive([PLAIN]))

    assert find_kind(str(bundle)) == "bundle"
    assert find_kind(str(bundle / "rootfs")) == "dir"
    assert find_kind(str(tmp_path / "image")) == "oci"
    assert find_kind(str(tmp_path / "d.tar")) == "archive"


def test_a_bundle_is_its_root_file_system(bundle: Path) -> None:
    for spec in (str(bundle), f"bundle:{bundle}"):
        source = open_source(spec)

        assert isinstance(source, DirectorySource)
        assert find_node(source.tree, b"etc/mark") is not None
        source.close()


def test_dir_takes_any_directory(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x/app").write_bytes(b"x")

    with pytest.raises(UsageError, match=EVERY_ENTRY):
        open_source(str(tmp_path / "x"))
    source = open_source(f"dir:{tmp_path}/x")
    assert find_node(source.tree, b"app") is not None
    source.close()


@pytest.mark.parametrize(
    ("spec", "fragment"),
    [
        ("", "no such file or directory"),
        ("/nowhere/at/all", "no such file or directory"),
        ("localhost/image:1", "no such file or directory"),
        ("a\0b", "no such file or directory"),
        ("/dev/null", "neither a file nor a directory"),
        ("dir:", "nothing follows dir:"),
        ("containers-storage:", "nothing follows containers-storage:"),
        ("dir:/nowhere/at/all", "no such file or directory"),
        ("bundle:/nowhere/at/all", "no such file or directory"),
        ("oci:/nowhere/at/all", "looked for oci-layout and index.json"),
        ("oci-archive:/nowhere/at/all", "no such file or directory"),
        ("docker-archive:/dev/null", "not a regular file"),
    ],
)
def test_what_is_no_source_is_one_clear_error(spec: str, fragment: str) -> None:
    with pytest.raises(KrunpyError, match=fragment) as caught:
        open_source(spec)

    assert caught.value.exit_code == 2


def test_the_hint_names_every_prefix() -> None:
    with pytest.raises(UsageError) as caught:
        open_source("localhost/image:1")

    for prefix in ("dir:", "bundle:", "oci:", "oci-archive:", "docker-archive:", "containers-storage:"):
        assert prefix in caught.value.next


def test_a_tar_that_is_no_image_says_what_was_looked_for(tmp_path: Path) -> None:
    write_archive(tmp_path / "x.tar", {"etc/passwd": b"x"})
    write_archive(tmp_path / "d.tar", docker_archive([PLAIN]))

    with pytest.raises(BundleError, match=r"holds no oci-layout and index.json and no manifest.json"):
        open_source(str(tmp_path / "x.tar"))
    with pytest.raises(BundleError, match=r"holds no oci-layout and index.json$"):
        open_source(f"oci-archive:{tmp_path}/d.tar")


def test_an_archive_may_be_asked_for_as_docker_though_it_is_both(tmp_path: Path) -> None:
    both = {**Layout([PLAIN]).files, **docker_archive([PLAIN])}
    path = write_archive(tmp_path / "both.tar", both)

    first, second = open_source(path), open_source(f"docker-archive:{path}:localhost/x:1")

    assert isinstance(first, LayeredSource)
    assert first.fingerprint() != second.fingerprint()
    first.close()
    second.close()


def test_a_path_with_colons_is_split_where_something_exists(tmp_path: Path) -> None:
    (tmp_path / "a:b").mkdir()

    assert split_name(f"{tmp_path}/a:b") == (f"{tmp_path}/a:b", "")
    assert split_name(f"{tmp_path}/a:b:localhost/x:1") == (f"{tmp_path}/a:b", "localhost/x:1")
    assert split_name(f"{tmp_path}/c:d") == (str(tmp_path) + "/c:d", "")


IMAGE_ID = "ab" * 32
FAKE_PODMAN = """#!/bin/sh
echo "$@" >> {log}
case "$*" in
*"image inspect -- gone"*) echo "gone: image not known" >&2; exit 125;;
*"image inspect"*) cat {inspect};;
*"image mount {id}"*) echo {root};;
*"image unmount {id}"*) ;;
*) exit 99;;
esac
"""


@pytest.fixture
def podman(tmp_path: Path, rootfs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program named podman that knows one image, whose mount is `rootfs`. Returns its log of calls."""
    inspect = {
        "Id": IMAGE_ID,
        "Os": "linux",
        "Architecture": "amd64",
        "Config": {"Cmd": ["/bin/sh"], "Env": ["A=b"]},
        "RootFS": {"Type": "layers", "Layers": ["sha256:" + "1" * 64]},
    }
    (tmp_path / "inspect.json").write_text(json.dumps([inspect]))
    (tmp_path / "path").mkdir()
    log = tmp_path / "log"
    script = FAKE_PODMAN.format(log=log, inspect=tmp_path / "inspect.json", id=IMAGE_ID, root=rootfs)
    (tmp_path / "path/podman").write_text(script)
    os.chmod(tmp_path / "path/podman", stat.S_IRWXU)
    monkeypatch.setattr("krunpy.core.proc.PATH", f"{tmp_path}/path:/usr/bin:/bin")
    return log


def test_an_image_of_podman_is_mounted_when_it_is_read_and_given_back(podman: Path) -> None:
    source = open_source("containers-storage:[overlay@/graph+/run]localhost/x:1")
    assert isinstance(source, StorageSource)
    fingerprint = source.fingerprint()
    assert "image mount" not in podman.read_text()

    assert find_node(source.tree, b"etc/mark") is not None
    source.finish()
    source.close()

    storage = "--root /graph --runroot /run --storage-driver overlay"
    assert podman.read_text().splitlines() == [
        f"{storage} image inspect -- localhost/x:1",
        f"{storage} image mount {IMAGE_ID}",
        f"{storage} image unmount {IMAGE_ID}",
    ]
    assert source.config.cmd == ("/bin/sh",)
    assert (len(fingerprint), source.racy) == (64, False)


def test_an_image_that_podman_does_not_have_is_said_so(podman: Path) -> None:
    with pytest.raises(BundleError, match=r"podman does not have it: .*image not known") as caught:
        open_source("containers-storage:gone")

    assert caught.value.next == "see `podman images`"
    assert podman.exists()


def test_a_mount_that_cannot_be_opened_is_given_back(podman: Path, rootfs: Path) -> None:
    source = open_source("containers-storage:x")
    rootfs.rename(rootfs.parent / "moved")

    with pytest.raises(HostError, match="only root's storage can be used"):
        assert source.tree

    assert podman.read_text().splitlines()[-1] == f"image unmount {IMAGE_ID}"


def test_podman_that_is_not_installed_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("krunpy.core.proc.PATH", str(tmp_path))

    with pytest.raises(HostError, match="the program is not installed"):
        open_source("containers-storage:x")
