"""Sources that a stranger made: malformed bundles, layouts, archives, layers, trees and bombs, two hundred and more.

Each case is (name, spec): what `krunpy image convert` is given. Nothing here is random: a failure can be repeated.
"""

from __future__ import annotations

import json
import os
import zlib
from typing import TYPE_CHECKING

from sourcetars import (
    END,
    Layout,
    base256,
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

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PLAIN = layer(entry(b"bin/sh", b"1" * 3000))
OTHER = "sha256:" + "7" * 64
GIB = 1 << 30
JSON: dict[str, bytes] = {
    "empty": b"",
    "cut off": b'{"schemaVersion": 2, "manif',
    "a list": b"[]",
    "null": b"null",
    "a number": b"7",
    "text": b'"x"',
    "not UTF-8": b'{"a": "\xff"}',
    "nested": b'{"a":' * 100_000,
    "a nested list": b"[" * 200_000,
    "NaN": b'{"schemaVersion": NaN}',
    "huge number": b'{"schemaVersion": ' + b"9" * 5000 + b"}",
    "5 MiB": b'{"a": "' + b"x" * (5 << 20) + b'"}',
    "zero bytes": bytes(100),
    "two documents": b"{}{}",
}
LAYERS: dict[str, bytes] = {
    "leads out": layer(entry(b"../../etc/shadow", b"x")),
    "leads out below": layer(entry(b"a/b/../../../../x", b"x")),
    "leads out by symlink": layer(symlink(b"out", b"/../../../.."), entry(b"out/../../x")),
    "hard link leads out": layer(hardlink(b"a", b"../../../etc/passwd")),
    "hard link to nothing": layer(hardlink(b"a", b"b")),
    "hard link to itself": layer(hardlink(b"a", b"a")),
    "hard link circle": layer(hardlink(b"a", b"b"), hardlink(b"b", b"a")),
    "hard link to a directory": layer(directory(b"d"), hardlink(b"a", b"d")),
    "symlink circle": layer(symlink(b"a", b"b"), symlink(b"b", b"a"), entry(b"a/x")),
    "symlink to itself": layer(symlink(b"a", b"a"), entry(b"a/x")),
    "proc is a symlink": layer(directory(b"proc"), symlink(b"proc", b"/etc")),
    "file below a file": layer(entry(b"a", b"x"), entry(b"a/b", b"x")),
    "too deep": layer(pax((b"path", b"d/" * 66 + b"x")), entry(b"x")),
    "name too long": layer(pax((b"path", b"n" * 300)), entry(b"x")),
    "path too long": layer(pax((b"path", b"n/" * 5000)), entry(b"x")),
    "link target too long": layer(pax((b"linkpath", b"n" * 5000)), symlink(b"x", b"y")),
    "zero byte in a name": layer(pax((b"path", b"a\0b")), entry(b"x")),
    "cut off in a header": layer(entry(b"a", b"x"))[:700],
    "cut off in a file": header(b"a", size=5000) + b"x" * 100,
    "not a tar": b"this is not a tar" * 100,
    "checksum": layer(header(b"a", checksum=7)),
    "extended header of a gigabyte": layer(header(b"x", b"x", GIB)),
    "long name of a gigabyte": layer(header(b"x", b"L", GIB)),
    "file of 32 GiB": layer(header(b"a", size=1 << 35)),
    "negative size": layer(header(b"a", size_field=b"\xff" * 12)),
    "size is no number": layer(header(b"a", size_field=b"zzzzzzzzzzz\0")),
    "size beyond 64 bits": layer(header(b"a", size_field=base256(1 << 80, 12))),
    "owner is no number": layer(header(b"a", uid_field=b"-1     \0")),
    "owner beyond 32 bits": layer(header(b"a", uid_field=base256(1 << 40, 8))),
    "sparse size": layer(
        pax((b"GNU.sparse.size", b"%d" % (1 << 60)), (b"GNU.sparse.map", b"0,1")), entry(b"a", b"1")
    ),
    "sparse map backwards": layer(
        pax((b"GNU.sparse.size", b"100"), (b"GNU.sparse.map", b"50,1,0,1")), entry(b"a", b"11")
    ),
    "sparse map is no number": layer(
        pax((b"GNU.sparse.size", b"100"), (b"GNU.sparse.map", b"x,y")), entry(b"a", b"11")
    ),
    "pax record length": layer(entry(b"x", b"99999 path=a\n", b"x"), entry(b"a")),
    "pax record is none": layer(entry(b"x", b"garbage", b"x"), entry(b"a")),
    "pax size is no number": layer(pax((b"size", b"x")), entry(b"a")),
    "pax size is negative": layer(pax((b"size", b"-1")), entry(b"a")),
    "pax owner": layer(pax((b"uid", b"99999999999")), entry(b"a")),
    "xattr too large": layer(pax((b"SCHILY.xattr.user.a", b"x" * 70000)), entry(b"a")),
    "xattrs too many": layer(
        pax(*((b"SCHILY.xattr.user.%d" % number, b"x" * 1000) for number in range(80))), entry(b"a")
    ),
    "xattr name too long": layer(pax((b"SCHILY.xattr.user." + b"a" * 300, b"x")), entry(b"a")),
    "device number": layer(header(b"a", b"3", major_field=base256(1 << 50, 8))),
    "unknown kind": layer(header(b"a", b"V", 10)),
    "multi-volume": layer(header(b"a", b"M", 10) + bytes(512)),
    "whiteout of nothing": layer(entry(b".wh.", b"")),
    "whiteout leads out": layer(entry(b"../.wh.etc")),
    "whiteout of dots": layer(entry(b"a/.wh..")),
    "bzip2": b"BZh9" + b"x" * 600,
    "xz": b"\xfd7zXZ\0" + b"x" * 600,
    "gzip cut off": squeezed(PLAIN)[:-9],
    "gzip cut in the header": squeezed(PLAIN)[:5],
    "gzip and garbage": squeezed(PLAIN) + b"garbage",
    "gzip with a wrong sum": squeezed(PLAIN)[:-8] + bytes(8),
    "gzip of nothing": squeezed(b""),
    "gzip in gzip": squeezed(squeezed(PLAIN)),
    "zstd cut off": b"\x28\xb5\x2f\xfd\x00\x58\x03\x00\x00",
    "zstd garbage": b"\x28\xb5\x2f\xfd" + b"\xff" * 100,
    "zstd window of a terabyte": b"\x28\xb5\x2f\xfd\x00\xff\x03\x00\x00\x00",
}
# Odd, and yet allowed: they must stay inside the image.
CONFINED: dict[str, bytes] = {
    "absolute name": layer(entry(b"/etc/krunpy-hostile", b"x")),
    "absolute hard link": layer(entry(b"/a", b"x"), hardlink(b"/b", b"/a")),
    "absolute symlink": layer(symlink(b"/b", b"/etc/shadow")),
    "devices": layer(*(header(b"dev/%d" % number, b"3", major=1, minor=number) for number in range(5000))),
    "setuid root": layer(entry(b"su", b"x", mode=0o6755)),
    "escapes in a name": layer(entry(b"\x1b[31m\nred\xff", b"x")),
    "the same name": layer(*(entry(b"a", b"%d" % number) for number in range(3000))),
}


def list_layer_cases(folder: Path, layers: dict[str, bytes]) -> Iterator[tuple[str, str]]:
    """Yield a layout around each layer."""
    for number, (name, tar) in enumerate(layers.items()):
        yield f"layer: {name}", f"oci:{Layout([tar]).write(folder / f'layer{number}')}"


def list_layout_cases(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield layouts whose documents, digests and sizes are wrong."""
    for number, (name, change) in enumerate(_layout_changes()):
        layout = Layout([PLAIN])
        change(layout)
        yield f"layout: {name}", f"oci:{layout.write(folder / f'layout{number}')}"
    path = Layout([PLAIN]).write(folder / "gigabyte")
    os.truncate(f"{path}/index.json", GIB)
    yield "layout: index of a gigabyte", f"oci:{path}"


def _layout_changes() -> Iterator[tuple[str, Callable[[Layout], None]]]:
    for name, raw in JSON.items():
        yield f"oci-layout is {name}", lambda x, raw=raw: x.files.update({"oci-layout": raw})
        yield f"index is {name}", lambda x, raw=raw: x.set_index(raw)
        yield f"manifest is {name}", lambda x, raw=raw: x.set_manifest(raw)
        yield f"configuration is {name}", lambda x, raw=raw: x.set_image(raw)
    whole = Layout([PLAIN])
    for path, contents in whole.files.items():
        for cut in (0, 1, len(contents) // 2, len(contents) - 1):
            label = path if "/" not in path else f"blob of {len(contents)} bytes"
            yield (
                f"{label} cut after {cut}",
                lambda x, path=path, cut=cut: x.files.update({path: x.files[path][:cut]}),
            )
        yield f"{path[:20]} is missing", lambda x, path=path: x.files.pop(path)
    for key, values in {
        "digest": (OTHER, "sha256:../../../../etc/passwd", "md5:" + "0" * 32, 5, None, "sha512:" + "0" * 128),
        "size": (-1, 0, 1 << 62, "1", None, True, 1.5),
    }.items():
        for value in values:
            yield f"manifest's {key} is {str(value)[:30]}", lambda x, k=key, v=value: _point(x, **{k: v})
            yield f"layer's {key} is {str(value)[:30]}", lambda x, k=key, v=value: _describe(x, **{k: v})
    for name, rootfs in {
        "missing": {},
        "other": {"diff_ids": [OTHER]},
        "too many": {"diff_ids": [OTHER] * 2},
        "a number": {"diff_ids": 5},
    }.items():
        yield f"diff_ids: {name}", lambda x, rootfs=rootfs: x.set_image({**x.image, "rootfs": rootfs})
    for key, value in {
        "Env": {},
        "Cmd": ["a", 5],
        "User": 0,
        "Labels": {"a": []},
        "WorkingDir": "\0",
    }.items():
        yield (
            f"config.{key} is wrong",
            lambda x, k=key, v=value: x.set_image({**x.image, "config": {k: v}}),
        )


def _point(layout: Layout, **changes: object) -> None:
    layout.set_index({"manifests": [{**layout.index["manifests"][0], **changes}]})


def _describe(layout: Layout, **changes: object) -> None:
    layout.set_manifest({**layout.manifest, "layers": [{**layout.layers[0], **changes}]})


def list_archive_cases(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield docker- and OCI archives that are cut off or whose members are wrong."""
    whole = layer(*(entry(name.encode(), data) for name, data in docker_archive([PLAIN]).items()))
    for length in range(0, len(whole) - len(END) - 512, 700):
        path = folder / f"docker{length}.tar"
        path.write_bytes(whole[:length])
        yield f"docker-archive cut after {length}", f"docker-archive:{path}"
    Layout([PLAIN]).write_tar(folder / "whole.tar")
    whole = (folder / "whole.tar").read_bytes()
    for length in range(0, len(whole) - len(END) - 512, 900):
        path = folder / f"oci{length}.tar"
        path.write_bytes(whole[:length])
        yield f"oci-archive cut after {length}", f"oci-archive:{path}"
    for name, raw in JSON.items():
        files = {**docker_archive([PLAIN]), "manifest.json": raw}
        path = write_archive(folder / f"docker {name}.tar", files)
        yield f"docker-archive: manifest is {name}", f"docker-archive:{path}"
    links = {
        "to itself": layer(symlink(b"manifest.json", b"manifest.json")),
        "in a circle": layer(symlink(b"manifest.json", b"a"), symlink(b"a", b"manifest.json")),
        "leading out": layer(symlink(b"manifest.json", b"../../../../etc/passwd")),
        "to a device": layer(header(b"manifest.json", b"3", major=1, minor=5)),
    }
    for name, tar in links.items():
        path = folder / f"link {name}.tar"
        path.write_bytes(tar)
        yield f"docker-archive: manifest is a link {name}", f"docker-archive:{path}"


def list_bundle_cases(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield bundles whose config.json or root is wrong."""
    process = {"args": ["sh"], "cwd": "/", "user": {"uid": 0, "gid": 0}}
    configs: dict[str, bytes] = {**JSON}
    for name, root in {
        "missing": None,
        "a number": 5,
        "without path": {},
        "an empty path": {"path": ""},
        "leading out": {"path": "../../../../../../../../nonexistent"},
        "absolute nowhere": {"path": "/nonexistent/krunpy"},
        "a file": {"path": "config.json"},
        "a circle": {"path": "circle"},
        "a fifo": {"path": "fifo"},
        "a zero byte": {"path": "a\0b"},
        "too long": {"path": "x" * 10000},
        "a surrogate": {"path": "\ud800"},
    }.items():
        configs[f"root {name}"] = json.dumps(
            {"ociVersion": "1.0.2", "process": process, "root": root}
        ).encode()
    for name, raw in configs.items():
        bundle = folder / f"bundle {name}"
        bundle.mkdir()
        (bundle / "config.json").write_bytes(raw)
        (bundle / "circle").symlink_to("circle")
        os.mkfifo(bundle / "fifo")
        yield f"bundle: {name}", f"bundle:{bundle}"
    (folder / "huge").mkdir()
    (folder / "huge/config.json").touch()
    os.truncate(folder / "huge/config.json", GIB)
    yield "bundle: config.json of a gigabyte", f"bundle:{folder / 'huge'}"
    (folder / "fifo").mkdir()
    os.mkfifo(folder / "fifo/config.json")
    yield "bundle: config.json is a fifo", f"bundle:{folder / 'fifo'}"


def list_all(folder: Path) -> list[tuple[str, str]]:
    """Return every malformed source, written below a folder."""
    cases = list(list_layer_cases(folder, LAYERS))
    for make in (list_layout_cases, list_archive_cases, list_bundle_cases):
        cases += make(folder)
    return cases


def _gzip_member(data: bytes, times: int = 1) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return b"".join((*(packer.compress(data) for _ in range(times)), packer.flush()))


def make_gzip_bomb(size: int) -> bytes:
    """Return a layer of a file of zeros: 64 MiB at a time, each a gzip member."""
    return _gzip_member(header(b"bomb", size=size)) + _gzip_member(bytes(1 << 20), 64) * (size >> 26)


def make_zstd_bomb(size: int) -> bytes:
    """Return a zstd frame of blocks that repeat one byte 128 Ki times each (RFC 8878, section 3.1.1.2)."""
    head = header(b"bomb", size=size)
    window = 7 << 3  # 128 KiB
    frame = b"\x28\xb5\x2f\xfd" + bytes([0, window]) + (len(head) << 3).to_bytes(3, "little") + head
    block = ((1 << 17) << 3 | 1 << 1).to_bytes(3, "little") + b"\0"
    return frame + block * (size >> 17)


def make_device_bomb(count: int) -> bytes:
    """Return a layer of so many device nodes."""
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    parts = []
    node = header(b"dev/0000000", b"3", major=1)
    zeros = int(node[148:154], 8) - sum(b"0000000")
    for first in range(0, count, 1000):
        names = [b"%07d" % number for number in range(first, first + 1000)]
        sums = [b"%06o" % (zeros + sum(name)) for name in names]
        nodes = (
            node[:4] + name + node[11:148] + total + node[154:]
            for name, total in zip(names, sums, strict=True)
        )
        parts.append(packer.compress(b"".join(nodes)))
    return b"".join((*parts, packer.compress(END), packer.flush()))


def list_bombs(folder: Path) -> list[tuple[str, str]]:
    """Return small sources that would need much of anything."""
    bombs = {
        "gzip": [make_gzip_bomb(5 * GIB)],
        "zstd": [make_zstd_bomb(5 * GIB)],
        "many small ones": [make_gzip_bomb(GIB // 2)] * 4,
        "devices": [make_device_bomb(501_000)],
    }
    cases = []
    for name, stored in bombs.items():
        layout = Layout([b"%d" % number for number, _ in enumerate(stored)], stored=stored)
        cases.append((f"bomb: {name}", f"oci:{layout.write(folder / name)}"))
    return cases
