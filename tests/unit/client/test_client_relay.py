from __future__ import annotations

import base64
import socket
import threading
import time

import pytest

from krunpy.client.relay import (
    TEE_NAMES,
    Frame,
    attest_guest,
    make_failure_error,
    read_frame,
    write_frame,
)
from krunpy.client.server import Challenge, RefusedError, Released
from krunpy.core.errors import BrokerError, EvidenceError, FormatError, HostError
from krunpy.core.octets import Nonce
from krunpy.formats.frames import FailReason, Failure, FrameType, Hello, encode_frame, encode_hello
from krunpy.formats.manifest import TEES
from tests.fakes.broker import DISK_KEY, make_server
from tests.fakes.guest import FakeGuest, GuestRefusesError, launch, read_host_frame


class Direct:
    """The two calls of a relay, straight into a server's application."""

    def __init__(self, server, guest):
        self._server, self._guest = server, guest

    def challenge(self, manifest_hash):
        assert manifest_hash == self._guest.manifest_hash
        session, nonce = self._server.challenge(self._guest)
        return Challenge(session=session, nonce=nonce, expires_in_s=300)

    def attest(self, *, session, tee, guest_key, manifest_hash, evidence):
        assert (guest_key, manifest_hash) == (self._guest.public_key, self._guest.manifest_hash)

        reply = self._server.attest(self._guest, session, evidence, tee=tee)
        document = reply.json
        if reply.status == 403:
            raise RefusedError(
                attestation=document["attestation"], code=document["error"], message=document["message"]
            )
        return Released(
            attestation=document["attestation"],
            signature=base64.b64decode(document["signature"]),
            sealed=base64.b64decode(document["sealed"]),
            simulated=document["simulated"],
        )


@pytest.fixture
def world(tmp_path):
    server = make_server(str(tmp_path / "store"))
    guest = FakeGuest(server.make_manifest())
    assert server.register(guest.manifest).status == 201
    host_side, guest_side = socket.socketpair()
    with host_side, guest_side:
        guest_side.settimeout(10)
        yield server, guest, host_side, guest_side
    server.broker.database.close()


def _relay(host_side, server, *, make_report=None, limit_s=10.0):
    deadline = time.monotonic() + limit_s
    return attest_guest(
        lambda: read_frame(host_side, deadline),
        lambda kind, payload: write_frame(host_side, kind, payload, deadline),
        server,
        make_report=make_report,
    )


def _play(guest, guest_side, **keywords):
    """Run the guest's side in a thread; join() and read .result."""
    outcome = {}

    def run():
        try:
            outcome["items"] = guest.talk(guest_side, **keywords)
        except GuestRefusesError as error:
            outcome["reason"] = error.reason

    thread = threading.Thread(target=run)
    thread.start()
    return thread, outcome


def test_a_guest_on_the_software_tee_is_attested(world):
    server, guest, host_side, guest_side = world
    tee, _ = launch(server.authority, guest.manifest)
    thread, outcome = _play(guest, guest_side)

    attested = _relay(host_side, Direct(server, guest), make_report=tee.report)

    thread.join()
    assert outcome == {"items": [(1, DISK_KEY)]}
    assert (attested.tee, attested.simulated, attested.manifest_hash) == (
        "software",
        True,
        guest.manifest_hash,
    )
    assert server.last_record()["id"] == attested.attestation


def test_a_refused_guest_is_told_and_the_relay_raises_the_reason(world):
    server, guest, host_side, guest_side = world
    tee, _ = launch(server.authority, guest.manifest + b" ")  # another initrd
    thread, outcome = _play(guest, guest_side)

    with pytest.raises(EvidenceError) as refused:
        _relay(host_side, Direct(server, guest), make_report=tee.report)

    thread.join()
    assert refused.value.code == "launch-digest-unknown"
    assert outcome == {"reason": FailReason.REFUSED}


def test_hardware_evidence_goes_through_untouched(world):
    server, guest, host_side, guest_side = world
    thread, outcome = _play(guest, guest_side, ask_host=False, evidence=b"hardware evidence")

    with pytest.raises(EvidenceError, match="tee-not-allowed"):
        _relay(host_side, Direct(server, guest))

    thread.join()
    assert server.last_record()["tee"] == "snp"
    assert outcome == {"reason": FailReason.REFUSED}


def test_a_server_that_cannot_be_reached_ends_the_guest_too(world):
    _, guest, host_side, guest_side = world
    thread, outcome = _play(guest, guest_side)

    class Away:
        def challenge(self, _manifest_hash):
            raise BrokerError("cannot reach the attestation server", why="ü" * 600)

    with pytest.raises(BrokerError):
        _relay(host_side, Away())

    thread.join()
    assert outcome == {"reason": FailReason.REFUSED}


def test_the_relay_reads_not_a_byte_beyond_the_evidence(world):
    server, guest, host_side, guest_side = world
    tee, _ = launch(server.authority, guest.manifest)
    later = encode_frame(FrameType.STARTED, bytes(48))

    def talk():
        hello = Hello(tee=0, guest_key=guest.public_key, manifest_hash=guest.manifest_hash)
        guest_side.sendall(encode_frame(FrameType.HELLO, encode_hello(hello)))
        nonce = Nonce(read_host_frame(guest_side, FrameType.CHALLENGE))
        report = tee.report(guest.make_report_data(nonce))
        guest_side.sendall(encode_frame(FrameType.EVIDENCE, report) + later)
        read_host_frame(guest_side, FrameType.RELEASE)

    thread = threading.Thread(target=talk)
    thread.start()
    _relay(host_side, Direct(server, guest))
    thread.join()

    assert host_side.recv(1000) == later


