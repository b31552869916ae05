"""The agent's binding, HPKE and release against hashlib, RFC 9180 and the `cryptography` package."""

from __future__ import annotations

import hashlib
import os
import struct
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

if TYPE_CHECKING:
    from conftest import Tool

SUITE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.CHACHA20_POLY1305)
SIGNATURE, SEAL = "5", "6"


def _lp(part: bytes) -> bytes:
    return struct.pack("<I", len(part)) + part


def _short(part: bytes) -> bytes:
    return struct.pack("<H", len(part)) + part


def _fields(tag: bytes, *parts: bytes) -> bytes:
    return b"".join(_lp(part) for part in (tag, *parts))


def test_report_data_and_transcript_are_the_hashes_of_the_protocol(tool: Tool) -> None:
    nonce, key, manifest = (os.urandom(32) for _ in range(3))

    lines = dict(tool.accept("binding", nonce + key + manifest))

    wanted = hashlib.sha512(_fields(b"krunpy report_data v1", nonce, key, manifest)).hexdigest()
    assert lines["report_data"] == wanted
    assert (
        lines["transcript"] == hashlib.sha256(_fields(b"krunpy release v1", nonce, key, manifest)).hexdigest()
    )


# RFC 9180, A.2.1: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20Poly1305, base mode, sequence number 0.
RFC_SECRET = "8057991eef8f1f1af18f4a9491d16a1ce333f695d4db8e38da75975c4478e0fb"
RFC_ENC = "1afa08d3dec047a643885163f1180476fa7ddb54c6a8029ea33f95796bf2ac4a"
RFC_INFO = "4f6465206f6e2061204772656369616e2055726e"
RFC_AAD = "436f756e742d30"
RFC_CIPHERTEXT = "1c5250d8034ec2b784ba2cfd69dbdb8af406cfe3ff938e131f0def8c8b60b4db21993c62ce81883d2dd1b51a28"


def test_the_vector_of_rfc_9180_opens(tool: Tool) -> None:
    secret, enc, info, aad, ciphertext = map(
        bytes.fromhex, (RFC_SECRET, RFC_ENC, RFC_INFO, RFC_AAD, RFC_CIPHERTEXT)
    )

    lines = dict(tool.accept("hpke", secret + enc + _short(info) + _short(aad) + ciphertext))

    assert bytes.fromhex(lines["plaintext"]) == b"Beauty is truth, truth beauty"


@pytest.mark.parametrize("length", [0, 1, 63, 64, 65, 1000, 60000])
def test_what_python_seals_the_agent_opens(tool: Tool, length: int) -> None:
    key, info, plaintext = X25519PrivateKey.generate(), os.urandom(32), os.urandom(length)
    sealed = SUITE.encrypt(plaintext, key.public_key(), info=info)

    stdin = key.private_bytes_raw() + sealed[:32] + _short(info) + _short(b"") + sealed[32:]
    lines = dict(tool.accept("hpke", stdin))

    assert lines["plaintext"] == plaintext.hex()


@pytest.mark.parametrize("enc", [bytes(32), b"\x01" + bytes(31)])
def test_an_encapsulated_key_of_small_order_is_refused(tool: Tool, enc: bytes) -> None:
    tool.refuse("hpke", os.urandom(32) + enc + _short(b"") + _short(b"") + bytes(32))


@dataclass(frozen=True, kw_only=True)
class Session:
    """Everything that a release is bound to, and the release itself."""

    nonce: bytes
    guest: X25519PrivateKey
    manifest_hash: bytes
    server: Ed25519PrivateKey
    plaintext: bytes
    encrypted: bool = True

    def seal(self) -> bytes:
        guest_key = self.guest.public_key()
        transcript = hashlib.sha256(
            _fields(b"krunpy release v1", self.nonce, guest_key.public_bytes_raw(), self.manifest_hash)
        ).digest()
        sealed = SUITE.encrypt(self.plaintext, guest_key, info=transcript)
        return self.server.sign(b"krunpy release signature v1" + transcript + sealed) + sealed

    def stdin(self, release: bytes) -> bytes:
        return b"".join(
            (
                self.nonce,
                self.guest.private_bytes_raw(),
                self.manifest_hash,
                self.server.public_key().public_bytes_raw(),
                bytes([self.encrypted]),
                release,
            )
        )


