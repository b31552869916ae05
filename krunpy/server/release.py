"""Seal what a workload may have to the guest's key and sign it. Pure. Source: docs/protocol.md section 4.

What is released to hardware and what to a simulation are two functions over two types of claims: neither
takes the other's. A server in mode production has no signer that the second one takes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeAlias, TypeGuard

from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from krunpy.attest.tdx_claims import TdxClaims
from krunpy.attest.verify import HardwareClaims, SimulatedClaims
from krunpy.core.errors import FormatError
from krunpy.core.octets import PublicKey32
from krunpy.formats.binding import make_signed_message, make_transcript
from krunpy.formats.frames import RELEASE_DISK_KEY, encode_items
from krunpy.formats.snp_simulated import ORGANIZATION

if TYPE_CHECKING:
    from krunpy.core.octets import Digest32, Nonce, Secret


HardwareEvidence: TypeAlias = HardwareClaims | TdxClaims


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """What goes to the guest: signature of 64 bytes; sealed: enc of 32 bytes, ciphertext, tag."""

    signature: bytes
    sealed: bytes


class Signer:
    """The server's Ed25519 key; manifests name its public half. issuer: in whose name it signs."""

    issuer: ClassVar[str] = "krunpy"
    __slots__ = ("_key", "public_key")

    def __init__(self, seed: Secret) -> None:
        """Take the 32-byte private key."""
        self._key = Ed25519PrivateKey.from_private_bytes(seed.reveal())
        self.public_key = PublicKey32(self._key.public_key().public_bytes_raw())

    def sign(self, message: bytes) -> bytes:
        """Return the signature, 64 bytes."""
        return self._key.sign(message)


class SimulatedSigner(Signer):
    """The key of a server in mode development, whose every signature may be about simulated evidence."""

    issuer = ORGANIZATION
    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipient:
    """The guest that a release is for: its challenge, its key, its manifest."""

    nonce: Nonce
    guest_key: PublicKey32
    manifest_hash: Digest32


def is_hardware(claims: object) -> TypeGuard[HardwareEvidence]:
    """Return whether these are verified claims that hardware has signed."""
    return isinstance(claims, HardwareClaims | TdxClaims) and not claims.simulated


def require_guest_key(guest_key: PublicKey32) -> None:
    """Raise FormatError if an X25519 key is of low order: a secret sealed to it would be readable by all."""
    try:
        X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(guest_key))
    except ValueError as error:
        raise FormatError(
            "cannot use the guest's key", why="it is a point of low order: no secret can be sealed to it"
        ) from error


def make_release(claims: HardwareEvidence, signer: Signer, disk_key: Secret, recipient: Recipient) -> Release:
    """Return the disk key (no item if it is empty) sealed to the guest key, signed over the transcript.

    claims: what hardware has signed, verified and appraised.

    Raises FormatError if the guest key is of low order, TypeError if the claims are not hardware's.
    """
    if not is_hardware(claims):
        msg = f"this release takes hardware's claims, seen {type(claims).__name__}"
        raise TypeError(msg)
    return _seal(signer, disk_key, recipient)


def make_simulated_release(
    claims: SimulatedClaims, signer: SimulatedSigner, disk_key: Secret, recipient: Recipient
) -> Release:
    """Return what a software TEE's guest gets: as `make_release`, signed with the key of mode development.

    Raises FormatError if the guest key is of low order, TypeError if claims or signer are not simulation's.
    """
    _require_kind(claims, SimulatedClaims)
    _require_kind(signer, SimulatedSigner)
    return _seal(signer, disk_key, recipient)


def _require_kind(value: object, kind: type) -> None:
    if not isinstance(value, kind):
        msg = f"this release takes {kind.__name__}, seen {type(value).__name__}"
        raise TypeError(msg)


def _seal(signer: Signer, disk_key: Secret, recipient: Recipient) -> Release:
    guest_key = recipient.guest_key
    transcript = make_transcript(recipient.nonce, guest_key, recipient.manifest_hash)
    plaintext = encode_items([(RELEASE_DISK_KEY, disk_key.reveal())] if len(disk_key) else [])
    suite = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.CHACHA20_POLY1305)
    require_guest_key(guest_key)
    sealed = suite.encrypt(plaintext, X25519PublicKey.from_public_bytes(guest_key), info=transcript)
    return Release(signature=signer.sign(make_signed_message(transcript, sealed)), sealed=sealed)
