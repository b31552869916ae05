from __future__ import annotations

import pytest
from sourcetars import directory, entry, hardlink, layer, pax, symlink

from krunpy.core.errors import BundleError
from krunpy.image.blob import ChunkReader
from krunpy.image.layers import LayerStack
from krunpy.image.limits import Limits
from krunpy.image.tarstream import read_entries
from krunpy.image.tree import Node, NodeKind, find_node, walk_tree

MADE = {b"dev", b"etc", b"proc", b"run", b"sys", b"tmp"}


def stack(*layers: bytes, **bounds: int) -> Node:
    found = LayerStack(Limits(**bounds))
    for number, each in enumerate(layers):
        found.apply(number, read_entries(ChunkReader(iter([each])), lambda: None))
    return found.finish()


def names(root: Node) -> set[bytes]:
    return {path for path, _ in walk_tree(root)} - MADE


def node(root: Node, path: bytes) -> Node:
    found = root
    for name in path.split(b"/"):
        found = found.children[name]
    return found


def test_an_upper_layer_replaces_a_file() -> None:
    root = stack(layer(entry(b"a", b"12")), layer(entry(b"a", b"1234", mode=0o600)))

    assert (node(root, b"a").size, node(root, b"a").mode) == (4, 0o600)


def test_a_directory_is_merged_and_takes_the_upper_attributes() -> None:
    root = stack(
        layer(directory(b"d/", 0o700), entry(b"d/low")), layer(directory(b"d", 0o1777, uid=5), entry(b"d/up"))
    )

    assert names(root) == {b"d", b"d/low", b"d/up"}
    assert (node(root, b"d").mode, node(root, b"d").uid) == (0o1777, 5)


def test_a_directory_has_the_time_of_its_last_entry_and_none_if_the_last_layer_does_not_name_it() -> None:
    low = layer(directory(b"a", mtime=5), directory(b"b", mtime=6), entry(b"c/unnamed"))

    root = stack(low, layer(directory(b"a", mtime=7), entry(b"b/new")))

    assert [node(root, name).mtime for name in (b"a", b"b", b"c")] == [7, 0, 0]


def test_a_whiteout_hides_a_lower_file_and_leaves_no_trace() -> None:
    assert names(stack(layer(entry(b"d/a"), entry(b"d/b")), layer(entry(b"d/.wh.a")))) == {b"d", b"d/b"}


def test_a_whiteout_hides_a_lower_directory_with_all_below() -> None:
    assert names(stack(layer(entry(b"d/e/f"), entry(b"g")), layer(entry(b".wh.d")))) == {b"g"}


def test_a_whiteout_spares_its_own_layer_wherever_it_stands() -> None:
    low = layer(entry(b"a", b"old"))

    assert node(stack(low, layer(entry(b"a", b"newer"), entry(b".wh.a"))), b"a").size == 5
    assert node(stack(low, layer(entry(b".wh.a"), entry(b"a", b"newer"))), b"a").size == 5


@pytest.mark.parametrize("is_first", [True, False])
def test_an_opaque_directory_keeps_only_its_own_layer(*, is_first: bool) -> None:
    new, opaque = entry(b"d/sub/new"), entry(b"d/.wh..wh..opq")
    upper = layer(opaque, new) if is_first else layer(new, opaque)

    assert names(stack(layer(entry(b"d/sub/old"), entry(b"d/old")), upper)) == {b"d", b"d/sub", b"d/sub/new"}


def test_a_whiteout_of_nothing_is_harmless() -> None:
    assert names(stack(layer(entry(b"a")), layer(entry(b".wh.x"), entry(b"y/.wh.z"), entry(b"a/.wh.q")))) == {
        b"a"
    }


def test_the_notes_of_aufs_are_left_out() -> None:
    assert names(stack(layer(directory(b".wh..wh.plnk"), entry(b".wh..wh.aufs"), entry(b"a")))) == {b"a"}


def test_a_character_device_0_0_is_a_whiteout_of_overlayfs() -> None:
    assert names(stack(layer(entry(b"a"), entry(b"b")), layer(entry(b"a", kind=b"3")))) == {b"b"}


def test_a_hard_link_is_the_same_node_also_across_layers() -> None:
    root = stack(layer(entry(b"a", b"1"), hardlink(b"b", b"a")), layer(hardlink(b"d/c", b"/a")))

    assert node(root, b"a") is node(root, b"b") is node(root, b"d/c")


def test_the_last_hard_link_of_a_layer_says_owner_mode_and_time() -> None:
    """As podman has it; sane archives repeat the same values."""
    tool = entry(b"a", b"1", mode=0o4755, mtime=5)
    link = entry(b"b", kind=b"1", link=b"a", mode=0o640, mtime=7, uid=9)

    within, across = stack(layer(tool, link)), stack(layer(tool), layer(link))

    assert (node(within, b"a").mode, node(within, b"a").mtime, node(within, b"a").uid) == (0o640, 7, 9)
    assert (node(across, b"a").mode, node(across, b"a").mtime, node(across, b"a").uid) == (0o4755, 5, 0)


