"""The launcher's part of the attestation: the relay between guest and server, with a time limit.

Where `--tamper` asks for it, the relay changes what passes, as a dishonest host could.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from krunpy.client.relay import attest_guest, read_frame, write_frame
from krunpy.core.errors import EvidenceError
from krunpy.formats.frames import FrameType
from krunpy.runtime.tamper import Tamper, flip_bit, tamper_evidence, tamper_nonce

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from krunpy.client.relay import Attested, Frame, Server
    from krunpy.client.server import Challenge, Released
    from krunpy.core.octets import Digest32, PublicKey32
    from krunpy.tee.software import UnsafeSoftwareTee


class WatchedServer:
    """A server, and whether it may have released something: then the use that was registered is gone."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.may_have_released = False

    def challenge(self, manifest_hash: Digest32) -> Challenge:
        """Open a session."""
        return self._server.challenge(manifest_hash)

    def attest(
        self, *, session: str, tee: str, guest_key: PublicKey32, manifest_hash: Digest32, evidence: bytes
    ) -> Released:
        """Hand in evidence."""
        self.may_have_released = True  # also if its answer is lost
        try:
            return self._server.attest(
                session=session, tee=tee, guest_key=guest_key, manifest_hash=manifest_hash, evidence=evidence
            )
        except EvidenceError:
            self.may_have_released = False
            raise


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """Guest and server, and how long the whole may take (seconds)."""

    channel: socket.socket
    client: Server
    tee: UnsafeSoftwareTee
    timeout_s: float
    tamper: str
    said_hello: Callable[[], None]

    def hold(self, run: bytes) -> Attested:
        """Return once the guest has what it needs to run: the release, and RUN with the host's settings.

        Raises as `client.relay.attest_guest` does.
        """
        deadline = time.monotonic() + self.timeout_s
        is_first = True

        def read() -> Frame:
            nonlocal is_first
            frame = read_frame(self.channel, deadline)
            if is_first:
                is_first = False
                self.said_hello()
            return frame

        def write(kind: FrameType, payload: bytes) -> None:
            write_frame(self.channel, kind, payload, deadline)

        server = _DishonestServer(self.client, self.tamper) if self.tamper else self.client
        attested = attest_guest(read, write, server, make_report=self.tee.report)
        write(FrameType.RUN, run)
        return attested


class _DishonestServer:
    """What a host between guest and server could do to their answers."""

    def __init__(self, client: Server, tamper: str) -> None:
        self._client = client
        self._tamper = tamper

    def challenge(self, manifest_hash: Digest32) -> Challenge:
        challenge = self._client.challenge(manifest_hash)
        if self._tamper == Tamper.NONCE:
            return replace(challenge, nonce=tamper_nonce(challenge.nonce))
        return challenge

    def attest(
        self, *, session: str, tee: str, guest_key: PublicKey32, manifest_hash: Digest32, evidence: bytes
    ) -> Released:
        if self._tamper in (Tamper.EVIDENCE, Tamper.REPORT_DATA):
            evidence = tamper_evidence(evidence, Tamper(self._tamper))
        released = self._client.attest(
            session=session, tee=tee, guest_key=guest_key, manifest_hash=manifest_hash, evidence=evidence
        )
        if self._tamper == Tamper.SERVER_KEY:
            return replace(released, signature=Ed25519PrivateKey.generate().sign(released.sealed))
        if self._tamper == Tamper.SEALED:
            return replace(released, sealed=flip_bit(released.sealed, len(released.sealed) - 1))
        return released
