"""What only root can set up: devices, owners, mounts, and podman itself as the reference for layers."""

from __future__ import annotations

import os
import stat
import tempfile
from typing import TYPE_CHECKING

import pytest
from sourcetars import Layout, directory, entry, hardlink, layer, pax, squeezed, symlink, tar_of_directory
from sourcetrees import describe

from krunpy.core import proc
from krunpy.core.errors import BundleError, HostError
from krunpy.image.source import open_source
from krunpy.image.tree import NodeKind, walk_tree

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "rootfs/etc").mkdir(parents=True)
    (tmp_path / "rootfs/etc/passwd").write_bytes(b"root:x:0:0::/:/bin/sh\n")
    return tmp_path / "rootfs"


def test_devices_owners_and_capabilities_are_kept(root: Path) -> None:
    os.mknod(root / "disk", stat.S_IFBLK | 0o660, os.makedev(259, 300))
    os.chmod(root / "disk", 0o660)
    os.chown(root / "etc/passwd", 70000, 3_000_000_000)
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    os.setxattr(root / "etc/passwd", "security.capability", capability)
    os.setxattr(root / "etc", "trusted.note", b"t")
    source = open_source(f"dir:{root}")

    nodes = dict(walk_tree(source.tree))

    assert (nodes[b"disk"].kind, nodes[b"disk"].rdev, nodes[b"disk"].mode) == (
        NodeKind.BLOCK,
        os.makedev(259, 300),
        0o660,
    )
    assert (nodes[b"etc/passwd"].uid, nodes[b"etc/passwd"].gid) == (70000, 3_000_000_000)
    assert nodes[b"etc/passwd"].xattrs == {b"security.capability": capability}
    assert nodes[b"etc"].xattrs == {b"trusted.note": b"t"}


def test_a_whiteout_of_overlayfs_in_a_directory_is_refused(root: Path) -> None:
    os.mknod(root / "etc/gone", stat.S_IFCHR, 0)

    with pytest.raises(BundleError, match="/etc/gone is a whiteout of overlayfs"):
        assert open_source(f"dir:{root}").tree


def test_a_mount_inside_is_refused_by_name_but_not_on_proc(root: Path) -> None:
    for name in ("data", "proc"):
        (root / name).mkdir()
    try:
        proc.run(["mount", "-t", "tmpfs", "none", str(root / "proc")], timeout_s=10)
    except HostError:
        pytest.skip("mounting is not possible here")
    try:
        assert open_source(f"dir:{root}").tree
        proc.run(["mount", "-t", "tmpfs", "none", str(root / "data")], timeout_s=10)
        try:
            with pytest.raises(BundleError, match="/data has another file system mounted on it"):
                assert open_source(f"dir:{root}").tree
        finally:
            proc.run(["umount", str(root / "data")], timeout_s=10)
    finally:
        proc.run(["umount", str(root / "proc")], timeout_s=10)


LAYERS = [
    layer(
        directory(b"usr/lib"),
        symlink(b"lib", b"usr/lib"),
        entry(b"usr/lib/old", b"1"),
        entry(b"file", b"q"),
        directory(b"tmp", 0o1777, uid=5),
        entry(b"tmp/y"),
        entry(b"op/lower"),
        entry(b"op/sub/lower"),
        entry(b"dev0", b"x"),
        pax((b"SCHILY.xattr.user.note", b"n"), (b"mtime", b"17.75")),
        entry(b"usr/bin/tool", b"#!", mode=0o4755),
        hardlink(b"usr/bin/same", b"usr/bin/tool"),
        entry(b"odd\xff\n", b"o"),
        entry(b"gone/a"),
        pax(
            (b"GNU.sparse.size", b"900000"),
            (b"GNU.sparse.map", b"0,5,800000,3"),
            (b"GNU.sparse.major", b"0"),
            (b"GNU.sparse.minor", b"1"),
            (b"GNU.sparse.numblocks", b"2"),
            (b"GNU.sparse.name", b"sparse"),
        ),
        entry(b"x", b"abcdefgh"),
    ),
    layer(
        entry(b"lib/foo", b"foo"),
        entry(b"file/under", b"u"),
        entry(b"tmp/z", b"z"),
        directory(b"d2"),
        symlink(b"s2", b"d2"),
        entry(b"s2/in", b"in"),
        entry(b"op/.wh..wh..opq"),
        entry(b"op/new", b"2"),
        entry(b"dev0", kind=b"3"),
        entry(b".wh.gone"),
        entry(b"null", kind=b"3", major=1, minor=3),
        entry(b"/abs", b"a"),
    ),
]


@pytest.fixture
def store() -> Iterator[str]:
    """An empty storage of podman, GRAPH+RUN; podman wants paths of at most 50 characters."""
    with tempfile.TemporaryDirectory(prefix="krunpy-") as place:
        yield f"{place}/graph+{place}/run"
        argv = [
            "podman",
            "--root",
            f"{place}/graph",
            "--runroot",
            f"{place}/run",
            "system",
            "reset",
            "--force",
        ]
        proc.run(argv, timeout_s=60)


@pytest.mark.slow
@pytest.mark.skipif(
    None in (proc.find_program("podman"), proc.find_program("skopeo")), reason="needs podman and skopeo"
)
def test_podman_mounts_the_tree_that_we_see_in_its_layers(tmp_path: Path, root: Path, store: str) -> None:
    ours = {
        "plain": Layout([tar_of_directory(root)]).write(tmp_path / "plain"),
        "layers": Layout(LAYERS, stored=[LAYERS[0], squeezed(LAYERS[1])]).write(tmp_path / "layers"),
    }

    for name, path in ours.items():
        target = f"containers-storage:[overlay@{store}]localhost/{name}:1"
        try:
            proc.run(["skopeo", "--insecure-policy", "copy", "-q", f"oci:{path}", target], timeout_s=60)
        except HostError as error:
            if name == "layers":  # the plain image went in: it is not the machine
                raise
            pytest.skip(f"podman's storage does not work here: {error.why}")
        theirs, image = (
            open_source(f"containers-storage:[{store}]localhost/{name}:1"),
            open_source(f"oci:{path}"),
        )
        try:
            assert describe(theirs) == describe(image)
        finally:
            theirs.close()
            image.close()
