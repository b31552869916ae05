"""The ext4 of confidential images of libkrun, written and read back by our own reader."""

from __future__ import annotations

import hashlib
import os
import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from krunpy.core.errors import BundleError
from krunpy.formats.ext4_write import BLOCKS_PER_GROUP, plan_geometry
from krunpy.image.blob import open_region
from krunpy.image.ext4_source import Ext4Source
from krunpy.image.libkrun_sev_plan import make_root, plan_places
from krunpy.image.libkrun_sev_survey import Shape
from krunpy.image.tree import Node, NodeKind
from tests.fakes.libkrun_sev import CONFIG_NODE, write_metadata
from tests.unit.image.sourcetrees import describe_tree

if TYPE_CHECKING:
    from pathlib import Path

NAMES = st.binary(min_size=1, max_size=255).filter(
    lambda name: (
        b"/" not in name
        and b"\0" not in name
        and name not in (b".", b"..", b"lost+found", b".krun_config.json")
    )
)
ACCESS_LIST = struct.pack("<IHHIHHI", 2, 1, 7, 0xFFFFFFFF, 2, 6, 1000)
XATTRS = st.dictionaries(
    st.sampled_from((b"user.a", b"user.longer-name", b"trusted.b", b"security.capability", b"user.c")),
    st.binary(max_size=600),
    max_size=5,
)


def make_nodes() -> st.SearchStrategy[Node]:
    fields = {
        "mode": st.integers(0, 0o7777),
        "uid": st.integers(0, 0xFFFFFFFE),
        "gid": st.integers(0, 0xFFFFFFFE),
        "xattrs": XATTRS,
    }
    times = st.integers(0, 9_223_372_036)
    leaves = st.one_of(
        st.builds(Node, kind=st.just(NodeKind.FILE), size=st.just(0), mtime=times, **fields),
        st.builds(
            Node,
            kind=st.just(NodeKind.SYMLINK),
            target=st.binary(min_size=1, max_size=100).filter(lambda target: b"\0" not in target),
            mtime=times,
            **{**fields, "mode": st.just(0o777)},
        ),
        st.builds(
            Node,
            kind=st.sampled_from((NodeKind.CHAR, NodeKind.BLOCK)),
            rdev=st.builds(os.makedev, st.integers(1, 4095), st.integers(0, (1 << 20) - 1)),
            **fields,
        ),
        st.builds(Node, kind=st.sampled_from((NodeKind.FIFO, NodeKind.SOCKET)), **fields),
    )
    return st.recursive(
        leaves,
        lambda below: st.builds(
            Node,
            kind=st.just(NodeKind.DIRECTORY),
            children=st.dictionaries(NAMES, below, max_size=8),
            mtime=times,
            **fields,
        ),
        max_leaves=30,
    )


def directory(**children: Node) -> Node:
    named = {name.encode(): node for name, node in children.items()}
    return Node(kind=NodeKind.DIRECTORY, mode=0o755, children=named)


def read_back(path: str) -> Ext4Source:
    region = open_region(path, path)
    return Ext4Source(region, fingerprint=str, finish=lambda: None, close=lambda: os.close(region.descriptor))


def seen(path: str) -> dict[bytes, tuple[object, ...]]:
    source = read_back(path)
    try:
        tree = source.read_tree()
        del tree.children[b".krun_config.json"]
        return describe_tree(tree, {})
    finally:
        source.close()


@settings(max_examples=25, deadline=None)
@given(children=st.dictionaries(NAMES, make_nodes(), min_size=1, max_size=10))
def test_any_tree_is_read_back_as_it_was(tmp_path_factory, children: dict[bytes, Node]) -> None:
    path = str(tmp_path_factory.mktemp("any") / "plain")
    root = Node(kind=NodeKind.DIRECTORY, mode=0o755, children=children)

    write_metadata(root, path, {})

    assert seen(path) == describe_tree(root, {})


def test_hard_links_and_lists_and_a_directory_of_many_blocks_are_read_back(tmp_path: Path) -> None:
    file = Node(kind=NodeKind.FILE, mode=0o4755, xattrs={b"system.posix_acl_access": ACCESS_LIST})
    many = directory(**{f"{'n' * 100}{number}": Node(kind=NodeKind.FIFO, mode=0) for number in range(500)})
    root = directory(a=file, b=directory(c=file), many=many)

    write_metadata(root, f"{tmp_path}/plain", {})

    assert seen(f"{tmp_path}/plain") == describe_tree(root, {})


