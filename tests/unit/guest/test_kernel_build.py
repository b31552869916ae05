import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from krunpy.core.errors import HostError, ToolError
from krunpy.guest.kernel import find_own_kernels, load_own_kernel
from krunpy.guest.kernel_build import build_kernel
from krunpy.guest.kernel_source import find_source
from krunpy.guest.modules import load_modules
from tests.unit.guest.kernel_tree import MAKEFILE, RELEASE, make_fragments, make_tree, pack_tree, use_tools


@pytest.fixture(autouse=True)
def tools(tmp_path, monkeypatch):
    use_tools(tmp_path / "bin", monkeypatch)


@pytest.fixture
def tree(tmp_path):
    return make_tree(tmp_path / "tree")


@pytest.fixture
def fragments(tmp_path):
    return make_fragments(tmp_path / "fragments")


def build(output, source, fragments, *, told=None, patches=""):
    told = [] if told is None else told
    return build_kernel(
        str(output),
        find_source(str(source), patches),
        fragments=str(fragments),
        jobs=1,
        progress=lambda stage, part: told.append((stage, part)),
    )


def test_a_kernel_is_installed_with_what_it_was_made_of(tmp_path, tree, fragments):
    built = build(tmp_path / "out", tree, fragments)

    assert sorted(os.listdir(built.folder)) == ["bzImage", "config", "kernel.json", "vmlinux"]
    described = json.loads(Path(built.folder, "kernel.json").read_text())
    assert described["release"] == RELEASE
    assert described["options"] == {"SMP": "y", "NET": "y", "MODULES": "n", "NEWER": "y"}
    assert described["compiler"] == "gcc 99"
    assert described["unknown"] == []
    for name in ("bzImage", "vmlinux", "config"):
        assert hashlib.sha256(Path(built.folder, name).read_bytes()).hexdigest() == described["sha256"][name]


def test_the_same_inputs_leave_nothing_to_do(tmp_path, tree, fragments):
    first = build(tmp_path / "out", tree, fragments)
    told = []

    again = build(tmp_path / "out", tree, fragments, told=told)

    assert (first.was_there, again.was_there) == (False, True)
    assert (again.folder, again.description) == (first.folder, first.description)
    assert [stage for stage, _ in told] == ["hashing the source"]


def test_two_builds_of_the_same_inputs_are_the_same_bytes(tmp_path, tree, fragments):
    """The fake's image holds who built it, where, when and how often, as Linux's does."""
    folders = [build(tmp_path / name, tree, fragments).folder for name in ("one", "two")]

    for name in ("bzImage", "vmlinux", "config", "kernel.json"):
        contents = [Path(folder, name).read_bytes() for folder in folders]
        assert contents[0] == contents[1]


def test_an_archive_serves_as_a_tree_does(tmp_path, tree, fragments):
    built = build(tmp_path / "out", pack_tree(tree, tmp_path / "linux.tar.xz"), fragments)

    assert built.description["release"] == RELEASE
    assert built.description["source_name"] == "linux.tar.xz"


def change_source(tree, _fragments):
    (tree / "main.c").write_text("int other;\n")


def change_option(_tree, fragments):
    make_fragments(fragments, base="CONFIG_SMP=y\n")


@pytest.mark.parametrize("change", [change_source, change_option])
def test_another_input_is_another_kernel(tmp_path, tree, fragments, change):
    first = build(tmp_path / "out", tree, fragments)
    change(tree, fragments)

    second = build(tmp_path / "out", tree, fragments)

    assert second.folder != first.folder
    assert not second.was_there
    assert find_own_kernels(str(tmp_path / "out"))[0] == second.folder


def test_a_patched_source_is_another_kernel_and_says_so(tmp_path, tree, fragments):
    first = build(tmp_path / "out", tree, fragments)
    (tmp_path / "p").mkdir()
    (tmp_path / "p/1.patch").write_text("--- a/main.c\n+++ b/main.c\n@@ -1 +1 @@\n-int main;\n+int x;\n")

    second = build(tmp_path / "out", tree, fragments, patches=str(tmp_path / "p"))

    assert second.folder != first.folder
    assert second.description["patch_names"] == ["1.patch"]
    assert b"int x;" in Path(second.folder, "bzImage").read_bytes()


