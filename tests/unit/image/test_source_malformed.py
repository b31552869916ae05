"""Images and layouts that a stranger made: each gives one error that names the cause, in bounded time and memory."""

from __future__ import annotations

import json
import os
import zlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sourcetars import (
    ARCHITECTURE,
    END,
    OCI,
    Layout,
    directory,
    docker_archive,
    entry,
    hardlink,
    header,
    layer,
    pax,
    squeezed,
    symlink,
    write_archive,
)

from krunpy.core.errors import BundleError, FormatError, KrunpyError
from krunpy.image.imagesource import open_layout
from krunpy.image.limits import Limits
from krunpy.image.source import open_source

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

PLAIN = layer(entry(b"a", b"1" * 3000))
OTHER = "sha256:" + "7" * 64


def refused(spec: str, fragment: str) -> None:
    """Open a source and read all of it; expect one of our errors whose text has the fragment."""
    with pytest.raises((BundleError, FormatError), match=fragment) as caught:
        read_all(spec)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 2000


def read_all(spec: str) -> None:
    source = open_source(spec)
    try:
        assert source.tree
        for _ in source.stream():
            pass
        source.finish()
    finally:
        source.close()


def manifest(**changes: object) -> Callable[[Layout], None]:
    return lambda layout: layout.set_manifest({**layout.manifest, **changes})


def image(**changes: object) -> Callable[[Layout], None]:
    return lambda layout: layout.set_image({**layout.image, **changes})


def config(**changes: object) -> Callable[[Layout], None]:
    return image(config=changes)


def described(**changes: object) -> Callable[[Layout], None]:
    """Change the descriptor of the only layer."""
    return lambda layout: layout.set_manifest(
        {**layout.manifest, "layers": [{**layout.layers[0], **changes}]}
    )


def pointed(**changes: object) -> Callable[[Layout], None]:
    """Change the descriptor of the manifest."""
    return lambda layout: layout.set_index({"manifests": [{**layout.index["manifests"][0], **changes}]})


def file(name: str, contents: bytes) -> Callable[[Layout], None]:
    return lambda layout: layout.files.update({name: contents})


def indexed(raw: bytes) -> Callable[[Layout], None]:
    return lambda layout: layout.set_index(raw)


def loop(layout: Layout) -> None:
    inner = layout.index["manifests"][0]
    for _ in range(5):
        raw = json.dumps({"manifests": [inner]}).encode()
        inner = layout.describe(raw, OCI + "index.v1+json")
    layout.set_index({"manifests": [inner]})


def damaged(layout: Layout) -> None:
    path = f"blobs/sha256/{layout.layers[0]['digest'][7:]}"
    layout.files[path] = layout.files[path][:-1] + b"\1"


def shortened(layout: Layout) -> None:
    path = f"blobs/sha256/{layout.layers[0]['digest'][7:]}"
    layout.files[path] = layout.files[path][:-512]


def without_blob(layout: Layout) -> None:
    del layout.files[f"blobs/sha256/{layout.layers[0]['digest'][7:]}"]


