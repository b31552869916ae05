import os
import socket

import pytest

from krunpy.client.relay import TEE_NAMES
from krunpy.client.server import Challenge, RefusedError
from krunpy.core.errors import BrokerError, EvidenceError, HostError
from krunpy.core.octets import Digest32, Nonce, PublicKey32
from krunpy.formats.frames import FrameType, Hello, encode_frame, encode_hello
from krunpy.runtime.conversation import Conversation, WatchedServer
from krunpy.runtime.kept import keep_newest
from krunpy.runtime.limits import choose_memory_mib

MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("limit", "wish", "wanted"),
    [
        (None, None, 512),
        (-1, None, 512),
        (0, 700, 700),
        (2048 * MIB, None, 2048),
        (300 * MIB + 5, None, 300),
        (300 * MIB, 4096, 300),
        (300 * MIB, 200, 200),
        (6 * MIB, None, 128),
        (1 << 62, None, 1 << 20),
    ],
)
def test_a_memory_limit_sizes_the_machine_and_no_annotation_exceeds_it(limit, wish, wanted):
    assert choose_memory_mib(limit=limit, wish=wish, default=512) == wanted


def test_old_descriptions_go_while_another_launch_removes_them_too(tmp_path):
    for number in range(5):
        (tmp_path / str(number)).touch()
        os.utime(tmp_path / str(number), ns=(number, number))
    (tmp_path / "gone").symlink_to("nowhere")  # listed, and not there when it is looked at

    keep_newest(str(tmp_path), 2)

    assert sorted(os.listdir(tmp_path)) == ["3", "4", "gone"]


class Server:
    """Answers an attestation with an outcome."""

    def __init__(self, outcome):
        self.outcome = outcome

    def challenge(self, _):
        raise BrokerError("cannot reach the server", why="gone")

    def attest(self, **_):
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


@pytest.mark.parametrize(
    ("outcome", "is_taken"),
    [
        ("released", True),
        (BrokerError("cannot reach the server", why="no answer"), True),
        (RefusedError(attestation="1", code="policy", message="no"), False),
    ],
)
def test_a_use_counts_as_taken_unless_the_server_refused_it(outcome, is_taken):
    server = WatchedServer(Server(outcome))
    asked = {"session": "", "tee": "", "evidence": b""}
    with pytest.raises(BrokerError):
        server.challenge(Digest32(bytes(32)))
    assert not server.may_have_released

    try:
        server.attest(**asked, guest_key=PublicKey32(bytes(32)), manifest_hash=Digest32(bytes(32)))
    except (BrokerError, RefusedError) as error:
        assert error is outcome  # noqa: PT017 - both ends are wanted

    assert server.may_have_released is is_taken


class Uncalled:
    """A server that nobody may ask."""

    def challenge(self, _):
        raise AssertionError

    def attest(self, **_):
        raise AssertionError


def converse(launched, said, *, make_report=None):
    """Return what comes of a guest's HELLO in a machine that was launched in another TEE, or in the same."""
    ours, guest = socket.socketpair()
    with ours, guest:
        hello = Hello(
            tee=TEE_NAMES.index(said), guest_key=PublicKey32(bytes(32)), manifest_hash=Digest32(bytes(32))
        )
        guest.sendall(encode_frame(FrameType.HELLO, encode_hello(hello)))
        guest.shutdown(socket.SHUT_WR)
        conversation = Conversation(
            channel=ours,
            client=Uncalled(),
            tee=launched,
            make_report=make_report,
            manifest=b"",
            timeout_s=10,
            tamper="",
            said_hello=lambda: None,
        )
        conversation.hold(b"")


@pytest.mark.parametrize(
    ("launched", "said"), [(one, other) for one in TEE_NAMES for other in TEE_NAMES if one != other]
)
def test_a_guest_that_names_another_tee_than_the_launched_is_not_attested(launched, said):
    with pytest.raises(EvidenceError, match=f"runs in {said}, and was launched in {launched}"):
        converse(launched, said)


@pytest.mark.parametrize("tee", TEE_NAMES)
def test_a_guest_in_the_launched_tee_is_attested(tee):
    with pytest.raises(AssertionError):  # the server is asked
        converse(tee, tee)


def test_a_guest_in_hardware_gets_no_report_of_the_hosts():
    class Server(Uncalled):
        def challenge(self, _):
            return Challenge(session="00", nonce=Nonce(bytes(32)), expires_in_s=60)

    ours, guest = socket.socketpair()
    with ours, guest:
        hello = Hello(tee=1, guest_key=PublicKey32(bytes(32)), manifest_hash=Digest32(bytes(32)))
        guest.sendall(encode_frame(FrameType.HELLO, encode_hello(hello)))
        guest.sendall(encode_frame(FrameType.REPORT_REQUEST, bytes(64)))
        conversation = Conversation(
            channel=ours,
            client=Server(),
            tee="snp",
            make_report=None,
            manifest=b"",
            timeout_s=10,
            tamper="",
            said_hello=lambda: None,
        )
        with pytest.raises(HostError, match="the host has no software TEE for it"):
            conversation.hold(b"")
