from __future__ import annotations

import os

import pytest
from disk_fakes import ErofsReader, MemorySource, directory, file, flatten
from hypothesis import given, settings
from hypothesis import strategies as st

from krunpy.core.errors import BundleError
from krunpy.image.contents import ContentWriter
from krunpy.image.erofs import Layout
from krunpy.image.tree import Node, NodeKind


class Memory:
    """What `ContentWriter` needs of a disk writer. Refuses a block that is written twice."""

    def __init__(self, blocks: int) -> None:
        self.bytes = bytearray(blocks * 4096)
        self.written: set[int] = set()

    def write(self, position: int, data) -> None:
        assert position % 4096 == 0
        assert len(data) % 4096 == 0
        for block in range(position // 4096, (position + len(data)) // 4096):
            assert block not in self.written
            self.written.add(block)
        self.bytes[position : position + len(data)] = data

    def fill(self, position: int, size: int) -> None:
        self.write(position, bytes(size))


def build(tree: Node, **options) -> bytes:
    layout = Layout(tree)
    memory = Memory(layout.blocks)
    position = 0
    for blocks in layout.pack_metadata():
        memory.write(position, blocks)
        position += len(blocks)
    assert position == layout.data_block * 4096
    contents = ContentWriter(layout, memory)
    for node, offset, piece in MemorySource(tree, **options).stream():
        contents.take(node, offset, piece)
    contents.finish()
    assert memory.written == set(range(layout.blocks))
    return bytes(memory.bytes)


ids = st.integers(0, 2**32 - 2)
names = st.binary(min_size=1, max_size=255).filter(lambda n: n not in (b".", b"..") and not set(n) & {0, 47})
xattr_names = st.builds(
    lambda p, n: p + n,
    st.sampled_from([b"user.", b"trusted.", b"security."]),
    st.binary(min_size=1, max_size=200),
) | st.sampled_from([b"system.posix_acl_access", b"system.posix_acl_default"])
meta = {
    "mode": st.integers(0, 0o7777), "uid": ids, "gid": ids, "mtime": st.integers(-(2**40), 2**40),
    "xattrs": st.dictionaries(xattr_names, st.binary(max_size=300), max_size=3),
}  # fmt: skip
contents = st.builds(
    lambda b, n, t: (b + bytes(n)) * t, st.binary(max_size=40), st.integers(0, 9000), st.integers(0, 3)
)
targets = st.binary(min_size=1, max_size=4095).filter(lambda target: 0 not in target)
devices = st.builds(os.makedev, st.integers(0, 4095), st.integers(0, 2**20 - 1))
leaves = (
    st.builds(file, contents, **meta)
    | st.builds(Node, kind=st.just(NodeKind.SYMLINK), target=targets, **meta)
    | st.builds(Node, kind=st.sampled_from([NodeKind.CHAR, NodeKind.BLOCK]), rdev=devices, **meta)
    | st.builds(Node, kind=st.sampled_from([NodeKind.FIFO, NodeKind.SOCKET]), **meta)
)  # fmt: skip
trees = st.recursive(
    leaves,
    lambda inner: st.builds(directory, st.dictionaries(names, inner, max_size=5), **meta),
    max_leaves=12,
)
roots = st.builds(directory, st.dictionaries(names, trees, max_size=5), **meta)


@settings(max_examples=120, deadline=None)
@given(roots, st.sampled_from([1, 4095, 4096, 5000, 1 << 20]), st.booleans())
def test_any_tree_reads_back_as_it_was(tree, piece, backwards) -> None:
    piece = max(piece, 500)

    image = build(tree, piece=piece, backwards=backwards)

    assert ErofsReader(image).flatten() == flatten(tree)


@settings(max_examples=30, deadline=None)
@given(roots, st.randoms(use_true_random=False))
def test_the_order_of_names_and_of_streaming_does_not_show(tree, random) -> None:
    def shuffled(node: Node) -> Node:
        children = list(node.children.items())
        random.shuffle(children)
        node.children = {name: shuffled(child) for name, child in children}
        return node

    first = build(tree)

    assert build(shuffled(tree), backwards=True, piece=700) == first


def test_hard_links_share_one_inode() -> None:
    node = file(b"x" * 5000)
    tree = directory({b"a": node, b"d": directory({b"b": node}), b"c": node})

    read = ErofsReader(build(tree)).flatten()

    assert read[b"/c"][4] == 3
    assert read[b"/c"][8] == read[b"/d/b"][8] == b"/a"


def test_a_large_directory_is_sorted_over_its_blocks() -> None:
    tree = directory(
        {b"%05d" % (index * 7919 % 10000) + b"-" * (index % 200): file(b"") for index in range(10000)}
    )

    assert ErofsReader(build(tree)).flatten() == flatten(tree)


def test_names_before_the_dot_sort_before_it() -> None:
    tree = directory(
        {
            b"!": file(b"1"),
            b"-": file(b"2"),
            b"...": file(b"3"),
            b"\x01": file(b"4"),
            b"\xff" * 255: file(b"5"),
        }
    )

    assert ErofsReader(build(tree)).flatten() == flatten(tree)


def test_extended_attributes_of_64_kib_span_blocks() -> None:
    values = {b"user.%d" % index: os.urandom(60000) for index in range(3)}
    tree = directory(
        {
            b"a": file(b"", xattrs=values),
            b"b": file(b"after"),
            b"l": Node(kind=NodeKind.SYMLINK, mode=0o777, target=b"t", xattrs=values),
        }
    )

    assert ErofsReader(build(tree)).flatten() == flatten(tree)


def test_a_very_deep_tree_needs_no_recursion() -> None:
    tree = directory({})
    for _ in range(3000):
        tree = directory({b"d": tree})

    assert len(Layout(tree).places) == 3001


def test_a_hole_reads_as_zeros() -> None:
    node = file(b"a" * 100 + bytes(50000) + b"b" * 100)
    tree = directory({b"f": node, b"g": file(bytes(12345)), b"h": file(b"c" + bytes(4095))})

    assert ErofsReader(build(tree, piece=512)).flatten() == flatten(tree)


def test_a_file_of_more_than_4_gib_has_its_size_and_blocks() -> None:
    node = Node(kind=NodeKind.FILE, mode=0o644, size=5 << 30)
    layout = Layout(directory({b"big": node, b"small": file(b"1")}))

    assert layout.find_place(node).blocks == 5 << 18
    metadata = b"".join(layout.pack_metadata())
    start = 4096 + layout.find_place(node).slot * 32
    assert int.from_bytes(metadata[start + 8 : start + 16], "little") == 5 << 30


@pytest.mark.parametrize(
    ("node", "why"),
    [
        (Node(kind=NodeKind.SYMLINK, mode=0o777, target=b""), "target"),
        (Node(kind=NodeKind.SYMLINK, mode=0o777, target=b"a" * 4096), "target"),
        (Node(kind=NodeKind.FILE, mode=0o644, uid=-1), "does not fit"),
        (Node(kind=NodeKind.FILE, mode=0o100644), "12 bits"),
        (Node(kind=NodeKind.CHAR, mode=0o644, rdev=os.makedev(5000, 1)), "device 5000:1"),
        (Node(kind=NodeKind.FILE, mode=0o644, xattrs={b"system.nfs4_acl": b"x"}), "not in user, trusted"),
        (Node(kind=NodeKind.FILE, mode=0o644, xattrs={b"user.": b"x"}), "not in user, trusted"),
        (Node(kind=NodeKind.FILE, mode=0o644, xattrs={b"user.a": bytes(65536)}), "too long"),
        (Node(kind=NodeKind.FILE, mode=0o644, size=1 << 45), "can be addressed"),
    ],
)
def test_what_erofs_cannot_hold_is_refused_by_name(node: Node, why: str) -> None:
    tree = directory({b"d": directory({b"bad\n": node})})

    with pytest.raises(BundleError, match=why) as caught:
        list(Layout(tree).pack_metadata())
    assert "addressed" in why or "/d/bad\\n" in str(caught.value)


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"a\0b", b"n" * 256])
def test_a_name_that_no_file_system_holds_is_refused(name: bytes) -> None:
    with pytest.raises(BundleError, match="name that no file system can hold"):
        Layout(directory({name: file(b"")}))


def test_a_directory_with_two_names_is_refused() -> None:
    inner = directory({})

    with pytest.raises(BundleError, match="/a is a directory with a second name"):
        Layout(directory({b"a": inner, b"b": inner}))


def test_a_directory_inside_itself_is_refused() -> None:
    tree = directory({})
    tree.children[b"loop"] = tree

    with pytest.raises(BundleError, match="second name"):
        Layout(tree)


def take_all(contents: ContentWriter, node: Node, pieces) -> None:
    for offset, piece in pieces:
        contents.take(node, offset, piece)


@pytest.mark.parametrize("pieces", [[(0, b"12345678901")], [(0, b"12345"), (3, b"45")], [(8, b"123")]])
def test_a_file_that_grew_or_repeats_is_refused(pieces) -> None:
    node = file(b"1234567890")
    layout = Layout(directory({b"f": node}))
    contents = ContentWriter(layout, Memory(layout.blocks))

    with pytest.raises(BundleError, match="/f changed while it was read"):
        take_all(contents, node, pieces)