LAYOUTS: list[tuple[str, Callable[[Layout], None], str]] = [
    ("layout file is not JSON", file("oci-layout", b"{"), "oci-layout: it is not JSON"),
    (
        "layout version",
        file("oci-layout", b'{"imageLayoutVersion": "2.0"}'),
        "imageLayoutVersion: seen '2.0'",
    ),
    (
        "layout version missing",
        file("oci-layout", b"{}"),
        "imageLayoutVersion: seen nothing, wanted a string",
    ),
    ("index is empty", indexed(b""), "index.json: it is not JSON"),
    ("index is a list", indexed(b"[]"), "seen a list, wanted an object"),
    ("index is not UTF-8", indexed(b'{"a": "\xff"}'), "not UTF-8 at byte 7"),
    ("index nests deeply", indexed(b"[" * 200_000), "nests too deeply"),
    ("index nests deeply below a key", indexed(b'{"a":' * 100_000), "nests too deeply"),
    (
        "index has a huge number",
        indexed(b'{"schemaVersion": ' + b"9" * 5000 + b"}"),
        "not JSON: exceeds the limit",
    ),
    ("index has NaN", indexed(b'{"schemaVersion": NaN}'), "seen NaN, wanted a value that JSON has"),
    ("index of 5 MiB", indexed(b'{"a": "' + b"x" * (5 << 20) + b'"}'), "at most 4194304 are allowed"),
    ("schema version", indexed(b'{"schemaVersion": 1, "manifests": []}'), "schemaVersion: seen 1, wanted 2"),
    ("no manifests", indexed(b'{"manifests": []}'), "cannot find image"),
    ("manifests is an object", indexed(b'{"manifests": {}}'), "manifests: seen an object, wanted a list"),
    (
        "too many manifests",
        indexed(b'{"manifests": [' + b"{}," * 1000 + b"{}]}"),
        "1001 manifests, at most 1000",
    ),
    ("manifest is a number", indexed(b'{"manifests": [7]}'), r"manifests\[0\]: seen 7, wanted an object"),
    ("digest with a path", pointed(digest="sha256:../../../../etc/passwd"), r"manifests\[0\].digest: seen"),
    ("digest of an unknown algorithm", pointed(digest="md5:" + "0" * 32), "digest: seen 'md5:"),
    ("digest in capitals", pointed(digest="sha256:" + "A" * 64), "wanted sha256: and 64"),
    ("size is text", pointed(size="12"), "size: seen '12', wanted an integer"),
    ("size is negative", pointed(size=-1), "size: seen -1"),
    ("size is true", pointed(size=True), "size: seen true, wanted an integer"),
    ("size is too small", pointed(size=3), "at most 3 are allowed"),
    ("size is too large", pointed(size=999), "size: seen .* bytes, wanted 999"),
    ("manifest of a gigabyte", pointed(size=1 << 30), "at most 4194304 are allowed"),
    ("manifest's digest is wrong", pointed(digest=OTHER), "no such file"),
    ("indexes without end", loop, "nest deeper than 4"),
    (
        "manifest is not JSON",
        lambda layout: layout.set_manifest(b"\0\0"),
        "the image manifest: it is not JSON",
    ),
    ("no layers", manifest(layers=[]), "layers: seen 0, wanted 1 to 1000"),
    ("no config", manifest(config=None), "config: seen nothing, wanted a descriptor"),
    (
        "an artifact",
        lambda x: x.set_manifest({**x.manifest, "config": {**x.manifest["config"], "mediaType": "a/b"}}),
        "this is not a container image",
    ),
    (
        "a layer that is no tar",
        described(mediaType="application/vnd.oci.image.layer.v1.iso"),
        "wanted a layer that is a tar",
    ),
    ("a layer's digest", described(digest=OTHER), "no such file"),
    ("a layer's size", described(size=12), "size: seen 4608 bytes, wanted 12|size: seen"),
    ("a layer is damaged", damaged, "digest: seen sha256:.*, wanted sha256:"),
    ("a layer is shortened", shortened, "size: seen"),
    ("a layer is missing", without_blob, "no such file"),
    ("config is null", lambda layout: layout.set_image(b"null"), "seen nothing, wanted an object"),
    (
        "config has another platform",
        image(architecture="vax"),
        f"seen linux/vax, wanted linux/{ARCHITECTURE}",
    ),
    ("config has no platform", image(os=None, architecture=None), "image specification is not met|platform"),
    ("diff_ids are missing", image(rootfs={}), "the image specification is not met|diff_ids of 0"),
    ("too many diff_ids", image(rootfs={"diff_ids": [OTHER, OTHER]}), "has 1 layers, and diff_ids of 2"),
    ("diff_id is wrong", image(rootfs={"diff_ids": [OTHER]}), "wanted " + OTHER),
    ("diff_id is no digest", image(rootfs={"diff_ids": ["x"]}), r"rootfs.diff_ids\[0\]: seen 'x'"),
    ("Env is an object", config(Env={}), "config.Env: seen an object, wanted a list"),
    ("Cmd holds a number", config(Cmd=["a", 5]), r"config.Cmd\[1\]: seen 5, wanted a string"),
    ("Env holds a zero byte", config(Env=["A=\0"]), "without a zero byte"),
    ("Cmd holds a surrogate", config(Cmd=["\ud800"]), "lone surrogates"),
    ("User is a number", config(User=0), "config.User: seen 0, wanted a string"),
    ("Labels hold a list", config(Labels={"a": []}), "config.Labels.a: seen a list, wanted a string"),
]


