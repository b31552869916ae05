import os
import socket

from krunpy.runtime.ports import find_inherited_ports


def test_sockets_that_a_child_would_inherit_are_found():
    with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        for each in (tcp, udp):
            each.bind(("127.0.0.1", 0))
            each.set_inheritable(True)
        tcp.listen()

        found = find_inherited_ports()

        assert f"127.0.0.1:{tcp.getsockname()[1]}/tcp" in found
        assert f"127.0.0.1:{udp.getsockname()[1]}/udp" in found


def test_sockets_of_our_own_and_other_kinds_are_not():
    local, other = socket.socketpair()
    with socket.socket() as own, socket.socket() as idle, local, other:
        own.bind(("127.0.0.1", 0))
        own.listen()
        for each in (idle, local, other):
            each.set_inheritable(True)
        before = len(os.listdir("/proc/self/fd"))

        assert find_inherited_ports() == []
        assert len(os.listdir("/proc/self/fd")) == before