def test_a_hard_link_outlives_the_name_it_was_made_from() -> None:
    root = stack(layer(entry(b"a", b"1"), hardlink(b"b", b"a")), layer(entry(b".wh.a")))

    assert names(root) == {b"b"}
    assert node(root, b"b").size == 1


def test_replacing_one_name_leaves_the_other_hard_link() -> None:
    root = stack(layer(entry(b"a", b"1"), hardlink(b"b", b"a")), layer(entry(b"a", b"12")))

    assert (node(root, b"a").size, node(root, b"b").size) == (2, 1)


def test_a_hard_link_to_a_symlink_is_that_symlink() -> None:
    root = stack(layer(symlink(b"s", b"nowhere"), hardlink(b"t", b"s")))

    assert node(root, b"t").kind is NodeKind.SYMLINK


def test_a_symlink_of_the_same_layer_is_followed_inside_the_image() -> None:
    root = stack(layer(directory(b"usr/lib"), symlink(b"lib", b"../../usr/./lib"), entry(b"lib/x")))

    assert names(root) == {b"lib", b"usr", b"usr/lib", b"usr/lib/x"}
    assert node(root, b"lib").kind is NodeKind.SYMLINK


def test_an_absolute_symlink_is_followed_from_the_images_root() -> None:
    root = stack(layer(directory(b"data"), directory(b"etc"), symlink(b"a", b"/data"), entry(b"a/x")))

    assert b"data/x" in names(root)


def test_a_symlink_of_a_lower_layer_gives_way_to_a_directory() -> None:
    """As with podman and docker on overlay: each layer is unpacked by itself."""
    root = stack(layer(directory(b"usr/lib"), symlink(b"lib", b"usr/lib")), layer(entry(b"lib/x")))

    assert node(root, b"lib").kind is NodeKind.DIRECTORY
    assert set(node(root, b"lib").children) == {b"x"}


def test_a_file_of_a_lower_layer_gives_way_to_a_directory() -> None:
    assert names(stack(layer(entry(b"a")), layer(entry(b"a/b")))) == {b"a", b"a/b"}


def test_a_directory_that_a_layer_does_not_name_is_plain() -> None:
    root = stack(layer(directory(b"t", 0o1777, uid=7), entry(b"t/x")), layer(entry(b"t/y")))

    assert (node(root, b"t").mode, node(root, b"t").uid) == (0o755, 0)
    assert set(node(root, b"t").children) == {b"x", b"y"}


def test_a_directory_named_after_its_contents_keeps_its_attributes() -> None:
    root = stack(layer(entry(b"t/x"), directory(b"t", 0o1770)))

    assert node(root, b"t").mode == 0o1770
    assert set(node(root, b"t").children) == {b"x"}


def test_names_are_read_relative_to_the_root_of_the_image() -> None:
    assert names(stack(layer(entry(b"/a"), entry(b"./b"), entry(b"c//d"), directory(b"./")))) == {
        b"a",
        b"b",
        b"c",
        b"c/d",
    }


def test_devices_fifos_and_symlinks_keep_their_metadata() -> None:
    root = stack(
        layer(
            entry(b"c", kind=b"3", major=4, minor=300, mode=0o620, gid=5),
            entry(b"b", kind=b"4", major=259, minor=1),
            entry(b"f", kind=b"6", mode=0o600),
            symlink(b"s", b"t\xff"),
        )
    )

    assert (node(root, b"c").kind, node(root, b"c").rdev) == (
        NodeKind.CHAR,
        (4 << 8) | (300 & 0xFF) | (300 >> 8 << 20),
    )
    assert (node(root, b"b").kind, node(root, b"f").kind) == (NodeKind.BLOCK, NodeKind.FIFO)
    assert (node(root, b"s").target, node(root, b"s").mode, node(root, b"s").mtime) == (b"t\xff", 0o777, 1000)
    assert (node(root, b"c").mtime, node(root, b"f").mtime) == (0, 0)


def test_extended_attributes_are_kept_but_not_those_of_machines_and_overlays() -> None:
    records = [
        (b"SCHILY.xattr.security.capability", b"\x01\0\0\x02 =\n"),
        (b"SCHILY.xattr.user.a", b"1"),
        (b"SCHILY.xattr.trusted.b", b""),
        (b"SCHILY.xattr.system.posix_acl_access", b"\x02"),
        (b"SCHILY.xattr.security.selinux", b"x"),
        (b"SCHILY.xattr.trusted.overlay.opaque", b"y"),
        (b"SCHILY.xattr.user.overlay.origin", b"z"),
    ]

    assert node(stack(layer(pax(*records), entry(b"a"))), b"a").xattrs == {
        b"security.capability": b"\x01\0\0\x02 =\n",
        b"user.a": b"1",
        b"trusted.b": b"",
        b"system.posix_acl_access": b"\x02",
    }


