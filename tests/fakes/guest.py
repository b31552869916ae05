"""A guest in Python: does what images/guest/agent does during attestation, with an independent library."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from krunpy.core.octets import Digest32, HostData, Nonce, PublicKey32
from krunpy.formats.binding import make_report_data, make_signed_message, make_transcript
from krunpy.formats.disk import Disk
from krunpy.formats.frames import (
    FailReason,
    FrameType,
    Hello,
    encode_frame,
    encode_hello,
    parse_items,
)
from krunpy.formats.launch_digest import PageType
from krunpy.formats.manifest import (
    Manifest,
    Process,
    ServerIdentity,
    encode_manifest,
    hash_manifest,
    parse_manifest,
)
from krunpy.tee.software import DEFAULT_POLICY, Faults, UnsafeSoftwareTee

if TYPE_CHECKING:
    import socket

    from krunpy.core.octets import LaunchDigest, ReportData
    from krunpy.tee.authority import Authority


class GuestRefusesError(Exception):
    """The guest refuses what it got; `reason` is that of its FAIL."""

    def __init__(self, reason: FailReason) -> None:
        super().__init__(reason.name)
        self.reason = reason


def make_manifest(
    server_key: PublicKey32,
    *,
    workload: str = "web",
    cipher: str = "aes-xts-plain64",
    tees=("software",),
    args=("/bin/true",),
) -> bytes:
    """Return manifest bytes of a small workload."""
    is_plain = cipher == "none"
    return encode_manifest(
        Manifest(
            workload=workload,
            disk=Disk(
                data_blocks=8,
                hash_start_block=9,
                root_hash=Digest32(bytes(32)),
                salt=Digest32(bytes(32)),
                cipher=cipher,
                key_size=0 if is_plain else 64,
                payload_offset=0 if is_plain else 4096,
                payload_size=4096,
            ),
            process=Process(args=tuple(args)),
            server=ServerIdentity(url="http://127.0.0.1:8181", key=server_key),
            tees=tuple(tees),
        )
    )


def launch(
    authority: Authority, manifest: bytes, *, faults: Faults | None = None, policy: int = DEFAULT_POLICY
) -> tuple[UnsafeSoftwareTee, LaunchDigest]:
    """Return a software TEE launched with one page that holds the manifest's hash, and the digest."""
    tee = UnsafeSoftwareTee(authority, faults=faults)
    tee.launch_start(policy)
    tee.launch_update(PageType.NORMAL, 0x1000, hash_manifest(manifest).ljust(4096, b"\0"))
    return tee, tee.launch_finish(HostData(bytes(32)))


@dataclass
class FakeGuest:
    """One boot of a workload. key: made at boot, never leaves."""

    manifest: bytes
    key: X25519PrivateKey = field(default_factory=X25519PrivateKey.generate)

    @property
    def public_key(self) -> PublicKey32:
        return PublicKey32(self.key.public_key().public_bytes_raw())

    @property
    def manifest_hash(self) -> Digest32:
        return hash_manifest(self.manifest)

    def make_report_data(self, nonce: Nonce) -> ReportData:
        return make_report_data(nonce, self.public_key, self.manifest_hash)

    def open_release(self, nonce: Nonce, signature: bytes, sealed: bytes) -> list[tuple[int, bytes]]:
        """Return the released items, or raise GuestRefusesError as the agent: signature first, then seal."""
        transcript = make_transcript(nonce, self.public_key, self.manifest_hash)
        server_key = parse_manifest(self.manifest).server.key
        try:
            Ed25519PublicKey.from_public_bytes(server_key).verify(
                signature, make_signed_message(transcript, sealed)
            )
        except InvalidSignature as error:
            raise GuestRefusesError(FailReason.SERVER_SIGNATURE) from error
        suite = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.CHACHA20_POLY1305)
        try:
            return parse_items(suite.decrypt(sealed, self.key, info=transcript))
        except (InvalidTag, ValueError) as error:
            raise GuestRefusesError(FailReason.SEAL) from error

    def talk(
        self, channel: socket.socket, *, ask_host: bool = True, evidence: bytes = b""
    ) -> list[tuple[int, bytes]]:
        """Play the whole attestation on a channel and return the released items.

        evidence: what to send if the guest has a TEE of its own (ask_host False).
        """
        hello = Hello(tee=0 if ask_host else 1, guest_key=self.public_key, manifest_hash=self.manifest_hash)
        channel.sendall(encode_frame(FrameType.HELLO, encode_hello(hello)))
        nonce = Nonce(read_host_frame(channel, FrameType.CHALLENGE))
        if ask_host:
            channel.sendall(encode_frame(FrameType.REPORT_REQUEST, self.make_report_data(nonce)))
            evidence = read_host_frame(channel, FrameType.REPORT)
        channel.sendall(encode_frame(FrameType.EVIDENCE, evidence))
        release = read_host_frame(channel, FrameType.RELEASE)
        return self.open_release(nonce, release[:64], release[64:])


def read_host_frame(channel: socket.socket, wanted: FrameType) -> bytes:
    """Return the payload of the next frame of the host. REFUSED raises GuestRefusesError."""
    header = _read(channel, 8)
    payload = _read(channel, int.from_bytes(header[4:8], "little"))
    if header[0] == FrameType.REFUSED and wanted is not FrameType.REFUSED:
        raise GuestRefusesError(FailReason.REFUSED)
    assert header[0] == wanted, (header, wanted)
    return payload


def _read(channel: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        chunk = channel.recv(size - len(data))
        assert chunk, "the host closed the channel"
        data += chunk
    return data
