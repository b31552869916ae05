import os

import pytest

from krunpy.oci.config import Mount
from krunpy.runtime.shm import find_shm_mount

SHM = "/dev/shm"


def bound(source):
    return [Mount(destination="/dev/shm", type="bind", source=source, options=("rbind",))]


def engine_directory(tmp_path, target):
    """Return the path of an engine's shm of a container, which is `target`."""
    folder = tmp_path / ("a" * 64)
    folder.mkdir()
    (folder / "shm").symlink_to(target)
    return str(folder / "shm")


def test_the_size_of_the_engines_shm_is_the_guests(tmp_path, monkeypatch):
    if not os.path.ismount(SHM):
        pytest.skip(f"{SHM} is no file system of its own here")
    # the file system's own size, whatever it is: no test may mount one
    facts = os.statvfs(SHM)
    monkeypatch.setattr(os.path, "ismount", lambda _: True)

    mount = find_shm_mount(bound(engine_directory(tmp_path, SHM)))

    size = facts.f_blocks * facts.f_frsize
    if size == 64 << 20:
        assert mount is None
    else:
        assert mount is not None
        assert (mount.path, mount.options) == ("/dev/shm", f"nosuid,noexec,nodev,mode=1777,size={size}")


def test_where_no_file_system_is_mounted_it_is_the_agents_own(tmp_path):
    assert find_shm_mount(bound(engine_directory(tmp_path, tmp_path))) is None


def test_other_binds_say_nothing_about_it():
    assert find_shm_mount([]) is None
    assert find_shm_mount(bound("/home/me/shm")) is None
