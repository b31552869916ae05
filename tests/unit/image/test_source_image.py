from __future__ import annotations

import json
import os
import shutil
import tarfile
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sourcetars import (
    OCI,
    Layout,
    digest,
    directory,
    docker_archive,
    entry,
    hardlink,
    layer,
    pax,
    squeezed,
    symlink,
    tar_of_directory,
    write_archive,
)
from sourcetrees import describe, read_contents, tree_digest

from krunpy.core import proc
from krunpy.core.errors import BundleError, FormatError
from krunpy.image.source import open_source
from krunpy.image.tree import NodeKind, read_path, walk_tree

if TYPE_CHECKING:
    from pathlib import Path

LOW = layer(
    directory(b"etc"),
    entry(b"etc/passwd", b"root:x:0:0::/root:/bin/sh\n"),
    entry(b"etc/gone", b"g"),
    entry(b"big", b"0123456789abcdef" * 150_000),
    hardlink(b"big2", b"big"),
    symlink(b"l", b"big"),
)
UP = layer(entry(b"etc/.wh.gone"), entry(b"new", b"n" * 1000), hardlink(b"big3", b"big"))
SPARSE = (
    pax((b"GNU.sparse.size", b"9000000"), (b"GNU.sparse.map", b"0,5,8000000,3")),
    entry(b"sparse", b"abcdefgh"),
)


def digest_of(spec: str) -> str:
    source = open_source(spec)
    found = tree_digest(source)
    source.finish()
    source.close()
    return found


def test_contents_come_from_the_layer_that_holds_them(tmp_path: Path) -> None:
    source = open_source(Layout([LOW, UP, layer(*SPARSE)]).write(tmp_path / "image"))

    contents = read_contents(source)
    by_name = {
        path: contents[id(node)]
        for path, node in walk_tree(source.tree)
        if node.kind is NodeKind.FILE and node.size
    }

    assert by_name[b"big"] == by_name[b"big3"] == b"0123456789abcdef" * 150_000
    assert by_name[b"new"] == b"n" * 1000
    assert by_name[b"sparse"] == b"abcde" + bytes(8_000_000 - 5) + b"fgh" + bytes(1_000_000 - 3)
    assert b"etc/gone" not in by_name
    source.finish()
    source.close()


def test_every_container_of_an_image_gives_the_same_tree(tmp_path: Path) -> None:
    layout = Layout([LOW, UP])
    packed = Layout([LOW, UP], stored=[squeezed(LOW), squeezed(UP[:5000]) + squeezed(UP[5000:])])
    archive = docker_archive([LOW, squeezed(UP)])
    archive["config.json"] = docker_archive([LOW, UP])["config.json"]

    specs = [
        layout.write(tmp_path / "plain"),
        packed.write(tmp_path / "packed"),
        layout.write_tar(tmp_path / "oci.tar"),
        "oci-archive:" + packed.write_tar(tmp_path / "packed.tar"),
        write_archive(tmp_path / "docker.tar", archive),
        "oci:" + str(tmp_path / "plain"),
        "docker-archive:" + str(tmp_path / "docker.tar"),
    ]

    assert len({digest_of(spec) for spec in specs}) == 1


def test_a_directory_and_the_image_made_of_it_give_the_same_tree(tmp_path: Path) -> None:
    root = tmp_path / "rootfs"
    (root / "usr/bin").mkdir(parents=True)
    (root / "usr/bin/tool").write_bytes(b"x" * 5000)
    (root / "usr/bin/tool").chmod(0o4711)
    os.link(root / "usr/bin/tool", root / "usr/same")
    (root / "bin").symlink_to("usr/bin")
    os.utime(root / "bin", (5, 5), follow_symlinks=False)
    os.mkfifo(root / "fifo", 0o600)
    (root / os.fsdecode(b"odd\xff")).write_bytes(b"")
    (root / ("long" * 40)).mkdir()
    (root / ("long" * 40) / ("n" * 200)).write_bytes(b"deep")

    image = Layout([tar_of_directory(root)]).write(tmp_path / "image")

    assert digest_of(image) == digest_of(f"dir:{root}")
    gnu = Layout([tar_of_directory(root, tarfile.GNU_FORMAT)]).write(tmp_path / "gnu")
    assert digest_of(gnu) == digest_of(f"dir:{root}")


