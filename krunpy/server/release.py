"""Seal what a workload may have to the guest's key and sign it. Pure. Source: docs/protocol.md section 4."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from krunpy.core.errors import FormatError
from krunpy.core.octets import PublicKey32
from krunpy.formats.binding import make_signed_message, make_transcript
from krunpy.formats.frames import RELEASE_DISK_KEY, encode_items

if TYPE_CHECKING:
    from krunpy.core.octets import Digest32, Nonce, Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """What goes to the guest: signature of 64 bytes; sealed: enc of 32 bytes, ciphertext, tag."""

    signature: bytes
    sealed: bytes


class Signer:
    """The server's Ed25519 key; manifests name its public half."""

    __slots__ = ("_key", "public_key")

    def __init__(self, seed: Secret) -> None:
        """Take the 32-byte private key."""
        self._key = Ed25519PrivateKey.from_private_bytes(seed.reveal())
        self.public_key = PublicKey32(self._key.public_key().public_bytes_raw())

    def sign(self, message: bytes) -> bytes:
        """Return the signature, 64 bytes."""
        return self._key.sign(message)


def require_guest_key(guest_key: PublicKey32) -> None:
    """Raise FormatError if an X25519 key is of low order: a secret sealed to it would be readable by all."""
    try:
        X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(guest_key))
    except ValueError as error:
        raise FormatError(
            "cannot use the guest's key", why="it is a point of low order: no secret can be sealed to it"
        ) from error


def make_release(
    signer: Signer, disk_key: Secret, *, nonce: Nonce, guest_key: PublicKey32, manifest_hash: Digest32
) -> Release:
    """Return the disk key (no item if it is empty) sealed to the guest key, signed over the transcript.

    Raises FormatError if the guest key is of low order.
    """
    transcript = make_transcript(nonce, guest_key, manifest_hash)
    plaintext = encode_items([(RELEASE_DISK_KEY, disk_key.reveal())] if len(disk_key) else [])
    suite = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.CHACHA20_POLY1305)
    require_guest_key(guest_key)
    sealed = suite.encrypt(plaintext, X25519PublicKey.from_public_bytes(guest_key), info=transcript)
    return Release(signature=signer.sign(make_signed_message(transcript, sealed)), sealed=sealed)
