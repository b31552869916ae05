"""Which kernel `krunpy guest build` takes, and what `krunpy guest kernel build` says."""

import json
import os

import pytest
from typer.testing import CliRunner

from krunpy.cli.app import app
from krunpy.cli.guest import _choose_kernel
from krunpy.core.errors import HostError, KrunpyError, UsageError
from krunpy.guest.kernel import find_release
from krunpy.guest.kernel_build import build_kernel
from krunpy.guest.kernel_source import find_source
from tests.unit.guest.kernel_tree import RELEASE, make_fragments, make_tree, use_tools


@pytest.fixture
def guest_dir(tmp_path):
    return tmp_path / "guest"


@pytest.fixture
def own(tmp_path, guest_dir, monkeypatch):
    """A kernel of our own where `guest build` looks."""
    use_tools(tmp_path / "bin", monkeypatch)
    return build_kernel(
        str(guest_dir / "kernels"),
        find_source(str(make_tree(tmp_path / "tree")), ""),
        fragments=str(make_fragments(tmp_path / "fragments")),
        jobs=1,
        progress=lambda _stage, _part: None,
    ).folder


def add_distribution(guest_dir, release="9999.1-cloud"):
    """Add a fetched kernel, newer than any that this machine has."""
    folder = guest_dir / "kernels/linux-image"
    (folder / "boot").mkdir(parents=True)
    (folder / f"boot/vmlinuz-{release}").touch()
    (folder / f"lib/modules/{release}").mkdir(parents=True)
    return release


@pytest.mark.parametrize("word", ["", "own"])
def test_one_of_our_own_comes_before_the_distributions(guest_dir, own, word):
    add_distribution(guest_dir)

    chosen = _choose_kernel(str(guest_dir), word, "")

    assert (chosen.release, chosen.origin, chosen.image) == (RELEASE, "own", f"{own}/bzImage")


@pytest.mark.usefixtures("own")
def test_the_distributions_is_taken_where_it_is_asked_for(guest_dir):
    release = add_distribution(guest_dir)

    assert _choose_kernel(str(guest_dir), "distribution", "").release == release


def test_the_distributions_is_taken_where_there_is_none_of_our_own(guest_dir):
    release = add_distribution(guest_dir)

    assert _choose_kernel(str(guest_dir), "", "").release == release


def test_a_folder_of_one_of_our_own_is_taken_from_anywhere(tmp_path, own):
    assert _choose_kernel(str(tmp_path / "elsewhere"), own, "").image == f"{own}/bzImage"


def test_own_without_one_says_how_to_build_it(guest_dir):
    add_distribution(guest_dir)

    with pytest.raises(HostError, match="none of our own") as caught:
        _choose_kernel(str(guest_dir), "own", "")
    assert "guest kernel build" in caught.value.next


@pytest.mark.parametrize(
    ("kernel", "modules"), [("bzImage", ""), ("", "m"), ("own", "m"), ("distribution", "m")]
)
def test_modules_go_with_a_bzimage_and_with_nothing_else(guest_dir, kernel, modules):
    with pytest.raises(UsageError, match="--modules goes with"):
        _choose_kernel(str(guest_dir), kernel, modules)


def test_modules_do_not_go_with_a_folder_of_our_own(guest_dir, own):
    with pytest.raises(UsageError, match="--modules goes with"):
        _choose_kernel(str(guest_dir), own, "m")


def call(*words, guest_dir):
    environment = {"KRUNPY_GUEST_DIR": str(guest_dir), "KRUNPY_DATA_DIR": str(guest_dir)}
    return CliRunner().invoke(app, ["guest", "kernel", "build", *map(str, words)], env=environment)


def test_a_build_says_each_stage_once_where_there_is_no_terminal(tmp_path, guest_dir, monkeypatch):
    use_tools(tmp_path / "bin", monkeypatch)
    tree = make_tree(tmp_path / "tree")
    fragments = make_fragments(tmp_path / "fragments")
    monkeypatch.setattr("krunpy.cli.guest_kernel.find_fragments", lambda: str(fragments))

    first = call("--source", tree, "--json", guest_dir=guest_dir)
    again = call("--source", tree, guest_dir=guest_dir)

    assert first.exit_code == again.exit_code == 0, (first.output, again.output)
    facts = json.loads(first.stdout)["data"]
    assert (facts["release"], facts["was_there"], facts["unknown"]) == (RELEASE, False, [])
    assert os.path.dirname(facts["folder"]) == str(guest_dir / "kernels")
    assert first.stderr.splitlines() == [
        "kernel: hashing the source",
        "kernel: unpacking the source",
        "kernel: configuring",
        "kernel: compiling",
        "kernel: installing",
    ]
    assert again.stdout.splitlines()[-1].startswith("nothing to do")


def test_a_source_that_is_none_is_a_mistake_of_the_command_line(tmp_path, guest_dir):
    done = call("--source", tmp_path, guest_dir=guest_dir)

    assert isinstance(done.exception, KrunpyError)
    assert done.exception.exit_code == 2


def test_an_unpacked_kernel_tells_its_release():
    assert find_release(b"\0junk Linux version 6.12.9-x (me@here) \0") == "6.12.9-x"
