"""Conversions that cannot succeed: trees that change or cannot be stored, full disks, Ctrl-C. Nothing stays."""

import os
import shutil
import signal
import socket
import stat
import subprocess
import time

import pytest

from tests.fakes.commands import Bench, make_tree, require_one_error

MIB = 1 << 20


@pytest.fixture
def bench(tmp_path):
    return Bench(tmp_path / "bench")


def require_untouched(bench):
    assert bench.images() == []
    assert bench.drafts() == []


@pytest.mark.parametrize("prefix", ["", "dir:", "bundle:", "oci:", "oci-archive:", "docker-archive:"])
def test_what_is_no_source_at_all_is_one_error(bench, prefix):
    places = {
        name: bench.path(name) for name in ("missing", "dangling", "loop", "fifo", "socket", "empty", "junk")
    }
    places["dangling"].symlink_to("nowhere")
    places["loop"].symlink_to("loop")
    os.mkfifo(places["fifo"])
    places["empty"].touch()
    places["junk"].write_bytes(b"junk" * 1000)
    here = os.getcwd()
    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(bench.directory)
        listener.bind("socket")  # a path in full would be too long
        os.chdir(here)
    specs = [f"{prefix}{path}" for path in places.values()]
    specs += [f"{prefix}/dev/null", f"{prefix}/dev/zero", f"{prefix}{'x' * 5000}"]

    results = bench.call_many([(spec, ["image", "convert", spec]) for spec in specs])

    for spec, result in results.items():
        lines = result.err.splitlines()
        assert result.code == 2, result
        assert lines[0].startswith("krunpy: cannot "), result
        assert lines[1].startswith("  why:  "), result
        assert len(lines) in (2, 3), result
        assert all(len(line) < 2100 for line in lines), spec
        assert result.seconds < 5
    require_untouched(bench)


def test_a_tree_that_is_too_deep_is_refused_by_name(bench):
    tree = make_tree(bench.path("root"))
    deep = tree.joinpath(*["d"] * 70)
    deep.mkdir(parents=True)

    done = bench.call("image", "convert", str(tree))

    require_one_error(done, 2, has_next=False)
    assert "levels deep" in done.err
    require_untouched(bench)


@pytest.mark.root
def test_trees_that_cannot_be_represented_are_refused_by_name(bench):
    whiteout = make_tree(bench.path("whiteout"))
    os.mknod(whiteout / "etc/gone", stat.S_IFCHR, os.makedev(0, 0))
    mounted = make_tree(bench.path("mounted"))
    (mounted / "data").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", str(mounted / "data")], check=True)
    try:
        for tree, word in ((whiteout, "whiteout"), (mounted, "mounted on it")):
            done = bench.call("image", "convert", f"dir:{tree}")

            require_one_error(done, 2, has_next=False)
            assert word in done.err
    finally:
        subprocess.run(["umount", str(mounted / "data")], check=True)
    require_untouched(bench)


@pytest.mark.root
def test_a_tree_with_odd_names_owners_and_devices_is_kept(bench):
    tree = make_tree(bench.path("root"))
    (tree / os.fsdecode(b"\xff\n\x1b[31m")).write_text("x")
    os.chown(tree / "etc/passwd", 0xFFFFFFFE, 0xFFFFFFFE)
    os.mknod(tree / "device", stat.S_IFBLK, os.makedev(4095, 1048575))
    os.mkfifo(tree / "fifo")

    done = bench.call("image", "convert", str(tree))

    assert (done.code, done.err) == (0, "")


@pytest.mark.root
@pytest.mark.parametrize("encrypt", [True, False])
def test_a_full_disk_is_one_error_and_what_was_there_stays(bench, encrypt):
    cache = bench.path("cache")
    cache.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(cache)], check=True)
    try:
        small = make_tree(bench.path("small"))
        words = [] if encrypt else ["--integrity-only"]
        assert bench.call("image", "convert", str(small), *words).code == 0
        kept = bench.images()

        large = make_tree(bench.path("large"), 8 * MIB)
        done = bench.call("image", "convert", str(large), *words)

        require_one_error(done, 4)
        assert "bytes" in done.err
        assert "krunpy image prune" in done.err
        assert bench.images() == kept
        assert bench.drafts() == []
        (cache / "filler").write_bytes(bytes(shutil.disk_usage(cache).free))
        done = bench.call("image", "convert", str(make_tree(bench.path("other"))), *words)
        require_one_error(done, 4)
        assert bench.images() == kept
    finally:
        subprocess.run(["umount", str(cache)], check=True)


@pytest.mark.root
def test_an_unreadable_file_is_named(bench):
    tree = make_tree(bench.path("root"))
    (tree / "etc/secret").write_text("x")
    (tree / "etc/secret").chmod(0)
    powerless = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search")

    done = bench.call("image", "convert", str(tree), before=powerless)

    require_one_error(done, 2, has_next=False)
    assert "/etc/secret cannot be read: permission denied" in done.err
    require_untouched(bench)


@pytest.mark.root
def test_a_cache_that_cannot_be_written_is_one_error(bench):
    tree = make_tree(bench.path("root"))
    bench.path("cache").mkdir(mode=0o500)
    powerless = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search")

    done = bench.call("image", "convert", str(tree), before=powerless)

    require_one_error(done, 4, has_next=False)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Make a tree whose conversion takes a while."""
    made = make_tree(tmp_path_factory.mktemp("long") / "root")
    with (made / "large").open("wb") as stream:
        for _ in range(512):
            stream.write(b"\xa5" * MIB)
    return made


def start_long_conversion(bench, tree):
    """Start converting, and return the process once its draft is there."""
    process = bench.start("image", "convert", str(tree))
    deadline = time.monotonic() + 20
    while not [name for name in bench.drafts() if os.listdir(name)]:
        assert time.monotonic() < deadline
        assert process.poll() is None, bench.path("stderr").read_text()
        time.sleep(0.002)
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_conversion_that_is_interrupted_leaves_nothing_and_ends_with_130(bench, tree, number):
    process = start_long_conversion(bench, tree)

    process.send_signal(number)

    assert process.wait(20) == 130
    assert bench.path("stderr").read_text() == "krunpy: interrupted\n"
    require_untouched(bench)


def test_what_a_killed_conversion_left_is_removed_by_the_next_command(bench, tree):
    process = start_long_conversion(bench, tree)
    process.kill()
    process.wait(20)
    assert bench.drafts()

    assert bench.call("image", "prune").code == 0

    require_untouched(bench)


def test_a_tree_that_changes_while_it_is_read_is_refused(bench, tree):
    process = start_long_conversion(bench, tree)

    with (tree / "large").open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"!")
    process.wait(60)

    error = bench.path("stderr").read_text()
    assert process.returncode == 2, error
    assert "changed while it was read" in error
    assert "Traceback" not in error
    require_untouched(bench)
