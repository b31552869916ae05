import os

import pytest

from krunpy.client.server import RefusedError
from krunpy.core.errors import BrokerError
from krunpy.core.octets import Digest32, PublicKey32
from krunpy.runtime.conversation import WatchedServer
from krunpy.runtime.launch import keep_newest
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
