import _socket
import os
import socket

import pytest

from krunpy.core.errors import FormatError
from krunpy.runtime.control import MAX_MESSAGE, make_pair, receive_message, send_message


@pytest.fixture
def ends():
    pair = make_pair(_socket.SOCK_SEQPACKET)
    yield pair
    for end in pair:
        end.close()


def test_a_message_arrives_with_its_descriptors(ends):
    reader, writer = os.pipe()
    send_message(ends[0], {"kind": "vm", "argv": ["/x", "{fd0}"]}, [writer])
    os.close(writer)

    message = receive_message(ends[1])

    assert message.kind == "vm"
    assert message.texts("argv") == ["/x", "{fd0}"]
    assert not os.get_inheritable(message.descriptors[0])
    os.write(message.descriptors[0], b"same pipe")
    assert os.read(reader, 100) == b"same pipe"
    os.close(message.descriptors[0])
    os.close(reader)


def test_the_largest_message_arrives(ends):
    text = "x" * (MAX_MESSAGE - 100)
    send_message(ends[0], {"kind": "note", "text": text})

    assert receive_message(ends[1]).text("text") == text


def test_a_message_over_the_limit_is_not_sent(ends):
    with pytest.raises(ValueError, match="holds"):
        send_message(ends[0], {"kind": "note", "text": "x" * MAX_MESSAGE})


def test_a_closed_end_is_no_message(ends):
    ends[0].close()

    assert receive_message(ends[1]) is None


def test_what_was_said_before_an_end_closed_unread_is_still_heard(ends):
    send_message(ends[1], {"kind": "start"})  # never read by the other end
    send_message(ends[0], {"kind": "failed", "what": "x"})
    ends[0].close()

    assert receive_message(ends[1]).kind == "failed"
    assert receive_message(ends[1]) is None


@pytest.mark.parametrize(
    "packet", [b"{", b"[]", b"{}", b'{"kind": 1}', b"\xff", b"[" * 100_000, b"x" * (MAX_MESSAGE + 1)]
)
def test_a_packet_that_is_no_message_is_refused(ends, packet):
    ends[0].send(packet)

    with pytest.raises(FormatError):
        receive_message(ends[1])


def test_descriptors_of_a_refused_packet_are_closed(ends):
    before = len(os.listdir("/proc/self/fd"))
    with open(os.devnull, "rb") as stream:
        with socket.socket(fileno=os.dup(ends[0].fileno())) as sender:
            socket.send_fds(sender, [b"nonsense"], [stream.fileno()])

        with pytest.raises(FormatError):
            receive_message(ends[1])

    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("fields", [{"text": 1}, {"text": None}])
def test_a_member_of_the_wrong_type_is_refused(ends, fields):
    send_message(ends[0], {"kind": "note", **fields})

    with pytest.raises(FormatError, match="text"):
        receive_message(ends[1]).text("text")