DISK_KEY = bytes(range(64))


def _item(tag: int, value: bytes) -> bytes:
    return struct.pack("<BBH", tag, 0, len(value)) + value


@pytest.fixture
def session() -> Session:
    return Session(
        nonce=os.urandom(32),
        guest=X25519PrivateKey.generate(),
        manifest_hash=os.urandom(32),
        server=Ed25519PrivateKey.generate(),
        plaintext=_item(1, DISK_KEY),
    )


def test_a_release_of_the_right_server_gives_the_disk_key(tool: Tool, session: Session) -> None:
    lines = dict(tool.accept("release", session.stdin(session.seal())))

    assert lines["disk_key"] == DISK_KEY.hex()


def test_no_bit_of_a_release_can_be_changed(tool: Tool, session: Session) -> None:
    release = session.seal()

    for position in range(len(release)):
        changed = bytearray(release)
        changed[position] ^= 1 << position % 8
        assert tool.refuse("release", session.stdin(bytes(changed)))[0][0] == SIGNATURE, position


@pytest.mark.parametrize("length", [0, 63, 64, 95, 96, 111])
def test_a_release_that_is_cut_short_is_refused(tool: Tool, session: Session, length: int) -> None:
    tool.refuse("release", session.stdin(session.seal()[:length]))


def test_a_release_by_another_server_is_refused_by_its_signature(tool: Tool, session: Session) -> None:
    release = replace(session, server=Ed25519PrivateKey.generate()).seal()

    assert tool.refuse("release", session.stdin(release))[0][0] == SIGNATURE


@pytest.mark.parametrize("field", ["nonce", "manifest_hash"])
def test_a_release_of_another_session_is_refused(tool: Tool, session: Session, field: str) -> None:
    release = replace(session, **{field: os.urandom(32)}).seal()

    assert tool.refuse("release", session.stdin(release))[0][0] == SIGNATURE


def test_a_signed_release_for_another_guest_key_is_refused_by_its_seal(tool: Tool, session: Session) -> None:
    other = replace(session, guest=X25519PrivateKey.generate()).seal()[64:]
    guest_key = session.guest.public_key().public_bytes_raw()
    fields = _fields(b"krunpy release v1", session.nonce, guest_key, session.manifest_hash)
    message = b"krunpy release signature v1" + hashlib.sha256(fields).digest() + other

    lines = tool.refuse("release", session.stdin(session.server.sign(message) + other))

    assert lines[0][0] == SEAL


@pytest.mark.parametrize(
    "plaintext",
    [
        b"",
        _item(1, DISK_KEY[:-1]),
        _item(1, DISK_KEY + b"x"),
        _item(1, DISK_KEY) * 2,
        _item(2, DISK_KEY),
        _item(1, DISK_KEY) + b"\0",
        _item(1, DISK_KEY)[:-1],
        b"\x01\x01" + _item(1, DISK_KEY)[2:],
    ],
)
def test_a_release_without_exactly_one_disk_key_is_refused(
    tool: Tool, session: Session, plaintext: bytes
) -> None:
    release = replace(session, plaintext=plaintext).seal()

    tool.refuse("release", session.stdin(release))


def test_a_key_for_a_disk_without_cipher_is_refused(tool: Tool, session: Session) -> None:
    tool.accept(
        "release",
        replace(session, plaintext=b"", encrypted=False).stdin(replace(session, plaintext=b"").seal()),
    )
    tool.refuse("release", replace(session, encrypted=False).stdin(session.seal()))
