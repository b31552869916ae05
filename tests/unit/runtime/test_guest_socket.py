import os
import socket

import pytest

from krunpy.core.errors import HostError
from krunpy.runtime.guest_socket import GuestSocket


@pytest.fixture
def machine():
    ours, theirs = socket.socketpair()
    yield ours, theirs
    ours.close()
    theirs.close()


def test_the_guest_connects_through_the_inode_alone_and_the_name_goes(tmp_path, machine):
    listener = GuestSocket(str(tmp_path))
    with socket.socket(socket.AF_UNIX) as client, socket.socket(socket.AF_UNIX) as second:
        client.connect(f"/proc/self/fd/{listener.inode}")

        with listener.accept(machine=machine[0], timeout_s=5) as connection:
            client.send(b"hello")
            assert connection.recv(5) == b"hello"
        assert os.listdir(tmp_path) == []
        with pytest.raises(ConnectionRefusedError):
            second.connect(f"/proc/self/fd/{listener.inode}")


def test_a_machine_that_ends_is_not_waited_for(tmp_path, machine):
    listener = GuestSocket(str(tmp_path))
    machine[1].close()

    with pytest.raises(HostError, match="the machine ended before"):
        listener.accept(machine=machine[0], timeout_s=60)


def test_a_silent_guest_is_given_up_in_time(tmp_path, machine):
    with pytest.raises(HostError, match=r"not within 0\.01 s"):
        GuestSocket(str(tmp_path)).accept(machine=machine[0], timeout_s=0.01)


def test_a_long_directory_is_no_obstacle(tmp_path):
    deep = tmp_path / ("d" * 120) / ("e" * 120)
    deep.mkdir(parents=True)
    listener = GuestSocket(str(deep))
    assert os.path.exists(deep / "guest.sock")
    listener.close()
    assert not os.path.exists(deep / "guest.sock")