def test_the_socket_keeps_its_blocking_mode(world):
    _, _, host_side, guest_side = world
    guest_side.sendall(encode_frame(FrameType.NOTE, b"x"))

    read_frame(host_side, time.monotonic() + 5)

    assert host_side.gettimeout() is None


def test_a_silent_guest_is_given_up_at_the_deadline(world):
    _, _, host_side, guest_side = world
    guest_side.sendall(b"\1\0\0")
    begin = time.monotonic()

    with pytest.raises(HostError, match="time limit"):
        _relay(host_side, None, limit_s=0.2)

    assert time.monotonic() - begin < 2


def test_a_guest_that_reads_nothing_is_given_up_at_the_deadline(world):
    _, _, host_side, _ = world

    def fill():
        for _ in range(100):
            write_frame(host_side, FrameType.STDIN, bytes(65536), time.monotonic() + 0.1)

    with pytest.raises(HostError, match="time limit"):
        fill()


def test_a_guest_that_ends_is_an_error(world):
    _, _, host_side, guest_side = world
    guest_side.close()

    with pytest.raises(HostError, match="ended too early"):
        _relay(host_side, None)
    with pytest.raises(HostError, match="cannot talk"):
        write_frame(host_side, FrameType.CHALLENGE, bytes(32), time.monotonic() + 1)


@pytest.mark.parametrize("reason", FailReason)
def test_a_guests_failure_is_evidence_or_host(reason):
    error = make_failure_error(Failure(reason, "because"))

    is_evidence = reason.name in {
        "MANIFEST",
        "SERVER_SIGNATURE",
        "SEAL",
        "REFUSED",
        "DISK_INTEGRITY",
        "DISK_KEY",
        "HOST_DATA",
    }
    assert isinstance(error, EvidenceError if is_evidence else HostError)
    assert error.why == f"{reason.name.lower().replace('_', ' ')}: because"


def test_an_unknown_failure_is_the_hosts():
    assert isinstance(make_failure_error(Failure(999, "")), HostError)


@pytest.mark.parametrize(
    ("frames", "error", "told"),
    [
        ([(FrameType.OUTPUT, b"early")], FormatError, "seen OUTPUT, wanted HELLO"),
        ([(FrameType.HELLO, b"short")], FormatError, "wanted 68"),
        ([(FrameType.FAIL, b"\2\0bad manifest")], EvidenceError, "bad manifest"),
        ([(FrameType.FAIL, b"\4\0no device")], HostError, "no device"),
        ([(FrameType.NOTE, b"x")] * 100, FormatError, "seen NOTE"),
        (
            [(FrameType.HELLO, None), (FrameType.STARTED, b"")],
            FormatError,
            "wanted REPORT_REQUEST or EVIDENCE",
        ),
        ([(FrameType.HELLO, None), (FrameType.REPORT_REQUEST, bytes(64))], HostError, "no software TEE"),
    ],
)
def test_a_guest_that_breaks_the_order_is_refused(world, frames, error, told):
    server, guest, _, _ = world
    hello = encode_hello(Hello(tee=0, guest_key=guest.public_key, manifest_hash=guest.manifest_hash))
    left = [
        Frame(kind=kind, stream=0, payload=hello if payload is None else payload) for kind, payload in frames
    ]

    with pytest.raises(error, match=told):
        attest_guest(lambda: left.pop(0), lambda _kind, _payload: None, Direct(server, guest))


def test_a_second_report_request_is_refused(world):
    server, guest, _, _ = world
    hello = encode_hello(Hello(tee=0, guest_key=guest.public_key, manifest_hash=guest.manifest_hash))
    frames = [
        (FrameType.HELLO, hello),
        (FrameType.REPORT_REQUEST, bytes(64)),
        (FrameType.REPORT_REQUEST, bytes(64)),
    ]
    left = [Frame(kind=kind, stream=0, payload=payload) for kind, payload in frames]

    with pytest.raises(FormatError, match="wanted EVIDENCE"):
        attest_guest(
            lambda: left.pop(0),
            lambda _k, _p: None,
            Direct(server, guest),
            make_report=lambda _data: b"report",
        )


def test_a_report_request_of_a_guest_with_hardware_is_refused(world):
    """Otherwise a host could answer for a guest that believes in its hardware."""
    server, guest, _, _ = world
    hello = encode_hello(Hello(tee=1, guest_key=guest.public_key, manifest_hash=guest.manifest_hash))
    left = [
        Frame(kind=kind, stream=0, payload=p)
        for kind, p in ((FrameType.HELLO, hello), (FrameType.REPORT_REQUEST, bytes(64)))
    ]

    with pytest.raises(HostError, match="asks the host"):
        attest_guest(
            lambda: left.pop(0), lambda _k, _p: None, Direct(server, guest), make_report=lambda _d: b""
        )


def test_the_names_of_the_tees_are_the_manifests():
    assert TEE_NAMES == TEES