@pytest.mark.parametrize(
    ("change", "fragment"), [each[1:] for each in LAYOUTS], ids=[each[0] for each in LAYOUTS]
)
def test_a_malformed_layout_is_one_clear_error(
    tmp_path: Path, change: Callable[[Layout], None], fragment: str
) -> None:
    layout = Layout([PLAIN])

    change(layout)

    refused("oci:" + layout.write(tmp_path / "image"), fragment)


@pytest.mark.parametrize(
    ("tar", "fragment"),
    [
        (layer(entry(b"../../etc/shadow", b"x")), "leads out of its directory"),
        (layer(symlink(b"out", b"/../../../.."), entry(b"out/../../x")), "leads out of its directory"),
        (layer(hardlink(b"a", b"b"), hardlink(b"b", b"a")), "is a hard link to 'b', which is not there"),
        (layer(symlink(b"a", b"b"), symlink(b"b", b"a"), entry(b"a/x")), "more than 40 symlinks"),
        (layer(directory(b"proc"), symlink(b"proc", b"/etc")), "/proc is not a directory"),
        (layer(entry(b"a", b"x"))[:700], "cut off"),
        (b"this is not a tar" * 100, "not a tar archive: checksum"),
        (b"BZh9" + b"x" * 600, "compression: seen bzip2"),
        (b"\xfd7zXZ\0" + b"x" * 600, "compression: seen xz"),
        (layer(header(b"x", b"x", 1 << 30)), "an extended header is 1073741824 bytes"),
        (
            layer(
                pax((b"GNU.sparse.size", b"%d" % (1 << 60)), (b"GNU.sparse.map", b"0,1")), entry(b"a", b"1")
            ),
            "more than",
        ),
        (layer(header(b"a", size=1 << 35)), "cut off"),
    ],
)
def test_a_malformed_layer_is_one_clear_error(tmp_path: Path, tar: bytes, fragment: str) -> None:
    refused("oci:" + Layout([tar]).write(tmp_path / "image"), fragment)