@pytest.mark.skipif(proc.find_program("zstd") is None, reason="zstd is not installed")
def test_layers_in_zstd_are_read(tmp_path: Path) -> None:
    stored = proc.run(["zstd", "-q", "-c"], stdin=LOW, timeout_s=30).stdout

    assert digest_of(Layout([LOW], stored=[stored]).write(tmp_path / "z")) == digest_of(
        Layout([LOW]).write(tmp_path / "p")
    )


@pytest.mark.skipif(proc.find_program("zstd") is None, reason="zstd is not installed")
def test_a_zstd_layer_that_is_cut_off_is_one_error(tmp_path: Path) -> None:
    stored = proc.run(["zstd", "-q", "-c"], stdin=LOW + os.urandom(3 << 20), timeout_s=30).stdout
    damaged = stored[: len(stored) // 2]
    source = open_source(Layout([LOW], stored=[damaged]).write(tmp_path / "z"))

    with pytest.raises(FormatError, match="not a zstd file"):
        assert source.tree


def test_the_fingerprint_is_the_manifests_digest_and_reads_no_layer(tmp_path: Path) -> None:
    layout = Layout([LOW, UP])
    path = layout.write(tmp_path / "image")
    for each in layout.layers:
        os.truncate(f"{path}/blobs/{each['digest'].replace(':', '/')}", each["size"])
        with open(f"{path}/blobs/{each['digest'].replace(':', '/')}", "r+b") as stream:
            stream.write(b"damaged")

    source = open_source(path)

    assert source.fingerprint() == layout.index["manifests"][0]["digest"][7:]
    assert not source.racy
    with pytest.raises(BundleError, match="digest: seen"):
        assert source.tree


def test_the_configuration_is_told(tmp_path: Path) -> None:
    config = {
        "Entrypoint": ["/init", "x"],
        "Cmd": ["a"],
        "Env": ["A=b", "EMPTY="],
        "WorkingDir": "/w",
        "User": "1:2",
        "StopSignal": "SIGINT",
        "Labels": {"l": "m"},
        "ExposedPorts": {"80/tcp": {}},
        "Healthcheck": {"Test": []},
    }

    found = open_source(Layout([LOW], **config).write(tmp_path / "image")).config

    assert (found.entrypoint, found.cmd, found.env) == (("/init", "x"), ("a",), ("A=b", "EMPTY="))
    assert (found.cwd, found.user, found.stop_signal, found.labels) == ("/w", "1:2", "SIGINT", {"l": "m"})


def test_a_layer_replaced_between_the_passes_is_refused(tmp_path: Path) -> None:
    layout = Layout([LOW])
    source = open_source(layout.write(tmp_path / "image"))
    assert source.tree
    changed = bytearray(LOW)
    changed[-5000] ^= 1
    (tmp_path / "image/blobs/sha256" / layout.layers[0]["digest"][7:]).write_bytes(changed)

    with pytest.raises(BundleError, match="digest: seen"):
        list(source.stream())
    with pytest.raises(BundleError, match="the source changed while it was read"):
        source.finish()


def test_a_layer_that_is_wholly_hidden_is_not_read_again(tmp_path: Path) -> None:
    layout = Layout([layer(entry(b"a", b"1")), layer(entry(b"a", b"2"))])
    source = open_source(layout.write(tmp_path / "image"))
    assert source.tree
    (tmp_path / "image/blobs/sha256" / layout.layers[0]["digest"][7:]).write_bytes(b"")

    assert [bytes(chunk) for _, _, chunk in source.stream()] == [b"2"]


def test_read_file_reads_one_file_of_a_compressed_layer(tmp_path: Path) -> None:
    source = open_source(
        Layout([LOW, layer(*SPARSE)], stored=[squeezed(LOW), layer(*SPARSE)]).write(tmp_path / "image")
    )

    assert read_path(source, b"etc/passwd", 1000) == b"root:x:0:0::/root:/bin/sh\n"
    assert read_path(source, b"sparse", 9_000_000)[7_999_999:8_000_004] == b"\0fgh\0"
    assert read_path(source, b"etc/none", 10) is None
    with pytest.raises(BundleError, match="at most 10 are allowed"):
        read_path(source, b"l", 10)


def test_close_closes_every_file(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    source = open_source(Layout([LOW, UP]).write(tmp_path / "image"))
    assert source.tree

    source.close()
    source.close()

    assert len(os.listdir("/proc/self/fd")) == before


def test_a_refused_image_leaves_no_file_open(tmp_path: Path) -> None:
    layout = Layout([LOW, UP])
    path = layout.write(tmp_path / "image")
    os.unlink(f"{path}/blobs/{layout.layers[1]['digest'].replace(':', '/')}")
    before = len(os.listdir("/proc/self/fd"))

    with pytest.raises(BundleError, match="no such file"):
        open_source(path)

    assert len(os.listdir("/proc/self/fd")) == before


def test_a_platform_is_chosen_from_an_index_of_an_index(tmp_path: Path) -> None:
    layout = Layout([LOW])
    ours = {
        **layout.index["manifests"][0],
        "platform": {"os": "linux", "architecture": layout.image["architecture"]},
    }
    other = {**ours, "digest": "sha256:" + "0" * 64, "platform": {"os": "linux", "architecture": "mips"}}
    attestation = {
        **ours,
        "digest": "sha256:" + "1" * 64,
        "platform": {"os": "unknown", "architecture": "unknown"},
    }
    raw = json.dumps({"schemaVersion": 2, "manifests": [other, attestation, ours]}).encode()
    inner = layout.describe(raw, OCI + "index.v1+json")
    layout.set_index({"schemaVersion": 2, "manifests": [inner]})

    assert open_source(layout.write(tmp_path / "image")).fingerprint() == ours["digest"][7:]


def test_an_image_is_chosen_by_its_name(tmp_path: Path) -> None:
    layout = Layout([LOW])
    first = {
        **layout.index["manifests"][0],
        "annotations": {"org.opencontainers.image.ref.name": "localhost/a:1"},
    }
    layout.layers = [layout.describe(UP, OCI + "layer.v1.tar")]
    layout.set_image({**layout.image, "rootfs": {"type": "layers", "diff_ids": [digest(UP)]}})
    second = {**layout.index["manifests"][0], "annotations": {"org.opencontainers.image.ref.name": "b"}}
    layout.set_index({"schemaVersion": 2, "manifests": [first, second]})
    path = layout.write(tmp_path / "image")

    assert open_source(f"oci:{path}:localhost/a:1").fingerprint() == first["digest"][7:]
    assert open_source(f"oci:{path}:b").fingerprint() == second["digest"][7:]
    with pytest.raises(BundleError, match="there are 2: b, localhost/a:1"):
        open_source(path)
    with pytest.raises(BundleError, match=r"cannot find image c: index.json has b, localhost/a:1"):
        open_source(f"oci:{path}:c")


def test_links_between_the_members_of_a_docker_archive_are_followed(tmp_path: Path) -> None:
    files = docker_archive([LOW, LOW])
    del files["1/layer.tar"]
    members = [entry(name.encode(), contents) for name, contents in files.items()]
    (tmp_path / "d.tar").write_bytes(layer(*members, symlink(b"1/layer.tar", b"../0/layer.tar")))

    assert digest_of(str(tmp_path / "d.tar")) == digest_of(Layout([LOW, LOW]).write(tmp_path / "image"))


def test_media_types_of_docker_are_read_like_those_of_oci(tmp_path: Path) -> None:
    layout = Layout([LOW])
    layout.layers = [layout.describe(squeezed(LOW), "application/vnd.docker.image.rootfs.diff.tar.gzip")]
    layout.set_image(layout.image)
    layout.manifest["config"]["mediaType"] = "application/vnd.docker.container.image.v1+json"
    layout.set_manifest(layout.manifest)
    layout.index["manifests"][0]["mediaType"] = "application/vnd.docker.distribution.manifest.v2+json"
    layout.set_index(layout.index)

    assert digest_of(layout.write(tmp_path / "d")) == digest_of(Layout([LOW]).write(tmp_path / "o"))


names = st.sampled_from([b"a", b"b", b"c", b"d/a", b"d/b", b"d/e/a", b"d/e", b"d", b"\xff"])
contents = st.binary(max_size=2000)
steps = st.lists(
    st.tuples(names, st.one_of(contents, st.sampled_from(["remove", "directory", "opaque"]))), max_size=6
)


@given(layers=st.lists(steps, min_size=1, max_size=4), packs=st.booleans())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_layers_on_one_another_agree_with_a_model(
    tmp_path: Path, *, layers: list[list[tuple[bytes, bytes | str]]], packs: bool
) -> None:
    model: dict[bytes, bytes | None] = {}
    tars = []
    for each in layers:
        parts, model = _apply(each, model)
        tars.append(layer(*parts))
    shutil.rmtree(tmp_path / "image", ignore_errors=True)
    stored = [squeezed(tar) if packs else tar for tar in tars]
    source = open_source("oci:" + Layout(tars, stored=stored).write(tmp_path / "image"))

    streamed = read_contents(source)
    found = {
        path: streamed.get(id(node), b"") if node.kind is NodeKind.FILE else None
        for path, node in walk_tree(source.tree)
        if path not in (b"dev", b"etc", b"proc", b"run", b"sys", b"tmp")
    }

    assert found == model
    source.close()


def _apply(
    wanted: list[tuple[bytes, bytes | str]], below: dict[bytes, bytes | None]
) -> tuple[list[bytes], dict[bytes, bytes | None]]:
    """Return the entries of one layer, and the tree after it (None: a directory), not by way of layers.py."""
    parts: list[bytes] = []
    lower, upper = dict(below), {}
    for name, action in wanted:
        parents = [name[:end] for end in range(len(name)) if name[end : end + 1] == b"/"]
        if any(upper.get(parent) is not None for parent in parents) or name in upper:
            continue  # not a tar that a sane engine writes
        if action == "remove":
            if not _has_below(upper, name):
                parts.append(entry(b"/".join([*parents[-1:], b".wh." + name.rpartition(b"/")[2]])))
                lower = {
                    key: value
                    for key, value in lower.items()
                    if key != name and not key.startswith(name + b"/")
                }
            continue
        if action == "opaque":
            parts.append(entry(name + b"/.wh..wh..opq"))
            lower = {key: value for key, value in lower.items() if not key.startswith(name + b"/")}
            continue
        if isinstance(action, bytes) and _has_below(upper, name):
            continue
        upper.update(dict.fromkeys(parents))
        upper[name] = action if isinstance(action, bytes) else None
        parts.append(entry(name, action) if isinstance(action, bytes) else directory(name))
    merged = {
        key: value
        for key, value in lower.items()
        if not any(upper.get(key[:end]) is not None for end in range(len(key)) if key[end : end + 1] == b"/")
    }
    for name in [
        key for key, value in merged.items() if value is not None and key in upper and upper[key] is None
    ]:
        del merged[name]
    return parts, {**merged, **upper}


def _has_below(tree: dict[bytes, bytes | None], name: bytes) -> bool:
    return any(key.startswith(name + b"/") for key in tree)


def test_describe_tells_trees_apart(tmp_path: Path) -> None:
    """The comparison above can fail: one byte of one file is enough."""
    one = open_source(Layout([layer(entry(b"a", b"1"))]).write(tmp_path / "1"))
    two = open_source(Layout([layer(entry(b"a", b"2"))]).write(tmp_path / "2"))

    assert describe(one) != describe(two)
