"""The launcher's part of the attestation: the relay between guest and server, with a time limit.

Where `--tamper` asks for it, the relay changes what passes, as a dishonest host could.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from krunpy.client.relay import TEE_NAMES, attest_guest, read_frame, write_frame
from krunpy.core.errors import EvidenceError
from krunpy.formats.frames import FrameType, parse_hello
from krunpy.runtime.tamper import Tamper, flip_bit, tamper_evidence, tamper_manifest, tamper_nonce

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from krunpy.client.relay import Attested, Frame, Server
    from krunpy.client.server import Challenge, Released
    from krunpy.core.octets import Digest32, PublicKey32, ReportData


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
    """Guest and server, and how long the whole may take (seconds).

    tee: what the machine was launched in. make_report: as for `attest_guest`, None for hardware.
    manifest: for a guest that waits for it; empty where it lies in the initrd.
    """

    channel: socket.socket
    client: Server
    tee: str
    make_report: Callable[[ReportData], bytes] | None
    manifest: bytes = b""
    timeout_s: float
    tamper: str
    said_hello: Callable[[], None]

    def hold(self, run: bytes) -> Attested:
        """Return once the guest has what it needs to run: the release, and RUN with the host's settings.

        Raises as `client.relay.attest_guest` does, and EvidenceError if the guest names another TEE than the launched.
        """
        deadline = time.monotonic() + self.timeout_s
        is_first = True

        def read() -> Frame:
            nonlocal is_first
            frame = read_frame(self.channel, deadline)
            if is_first:
                is_first = False
                self.said_hello()
            if frame.kind is FrameType.HELLO:
                self._require_launched(frame.payload)
            return frame

        def write(kind: FrameType, payload: bytes) -> None:
            write_frame(self.channel, kind, payload, deadline)

        if self.manifest:
            write(FrameType.MANIFEST, self._choose_manifest())
        server = _DishonestServer(self.client, self.tamper) if self.tamper else self.client
        attested = attest_guest(read, write, server, make_report=self.make_report)
        write(FrameType.RUN, run)
        return attested

    def _choose_manifest(self) -> bytes:
        return tamper_manifest(self.manifest) if self.tamper == Tamper.MANIFEST else self.manifest

    def _require_launched(self, hello: bytes) -> None:
        said = TEE_NAMES[parse_hello(hello).tee]
        if said != self.tee:
            raise EvidenceError(
                "cannot attest the guest",
                why=f"it says that it runs in {said}, and was launched in {self.tee}",
                next="see whether its kernel has the driver of that TEE: `krunpy doctor`",
            )


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
