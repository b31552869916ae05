import os

import pytest

from krunpy.core.errors import FormatError, StateError
from krunpy.oci.state import CREATED, CREATING, RUNNING, STOPPED, Record, encode_record
from krunpy.runtime import lifecycle
from krunpy.runtime.container import (
    FIFO,
    RECORD,
    find_container,
    load_container,
    load_containers,
    remove_directory,
    write_file,
)
from krunpy.runtime.process import find_start_time


@pytest.fixture
def root(tmp_path):
    return str(tmp_path / "root")


def make(root, *, pid=None, start_time=None, fifo=False):
    directory = f"{root}/c1"
    os.makedirs(directory)
    pid = os.getpid() if pid is None else pid
    start_time = find_start_time(pid) if start_time is None else start_time
    record = Record(
        id="c1", pid=pid, start_time=start_time, bundle="/b", rootfs="/r", created="now", contained=True
    )
    write_file(f"{directory}/{RECORD}", encode_record(record))
    if fifo:
        os.mkfifo(f"{directory}/{FIFO}")


def test_the_status_follows_the_process_and_the_fifo(root):
    make(root, fifo=True)
    assert load_container(root, "c1").status() == CREATED

    os.unlink(f"{root}/c1/{FIFO}")
    assert load_container(root, "c1").status() == RUNNING


def test_another_process_with_the_same_pid_does_not_count(root):
    make(root, start_time=1, fifo=True)

    assert load_container(root, "c1").status() == STOPPED
    with pytest.raises(StateError, match="stopped"):
        lifecycle.kill_container(root, "c1", 9)


def test_a_directory_without_a_record_is_being_created(root):
    os.makedirs(f"{root}/c1")

    assert load_container(root, "c1").status() == CREATING
    with pytest.raises(StateError, match="still being created"):
        lifecycle.show_state(root, "c1")


def test_a_shim_that_died_is_noticed_by_start(root):
    make(root, fifo=True)  # alive, but nobody reads the fifo

    with pytest.raises(StateError, match="shim has just ended"):
        lifecycle.start_container(root, "c1")


def test_an_unknown_container_is_an_error_except_for_a_forced_delete(root):
    for verb in (lifecycle.start_container, lifecycle.show_state):
        with pytest.raises(StateError, match="does not exist"):
            verb(root, "c1")
    with pytest.raises(StateError, match="does not exist"):
        lifecycle.delete_container(root, "c1", force=False)

    assert lifecycle.delete_container(root, "c1", force=True) == []


def test_a_path_is_no_id(root):
    with pytest.raises(StateError):
        lifecycle.delete_container(root, "../etc", force=True)


def test_a_broken_record_is_a_format_error_and_left_out_of_the_list(root):
    os.makedirs(f"{root}/c1")
    write_file(f"{root}/c1/{RECORD}", b"\xff")

    with pytest.raises(FormatError):
        find_container(root, "c1")
    assert list(load_containers(root)) == []


def test_there_may_be_no_containers_at_all(root):
    assert list(load_containers(root)) == []


def test_removing_a_directory_follows_no_link(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    (tmp_path / "gone" / "deep").mkdir(parents=True)
    (tmp_path / "gone" / "deep" / "link").symlink_to(tmp_path / "kept")

    remove_directory(str(tmp_path / "gone"))
    remove_directory(str(tmp_path / "gone"))

    assert [each.name for each in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept" / "file").exists()
