from pathlib import Path

import pytest

from krunpy.core.errors import HostError, ToolError, UsageError
from krunpy.guest.kernel_source import Source, find_source, hash_source, require_tools, unpack_source
from tests.unit.guest.kernel_tree import make_tree, pack_tree, use_tools

PATCH = "--- a/main.c\n+++ b/main.c\n@@ -1 +1 @@\n-int {old};\n+int {new};\n"


def test_everything_that_is_missing_is_named_at_once_with_its_package(tmp_path, monkeypatch):
    use_tools(tmp_path / "bin", monkeypatch, without=("flex", "bison", "make"))

    with pytest.raises(HostError) as caught:
        require_tools()

    assert caught.value.why == "missing: make, flex, bison"
    assert caught.value.next == "apt-get install bison build-essential flex"


def test_a_missing_header_is_missing_as_a_program_is(tmp_path, monkeypatch):
    use_tools(tmp_path / "bin", monkeypatch)
    (tmp_path / "bin/gcc").write_text("#!/bin/sh\nexit 1\n")

    with pytest.raises(HostError, match="cannot build") as caught:
        require_tools()

    assert caught.value.next == "apt-get install libelf-dev"


def test_the_newest_source_of_the_distribution_is_found_by_number(tmp_path):
    for name in (
        "linux-source-6.9.tar.xz",
        "linux-source-6.12.tar.xz",
        "linux-source-6.1.tar.xz",
        "other.tar.xz",
    ):
        (tmp_path / name).touch()

    assert find_source("", "", root=str(tmp_path)).path == str(tmp_path / "linux-source-6.12.tar.xz")


def test_no_source_says_how_to_install_one(tmp_path):
    with pytest.raises(HostError, match="no linux-source") as caught:
        find_source("", "", root=str(tmp_path))

    assert "apt-get install linux-source" in caught.value.next


def test_a_folder_that_is_no_source_is_refused(tmp_path):
    with pytest.raises(UsageError, match="it has no Kconfig"):
        find_source(str(tmp_path), "")


def test_a_source_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        find_source(str(tmp_path / "nowhere"), "")


def test_an_archive_without_a_source_is_refused(tmp_path):
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/main.c").touch()
    archive = pack_tree(tmp_path / "tree", tmp_path / "a.tar.xz")

    with pytest.raises(UsageError, match=r"a\.tar\.xz is no kernel source"):
        unpack_source(Source(path=str(archive), patches=()), str(tmp_path / "out"))


def test_patches_apply_in_the_order_of_their_names(tmp_path):
    tree = make_tree(tmp_path / "tree")
    (tmp_path / "p").mkdir()
    (tmp_path / "p/0002-then.patch").write_text(PATCH.format(old="first", new="second"))
    (tmp_path / "p/0001-first.patch").write_text(PATCH.format(old="main", new="first"))
    (tmp_path / "p/README").write_text("no patch\n")

    unpacked = unpack_source(find_source(str(tree), str(tmp_path / "p")), str(tmp_path / "out"))

    assert Path(unpacked, "main.c").read_text() == "int second;\n"
    assert (tree / "main.c").read_text() == "int main;\n"  # of the user's tree nothing changes


def test_a_patch_for_another_source_is_named(tmp_path):
    tree = make_tree(tmp_path / "tree")
    (tmp_path / "p").mkdir()
    (tmp_path / "p/0001-other.patch").write_text(PATCH.format(old="other", new="x"))

    with pytest.raises(ToolError, match=r"0001-other\.patch") as caught:
        unpack_source(find_source(str(tree), str(tmp_path / "p")), str(tmp_path / "out"))

    assert "FAILED" in caught.value.why


def test_a_folder_without_patches_is_refused(tmp_path):
    tree = make_tree(tmp_path / "tree")

    with pytest.raises(UsageError, match="holds no file"):
        find_source(str(tree), str(tmp_path))


def test_a_tree_is_copied_without_what_was_built_in_it_and_without_its_history(tmp_path):
    tree = make_tree(tmp_path / "tree")
    (tree / "stale.o").touch()
    (tree / ".git").mkdir()

    unpacked = tmp_path / "out"
    unpack_source(find_source(str(tree), ""), str(unpacked))

    assert not (unpacked / "stale.o").exists()
    assert not (unpacked / ".git").exists()
    assert (tree / "stale.o").exists()


def change_contents(tree):
    (tree / "main.c").write_text("int Main;\n")


def change_name(tree):
    (tree / "main.c").rename(tree / "other.c")


def change_mode(tree):
    (tree / "main.c").chmod(0o755)


def add_link(tree):
    (tree / "link").symlink_to("main.c")


@pytest.mark.parametrize("change", [change_contents, change_name, change_mode, add_link])
def test_a_tree_with_another_name_kind_or_byte_hashes_to_another_digest(tmp_path, change):
    tree = make_tree(tmp_path / "tree")
    before = hash_source(str(tree))
    (tree / ".git").mkdir()
    (tree / ".git/HEAD").touch()
    assert hash_source(str(tree)) == before

    change(tree)

    assert hash_source(str(tree)) != before