def test_a_file_in_many_pieces_has_every_piece_where_it_was_put(tmp_path: Path) -> None:
    file = Node(kind=NodeKind.FILE, mode=0o644, size=4096 * 4000)
    runs = tuple((number, 1) for number in range(1, 4000, 2))

    layout = write_metadata(directory(file=file), f"{tmp_path}/plain", {id(file): Shape(runs, b"")})

    source = read_back(f"{tmp_path}/plain")
    inode = source.read_tree().children[b"file"].content
    found = list(source.filesystem.map_data(inode, source.filesystem.make_meter()))
    source.close()
    wanted = [(each.logical * 4096, each.physical * 4096) for each in layout.places[id(file)].extents]
    assert [(offset, place) for offset, place, _ in found] == wanted
    assert [offset // 4096 for offset, _, _ in found] == [number for number, _ in runs]


def test_one_tree_gives_one_file_system_whatever_the_order_of_its_names(tmp_path: Path) -> None:
    def write(name: str, *names: str) -> str:
        root = directory(**{each: Node(kind=NodeKind.FIFO, mode=0o600, uid=len(each)) for each in names})
        write_metadata(root, f"{tmp_path}/{name}", {})
        return hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()

    assert write("one", "a", "bb", "ccc") == write("two", "ccc", "a", "bb")


@pytest.mark.parametrize(
    "change",
    [
        {"mode": 0o600}, {"uid": 1}, {"gid": 1}, {"mtime": 1}, {"xattrs": {b"user.a": b"b"}}, {"size": 4097},
        {"kind": NodeKind.FIFO, "size": 0},
    ],
    ids=str,
)  # fmt: skip
def test_every_detail_of_a_file_changes_the_digest(tmp_path: Path, change: dict[str, object]) -> None:
    one = Node(kind=NodeKind.FILE, mode=0o644, size=4096)
    other = Node(**{"kind": NodeKind.FILE, "mode": 0o644, "size": 4096, **change})

    digests = {
        write_metadata(directory(a=node), f"{tmp_path}/plain", {}, slop="20MB").digest
        for node in (one, other)
    }

    assert len(digests) == 2


def test_contents_and_names_and_room_change_the_digest(tmp_path: Path) -> None:
    file = Node(kind=NodeKind.FILE, mode=0o644, size=4096)
    cases = [
        (directory(a=file), {}, "25%"),
        (directory(b=file), {}, "25%"),
        (directory(a=file, b=file), {}, "25%"),
        (directory(a=file), {}, "20MB"),
        (directory(a=file), {id(file): Shape(((0, 1),), b"1" * 32)}, "25%"),
        (directory(a=file), {id(file): Shape(((0, 1),), b"2" * 32)}, "25%"),
    ]

    digests = {
        write_metadata(root, f"{tmp_path}/plain", shapes, slop=slop).digest for root, shapes, slop in cases
    }

    assert len(digests) == len(cases)


@pytest.mark.parametrize(
    ("node", "why"),
    [
        (Node(kind=NodeKind.FILE, mode=0o644, xattrs={b"user.a": bytes(5000)}), "do not fit one block"),
        (Node(kind=NodeKind.FILE, mode=0o644, xattrs={b"odd.a": b""}), "is not in user, trusted, security"),
        (Node(kind=NodeKind.FILE, mode=0o644, xattrs={b"system.posix_acl_access": b"x"}), "not of version 2"),
        (Node(kind=NodeKind.SYMLINK, mode=0o777, target=b"x" * 4096), "Linux cannot hold"),
        (Node(kind=NodeKind.CHAR, mode=0o600, rdev=os.makedev(5000, 1)), "over 4095:1048575"),
        (Node(kind=NodeKind.FILE, mode=0o10000), "wanted 12 bits"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_ext4_cannot_hold_is_refused_by_name(tmp_path: Path, node: Node, why: str) -> None:
    with pytest.raises(BundleError) as caught:
        write_metadata(directory(name=node), f"{tmp_path}/plain", {})

    assert "/name" in caught.value.why
    assert why in caught.value.why


def test_a_lost_and_found_that_is_no_directory_is_refused() -> None:
    root = directory(**{"lost+found": Node(kind=NodeKind.FILE, mode=0o644)})

    with pytest.raises(BundleError, match="cannot read"):
        make_root(root, CONFIG_NODE)


def test_the_source_s_own_configuration_gives_way() -> None:
    theirs = Node(kind=NodeKind.FILE, mode=0o644, size=10)
    tree = directory(**{".krun_config.json": theirs})

    places = plan_places(make_root(tree, CONFIG_NODE), {})

    assert id(theirs) not in places
    assert tree.children[b".krun_config.json"] is theirs


@given(content=st.integers(1, 2_000_000), free=st.integers(0, 500_000), inodes=st.integers(11, 300_000))
def test_a_geometry_has_the_room_that_was_asked_for(content: int, free: int, inodes: int) -> None:
    found = plan_geometry(content_blocks=content, free_blocks=free, inodes=inodes)

    heads = sum(found.head_blocks for _ in found.list_heads())
    assert found.blocks - heads - found.groups * (2 + found.table_blocks) >= content + free
    assert found.inodes >= inodes
    assert found.count_group(found.groups - 1) >= found.head_blocks
    assert found.inodes_per_group <= 8 * 4096
    assert found.groups == -(-found.blocks // BLOCKS_PER_GROUP)