def test_the_root_and_the_guests_mount_points_are_normal() -> None:
    root = stack(
        layer(
            directory(b"./", 0o700, uid=9), entry(b"dev/null", kind=b"3", major=1, minor=3), entry(b"proc/x")
        )
    )

    assert (root.mode, root.uid) == (0o755, 0)
    assert set(root.children) == MADE
    assert not root.children[b"dev"].children
    assert not root.children[b"proc"].children
    assert root.children[b"tmp"].mode == 0o1777


def test_what_engines_add_is_dropped_only_if_it_is_theirs() -> None:
    ours = stack(
        layer(
            entry(b"etc/hosts"),
            entry(b"etc/hostname"),
            entry(b".dockerenv"),
            symlink(b"etc/mtab", b"/proc/mounts"),
        )
    )
    theirs = stack(
        layer(entry(b"etc/hosts", b"x"), entry(b"etc/resolv.conf/d"), symlink(b"etc/mtab", b"elsewhere"))
    )

    assert names(ours) == set()
    assert names(theirs) == {b"etc/hosts", b"etc/mtab", b"etc/resolv.conf", b"etc/resolv.conf/d"}


def test_times_no_file_system_holds_become_zero() -> None:
    low = pax((b"mtime", b"-5.5")), entry(b"low")
    high = pax((b"mtime", b"99999999999")), entry(b"high")
    root = stack(layer(*low, *high, pax((b"mtime", b"12.9")), entry(b"ok")))

    assert [node(root, name).mtime for name in (b"low", b"high", b"ok")] == [0, 0, 12]


@pytest.mark.parametrize(
    ("entries", "fragment"),
    [
        ([entry(b"../a")], "'..'"),
        ([entry(b"a/../../b")], "'..'"),
        ([entry(b"a/.wh...")], "whiteout of no name"),
        ([entry(b".wh.")], "whiteout of no name"),
        ([entry(b"./")], "is not a directory"),
        ([entry(b"f"), entry(b"f/x")], "below a name that is not a directory"),
        ([symlink(b"s", b"no"), entry(b"s/x")], "symlink to no directory"),
        ([symlink(b"a", b"b"), symlink(b"b", b"a"), entry(b"a/x")], "more than 40 symlinks"),
        ([symlink(b"a", b"a"), entry(b"a/x")], "more than 40 symlinks"),
        ([hardlink(b"h", b"missing")], "which is not there"),
        ([hardlink(b"h", b"h")], "which is not there"),
        ([hardlink(b"a", b"b"), hardlink(b"b", b"a")], "which is not there"),
        ([directory(b"d"), hardlink(b"h", b"d")], "which is a directory"),
        ([hardlink(b"h", b"/")], "which is a directory"),
        ([hardlink(b"h", b"../x")], "'..'"),
        ([entry(b"f"), hardlink(b"h", b"f/x")], "which is not there"),
        ([symlink(b"s", b"")], "target of 0 bytes"),
        ([entry(b"c", kind=b"3", major=4096)], "device 4096:0"),
        ([pax((b"path", b"n" * 256)), entry(b"x")], "component of 256 bytes"),
        ([pax((b"path", b"d/" * 2049)), entry(b"x")], "name of 4098 bytes"),
        ([pax((b"path", b"d/" * 64 + b"f")), entry(b"x")], "65 levels deep"),
        ([pax((b"uid", b"4294967295")), entry(b"x")], "owner 4294967295"),
        ([pax((b"SCHILY.xattr.user.a", b"v" * 65536)), entry(b"x")], "65536 bytes"),
        ([pax((b"SCHILY.xattr.user." + b"a" * 251, b"")), entry(b"x")], "name of 256 bytes"),
        ([symlink(b"proc", b"elsewhere")], "the guest mounts its own there"),
    ],
)
def test_a_bad_entry_is_refused_by_name(entries: list[bytes], fragment: str) -> None:
    with pytest.raises(BundleError, match=fragment):
        stack(layer(*entries))


def test_symlinks_cannot_be_used_to_burn_time() -> None:
    chain = [symlink(b"s%d" % number, b"./" * 40 + b"s%d" % (number + 1)) for number in range(38)]
    last = [directory(b"s38")]
    with pytest.raises(BundleError, match="more than 10000000"):
        stack(layer(*last, *chain, *(entry(b"s0/%d" % number) for number in range(12000))))


def test_find_node_stays_inside_the_tree() -> None:
    root = stack(
        layer(entry(b"etc/passwd", b"x"), symlink(b"up", b"../../../etc"), symlink(b"loop", b"loop"))
    )

    assert find_node(root, b"up/passwd") is node(root, b"etc/passwd")
    assert find_node(root, b"../etc/passwd") is node(root, b"etc/passwd")
    assert find_node(root, b"loop") is None
    assert find_node(root, b"etc/passwd/x") is None
