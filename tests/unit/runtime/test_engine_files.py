"""What an engine wrote for one container reaches RUN, and nothing else of the host's does."""

import struct

import pytest

from krunpy.core.errors import HostError
from krunpy.oci.config import Mount
from krunpy.runtime.engine_files import FILE_LIMIT, load_engine_files
from krunpy.runtime.request import HostSettings

ID = "0123456789abcdef" * 4


@pytest.fixture
def userdata(tmp_path):
    directory = tmp_path / ID / "userdata"
    directory.mkdir(parents=True)
    return directory


def bind(source, destination):
    return Mount(destination=destination, type="bind", source=str(source), options=("bind", "rprivate"))


def test_the_three_files_of_the_engine_are_read_and_their_contents_are_items_of_run(userdata):
    mounts = []
    for name in ("hosts", "resolv.conf", "hostname", "other"):
        (userdata / name).write_text(f"{name}\n")
        mounts.append(bind(userdata / name, f"/etc/{name}"))

    found = load_engine_files(mounts)

    assert found == {
        "/etc/hosts": b"hosts\n",
        "/etc/resolv.conf": b"resolv.conf\n",
        "/etc/hostname": b"hostname\n",
    }
    run = HostSettings(etc=found).encode(stdin_is_empty=False)
    assert struct.pack("<BBH", 5, 0, 6) + b"hosts\n" in run


def test_a_file_that_a_user_binds_there_is_not_read(tmp_path):
    (tmp_path / "hosts").write_text("secret\n")

    assert load_engine_files([bind(tmp_path / "hosts", "/etc/hosts")]) == {}


@pytest.mark.parametrize("contents", [b"x" * (FILE_LIMIT + 1), b"a\0b"])
def test_a_file_that_does_not_fit_is_refused_by_name(userdata, contents):
    (userdata / "hosts").write_bytes(contents)

    with pytest.raises(HostError, match=r"as /etc/hosts: wanted a text file of at most 16384 bytes"):
        load_engine_files([bind(userdata / "hosts", "/etc/hosts")])


def test_a_file_that_is_gone_or_no_file_is_an_error(userdata):
    mount = bind(userdata / "hosts", "/etc/hosts")

    with pytest.raises(HostError, match="no such file"):
        load_engine_files([mount])
    (userdata / "hosts").mkdir()
    with pytest.raises(HostError, match="/etc/hosts"):
        load_engine_files([mount])
