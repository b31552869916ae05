"""A guest that waits for its manifest: the host sends one, honest or not, and the server has the last word."""

from __future__ import annotations

import socket
import threading

import pytest

from krunpy.client.server import RefusedError
from krunpy.core.octets import HostData
from krunpy.formats.frames import FailReason, FrameType
from krunpy.formats.launch_digest import PageType
from krunpy.formats.manifest import hash_manifest, make_host_data
from krunpy.runtime.conversation import Conversation
from krunpy.runtime.tamper import tamper_manifest
from krunpy.tee.software import DEFAULT_POLICY, UnsafeSoftwareTee
from tests.fakes.broker import DISK_KEY, make_server
from tests.fakes.guest import FakeGuest, GuestRefusesError, read_host_frame
from tests.unit.client.test_client_relay import Direct

RUN = b"\x02\0\x03\0A=1"


@pytest.fixture
def server(tmp_path):
    fake = make_server(str(tmp_path / "store"))
    yield fake
    fake.broker.database.close()


def launch_for(server, manifest):
    """Return a machine of the class, launched with the HOST_DATA of one manifest, and its digest."""
    tee = UnsafeSoftwareTee(server.authority)
    tee.launch_start(DEFAULT_POLICY)
    tee.launch_update(PageType.NORMAL, 0x1000, b"class".ljust(4096, b"\0"))
    return tee, tee.launch_finish(HostData(make_host_data(hash_manifest(manifest))))


def register(server, manifest):
    _, digest = launch_for(server, manifest)
    value = {"tee": "software", "launch_digest": digest.hex(), "inputs": {}}
    reply = server.register(manifest, manifest_in="host_data", reference_values=[value])
    assert reply.status == 201, reply.raw


class Credulous(threading.Thread):
    """An agent that runs whatever manifest the host sends, without a look at its own report."""

    def __init__(self, channel):
        super().__init__(daemon=True)
        self._channel = channel
        self.guest = FakeGuest(b"")
        self.items = self.reason = None

    def run(self):
        self.guest.manifest = read_host_frame(self._channel, FrameType.MANIFEST)
        try:
            self.items = self.guest.talk(self._channel)
            assert read_host_frame(self._channel, FrameType.RUN) == RUN
        except GuestRefusesError as refusal:
            self.reason = refusal.reason


def hold(server, *, launched, sent, tamper=""):
    """Return the agent after a conversation, and what the server refused."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.settimeout(10)
        agent, refused = Credulous(theirs), None
        agent.start()
        conversation = Conversation(
            channel=ours,
            client=Direct(server, agent.guest),
            tee="software",
            make_report=launch_for(server, launched)[0].report,
            manifest=sent,
            timeout_s=10,
            tamper=tamper,
            said_hello=lambda: None,
        )
        try:
            conversation.hold(RUN)
        except RefusedError as error:
            refused = error.code
        agent.join(10)
    return agent, refused


def test_the_manifest_comes_before_all_else_and_its_guest_gets_its_key(server):
    manifest = server.make_manifest()
    register(server, manifest)

    agent, refused = hold(server, launched=manifest, sent=manifest)

    assert (agent.guest.manifest, agent.items, refused) == (manifest, [(1, DISK_KEY)], None)


def test_the_server_refuses_the_manifest_of_another_workload_of_the_class(server):
    first, second = (server.make_manifest(workload=name) for name in ("first", "second"))
    register(server, first)
    register(server, second)

    agent, refused = hold(server, launched=first, sent=second)

    assert (agent.items, agent.reason) == (None, FailReason.REFUSED)
    assert refused == "host-data-mismatch"


def test_a_host_that_tampers_with_the_manifest_sends_another_one_that_is_registered_nowhere(server):
    manifest = server.make_manifest()
    register(server, manifest)

    agent, refused = hold(server, launched=manifest, sent=manifest, tamper="manifest")

    assert agent.guest.manifest == tamper_manifest(manifest) != manifest
    assert (agent.items, refused) == (None, "workload-unknown")