def test_an_option_that_the_source_lost_ends_the_build_and_leaves_nothing(tmp_path, fragments):
    tree = make_tree(tmp_path / "tree2", options=("SMP", "NEWER"))
    make_fragments(fragments, base="CONFIG_SMP=y\nCONFIG_NET=y\n")

    with pytest.raises(HostError, match=r"CONFIG_NET \(wanted y, seen n\)"):
        build(tmp_path / "out", tree, fragments)

    assert os.listdir(tmp_path / "out") == ["build.lock"]


def test_an_option_that_an_older_source_does_not_know_is_left_out_and_recorded(tmp_path, fragments):
    tree = make_tree(tmp_path / "tree2", options=("SMP", "NET"))

    built = build(tmp_path / "out", tree, fragments)

    assert built.description["unknown"] == ["NEWER"]
    assert "NEWER" not in Path(built.folder, "config").read_text()


def test_the_compilers_words_are_in_the_error_and_nothing_is_left(tmp_path, fragments):
    broken = MAKEFILE.replace("@sh make_image.sh", "@echo 'main.c:1: error: no such thing' >&2; false")
    tree = make_tree(tmp_path / "tree2", makefile=broken)

    with pytest.raises(ToolError, match="does not compile") as caught:
        build(tmp_path / "out", tree, fragments)

    assert "main.c:1: error: no such thing" in caught.value.why
    assert os.listdir(tmp_path / "out") == ["build.lock"]


def test_what_a_killed_build_left_is_removed_by_the_next(tmp_path, tree, fragments):
    left = tmp_path / "out/build.new/source"
    left.mkdir(parents=True)
    (left / "half.o").touch()

    built = build(tmp_path / "out", tree, fragments)

    assert sorted(os.listdir(tmp_path / "out")) == sorted(["build.lock", os.path.basename(built.folder)])


def test_progress_is_told_by_stage_and_never_says_that_it_is_done(tmp_path, tree, fragments):
    told = []

    build(tmp_path / "out", tree, fragments, told=told)

    stages = list(dict.fromkeys(stage for stage, _ in told))
    assert stages == ["hashing the source", "unpacking the source", "configuring", "compiling", "installing"]
    assert all(0 <= part < 1 for _, part in told)


def test_an_interrupted_build_stops_its_compilers_and_leaves_nothing(tmp_path, fragments):
    slow = MAKEFILE.replace("@sh make_image.sh", "@echo $$PPID > ../compiling; sleep 60")
    tree = make_tree(tmp_path / "tree2", makefile=slow.replace("../compiling", str(tmp_path / "compiling")))
    script = (
        "import sys; import krunpy.core.proc as p; p.PATH = sys.argv[1]\n"
        "from krunpy.guest.kernel_build import build_kernel; from krunpy.guest.kernel_source import find_source\n"
        "build_kernel(sys.argv[2], find_source(sys.argv[3], ''), fragments=sys.argv[4], jobs=1, progress=print)\n"
    )
    words = [sys.executable, "-c", script, tmp_path / "bin", tmp_path / "out", tree, fragments]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 30
        while not (tmp_path / "compiling").exists() or not (tmp_path / "compiling").read_text():
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        process.wait(30)

    assert os.listdir(tmp_path / "out") == ["build.lock"]
    make = int((tmp_path / "compiling").read_text())
    assert not os.path.exists(f"/proc/{make}")


def test_a_kernel_of_our_own_needs_no_modules(tmp_path, tree, fragments):
    built = build(tmp_path / "out", tree, fragments)

    kernel = load_own_kernel(built.folder)

    assert (kernel.release, kernel.origin) == (RELEASE, "own")
    assert (kernel.image, kernel.elf) == (f"{built.folder}/bzImage", f"{built.folder}/vmlinux")
    assert load_modules(kernel).early == load_modules(kernel).late == ()


@pytest.mark.parametrize("part", ["bzImage", "vmlinux"])
def test_a_part_that_changed_since_it_was_built_is_refused(tmp_path, tree, fragments, part):
    folder = build(tmp_path / "out", tree, fragments).folder
    with open(f"{folder}/{part}", "ab") as stream:
        stream.write(b"x")

    with pytest.raises(HostError, match=f"cannot use the kernel's {part}"):
        load_own_kernel(folder)