def bomb(size: int) -> bytes:
    """A gzip of `size` zeros that stand in a file, made without holding them."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    out = [packer.compress(header(b"bomb", size=size))]
    piece = bytes(1 << 20)
    out.extend(packer.compress(piece) for _ in range(size >> 20))
    return b"".join((*out, packer.compress(END), packer.flush()))


def test_a_layer_that_unpacks_to_a_thousand_times_its_size_is_refused(tmp_path: Path) -> None:
    layout = Layout([PLAIN], stored=[bomb(32 << 20)])

    source = open_layout(layout.write(tmp_path / "image"), bounds=Limits(ratio=900, ratio_from=8 << 20))

    with pytest.raises(BundleError, match="unpack to more than 900 times"):
        assert source.tree
    source.close()


def test_layers_that_unpack_to_too_much_together_are_refused(tmp_path: Path) -> None:
    layout = Layout([PLAIN, PLAIN])

    source = open_layout(layout.write(tmp_path / "image"), bounds=Limits(total=len(PLAIN) + 10))

    with pytest.raises(BundleError, match=f"more than {len(PLAIN) + 10} bytes"):
        assert source.tree
    source.close()


def test_too_many_entries_are_refused(tmp_path: Path) -> None:
    layout = Layout([layer(*(entry(b"%d" % number) for number in range(20)))])

    source = open_layout(layout.write(tmp_path / "image"), bounds=Limits(entries=19))

    with pytest.raises(BundleError, match="more than 19 entries"):
        assert source.tree
    source.close()


def test_a_configuration_of_a_gigabyte_is_refused_unread(tmp_path: Path) -> None:
    path = Layout([PLAIN]).write(tmp_path / "image")
    os.truncate(f"{path}/index.json", 1 << 30)  # a hole: no disk is used

    refused(path, "1073741824 bytes, at most 4194304")


def test_a_fifo_in_the_place_of_a_file_is_not_waited_for(tmp_path: Path) -> None:
    layout = Layout([PLAIN])
    path = layout.write(tmp_path / "image")
    for name in (f"blobs/{layout.layers[0]['digest'].replace(':', '/')}", "index.json"):
        os.unlink(f"{path}/{name}")
        os.mkfifo(f"{path}/{name}")

        refused(f"oci:{path}" if name != "index.json" else path, "not a regular file|looked for")


DOCKER: list[tuple[str, dict[str, bytes | None], str]] = [
    ("manifest is not JSON", {"manifest.json": b"["}, "not JSON"),
    ("manifest is an object", {"manifest.json": b"{}"}, "images: seen an object, wanted a list"),
    ("manifest breaks out", {"manifest.json": b'[]}, {"a": [}'}, "not JSON"),
    ("no image", {"manifest.json": b"[]"}, "0 images"),
    (
        "two images",
        {"manifest.json": b'[{"RepoTags": ["a"]}, {"RepoTags": ["b"]}]'},
        r"2 images \(a, b\), 2 of them fit",
    ),
    ("no config", {"config.json": None}, "holds no file 'config.json'"),
    ("config is a number", {"manifest.json": b'[{"Config": 1}]'}, r"images\[0\].Config: seen 1"),
    ("config leads out", {"manifest.json": b'[{"Config": "../../../etc/passwd"}]'}, "holds no file"),
    ("layer is missing", {"0/layer.tar": None}, "holds no file '0/layer.tar'"),
    ("layer is another", {"0/layer.tar": layer(entry(b"b"))}, "digest: seen"),
    ("layer is cut off", {"0/layer.tar": PLAIN[:1500]}, "digest: seen"),
    ("layer is no gzip", {"0/layer.tar": squeezed(PLAIN)[:-9]}, "not a gzip file"),
    ("layers are none", {"manifest.json": b'[{"Config": "config.json", "Layers": []}]'}, "names 0 layers"),
]


@pytest.mark.parametrize(
    ("change", "fragment"), [each[1:] for each in DOCKER], ids=[each[0] for each in DOCKER]
)
def test_a_malformed_docker_archive_is_one_clear_error(
    tmp_path: Path, change: dict[str, bytes | None], fragment: str
) -> None:
    files = {
        name: contents
        for name, contents in {**docker_archive([PLAIN]), **change}.items()
        if contents is not None
    }

    refused("docker-archive:" + write_archive(tmp_path / "d.tar", files), fragment)


def test_an_archive_that_is_cut_off_anywhere_is_one_clear_error(tmp_path: Path) -> None:
    whole = (tmp_path / "whole.tar", tmp_path / "part.tar")
    write_archive(whole[0], docker_archive([PLAIN]))
    contents = whole[0].read_bytes()

    for length in range(1, len(contents) - len(END) - 512, 511):
        whole[1].write_bytes(contents[:length])
        refused(f"docker-archive:{whole[1]}", "cut off|holds no|not a tar|is not a tar")


def test_a_compressed_archive_says_what_to_do(tmp_path: Path) -> None:
    write_archive(tmp_path / "d.tar", docker_archive([PLAIN]))
    (tmp_path / "d.tar.gz").write_bytes(squeezed((tmp_path / "d.tar").read_bytes()))

    with pytest.raises(BundleError, match="compressed with gzip") as caught:
        open_source(str(tmp_path / "d.tar.gz"))

    assert caught.value.next == "uncompress it first"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just(OTHER),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KEYS = [
    "config",
    "layers",
    "schemaVersion",
    "mediaType",
    "rootfs",
    "os",
    "architecture",
    "manifests",
    "digest",
    "size",
]


@given(st.sampled_from(["image", "manifest", "index"]), st.sampled_from(KEYS), json_values)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_value_in_any_document_is_accepted_or_refused(
    tmp_path: Path, document: str, key: str, value: object
) -> None:
    layout = Layout([PLAIN])
    getattr(layout, f"set_{document}")({**getattr(layout, document), key: value})
    path = layout.write(tmp_path / "image")

    try:
        read_all(f"oci:{path}")
    except KrunpyError as error:
        reason = error.why
    else:
        reason = "accepted"

    assert reason


def test_the_digest_of_what_is_stored_is_checked_before_symptoms_are_told(tmp_path: Path) -> None:
    layout = Layout([PLAIN], stored=[squeezed(PLAIN)])
    name = f"blobs/sha256/{layout.layers[0]['digest'][7:]}"
    original = layout.files[name]

    for offset in range(len(original)):
        layout.files[name] = original[:offset] + bytes([original[offset] ^ 0x10]) + original[offset + 1 :]
        refused("oci:" + layout.write(tmp_path / "image"), "digest: seen|compression: seen")
