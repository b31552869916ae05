"""Carry the attestation between a guest and the server. The relay is trusted with nothing.

It reads exactly the frames of the attestation from the channel and not a byte more: whoever comes next
finds the channel at RUN. Source: docs/protocol.md section 3.
"""

from __future__ import annotations

import select
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from krunpy.core.errors import BrokerError, EvidenceError, FormatError, HostError, KrunpyError
from krunpy.core.octets import ReportData
from krunpy.formats.frames import (
    HEADER,
    MAX_PAYLOAD,
    MAX_TEXT,
    FailReason,
    FrameType,
    encode_frame,
    parse_failure,
    parse_guest_header,
    parse_hello,
    parse_text,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from krunpy.client.server import Challenge, Released
    from krunpy.core.octets import Digest32, PublicKey32
    from krunpy.formats.frames import Failure, Hello

MAX_NOTES = 64
TEE_NAMES = ("software", "snp", "tdx")  # by number in HELLO; not from formats.manifest, which costs 5 ms
_EVIDENCE_REASONS = {
    FailReason.MANIFEST, FailReason.SERVER_SIGNATURE, FailReason.SEAL, FailReason.REFUSED,
    FailReason.DISK_INTEGRITY, FailReason.DISK_KEY, FailReason.HOST_DATA,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One frame of the guest."""

    kind: FrameType
    stream: int
    payload: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Attested:
    """How an attestation ended well. attestation: the id of the server's record; times in seconds.

    notes: what the guest remarked meanwhile. challenge_s, attest_s: the server's parts.
    """

    attestation: str
    simulated: bool
    tee: str
    manifest_hash: Digest32
    notes: tuple[str, ...]
    challenge_s: float
    attest_s: float


class Server(Protocol):
    """The two calls that a relay makes."""

    def challenge(self, manifest_hash: Digest32) -> Challenge:
        """Open a session."""

    def attest(
        self, *, session: str, tee: str, guest_key: PublicKey32, manifest_hash: Digest32, evidence: bytes
    ) -> Released:
        """Hand in evidence."""


def attest_guest(
    read_frame: Callable[[], Frame],
    write_frame: Callable[[FrameType, bytes], None],
    server: Server,
    *,
    make_report: Callable[[ReportData], bytes] | None = None,
) -> Attested:
    """Return once the server's answer was handed to the guest.

    make_report: the software TEE: from report_data to an EVIDENCE payload; None where the guest has hardware.

    Raises EvidenceError if the server refuses or the guest finds its manifest wrong, BrokerError if the
    server cannot be used (the guest is told in both cases), HostError if the guest fails or ends, FormatError
    if it breaks the protocol.
    """
    guest = _Guest(read_frame)
    hello = parse_hello(guest.take(FrameType.HELLO).payload)
    tee = TEE_NAMES[hello.tee]
    begin = time.monotonic()
    try:
        challenge = server.challenge(hello.manifest_hash)
        challenge_s = time.monotonic() - begin
        write_frame(FrameType.CHALLENGE, challenge.nonce)
        evidence = _take_evidence(guest, write_frame, hello, make_report)
        begin = time.monotonic()
        released = server.attest(
            session=challenge.session,
            tee=tee,
            guest_key=hello.guest_key,
            manifest_hash=hello.manifest_hash,
            evidence=evidence,
        )
    except (BrokerError, EvidenceError) as error:
        if not guest.has_failed:
            _tell_refused(write_frame, error)
        raise
    attest_s = time.monotonic() - begin
    write_frame(FrameType.RELEASE, released.signature + released.sealed)
    return Attested(
        attestation=released.attestation,
        simulated=released.simulated,
        tee=tee,
        manifest_hash=hello.manifest_hash,
        notes=tuple(guest.notes),
        challenge_s=challenge_s,
        attest_s=attest_s,
    )


def read_frame(channel: socket.socket, deadline: float) -> Frame:
    """Return the next frame of the guest, reading not a byte more.

    deadline: of time.monotonic(). The socket's blocking mode is left as it is.

    Raises HostError at the deadline or if the guest ends, FormatError on a frame that breaks a rule.
    """
    kind, stream, length = parse_guest_header(_read_exactly(channel, HEADER.size, deadline))
    return Frame(kind=kind, stream=stream, payload=_read_exactly(channel, length, deadline))


def write_frame(channel: socket.socket, kind: FrameType, payload: bytes, deadline: float) -> None:
    """Send one frame to the guest. Raises HostError at the deadline or if the guest has ended."""
    left = memoryview(encode_frame(kind, payload))
    while left:
        try:
            left = left[channel.send(left, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL) :]
        except BlockingIOError:
            _wait(channel, select.POLLOUT, deadline)
        except OSError as error:
            raise HostError("cannot talk to the guest", why=error.strerror or "error") from error


def make_failure_error(failure: Failure) -> KrunpyError:
    """Return the error that a guest's FAIL stands for: EvidenceError where trust failed, else HostError."""
    try:
        reason = FailReason(failure.reason)
    except ValueError:
        return HostError(
            "the guest gave up", why=f"unknown reason {failure.reason}: {failure.text or 'no message'}"
        )
    name = reason.name.lower().replace("_", " ")
    why = f"{name}: {failure.text or 'no message'}"
    if reason in _EVIDENCE_REASONS:
        return EvidenceError("the guest refused to run", why=why)
    return HostError("the guest gave up", why=why)


class _Guest:
    """The guest's frames in their order; notes are set aside, a FAIL is raised."""

    def __init__(self, read: Callable[[], Frame]) -> None:
        self._read = read
        self.notes: list[str] = []
        self.has_failed = False

    def take(self, *wanted: FrameType) -> Frame:
        """Return the next frame, which is one of those wanted."""
        while True:
            frame = self._read()
            if frame.kind is FrameType.FAIL:
                self.has_failed = True
                raise make_failure_error(parse_failure(frame.payload))
            if frame.kind in wanted:
                return frame
            if frame.kind is not FrameType.NOTE or len(self.notes) >= MAX_NOTES:
                names = " or ".join(kind.name for kind in wanted)
                raise FormatError(
                    "the guest breaks the protocol", why=f"seen {frame.kind.name}, wanted {names}"
                )
            self.notes.append(parse_text(frame.payload))


def _take_evidence(
    guest: _Guest,
    write: Callable[[FrameType, bytes], None],
    hello: Hello,
    make_report: Callable[[ReportData], bytes] | None,
) -> bytes:
    frame = guest.take(FrameType.REPORT_REQUEST, FrameType.EVIDENCE)
    if frame.kind is FrameType.EVIDENCE:
        return frame.payload
    if make_report is None or hello.tee != 0:
        raise HostError(
            "cannot attest the guest",
            why="it asks the host for a report, and the host has no software TEE for it",
        )
    if len(frame.payload) != ReportData.size:
        raise FormatError(
            "cannot read the guest's report request", why=f"{len(frame.payload)} bytes, wanted 64"
        )
    report = make_report(ReportData(frame.payload))
    if len(report) > MAX_PAYLOAD:
        raise HostError("cannot attest the guest", why=f"the report is {len(report)} bytes long")
    write(FrameType.REPORT, report)
    return guest.take(FrameType.EVIDENCE).payload


def _tell_refused(write: Callable[[FrameType, bytes], None], error: KrunpyError) -> None:
    text = f"{error.what}: {error.why}".encode()[:MAX_TEXT].decode("utf-8", "ignore").encode()
    try:
        write(FrameType.REFUSED, text)
    except HostError as failure:
        error.add_note(f"and the guest could not be told: {failure}")


def _read_exactly(channel: socket.socket, size: int, deadline: float) -> bytes:
    data = bytearray()
    while len(data) < size:
        _wait(channel, select.POLLIN, deadline)
        try:
            chunk = channel.recv(size - len(data), socket.MSG_DONTWAIT)
        except BlockingIOError:
            continue
        except OSError as error:
            raise HostError("cannot hear the guest", why=error.strerror or "error") from error
        if not chunk:
            raise HostError("the guest ended too early", why="the channel was closed during attestation")
        data += chunk
    return bytes(data)


def _wait(channel: socket.socket, event: int, deadline: float) -> None:
    left = deadline - time.monotonic()
    poller = select.poll()
    poller.register(channel, event)
    if left <= 0 or not poller.poll(left * 1000):
        raise HostError(
            "the guest did not answer",
            why="the time limit for the attestation passed",
            next="see the guest's console, or raise boot_timeout_s",
        )
