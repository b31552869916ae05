"""Disk keys at rest: each is encrypted under the key-encryption key and bound to its workload and manifest.

AES-256-GCM, a random 12-byte IV for each; the associated data are workload id and manifest hash, so that a
row cannot be moved to another workload. This module touches no file.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from krunpy.core.errors import HostError
from krunpy.core.octets import Secret

if TYPE_CHECKING:
    from krunpy.core.octets import Digest32

KEK_SIZE = 32  # bytes
_IV_SIZE = 12  # bytes
_FORM = b"\x01"  # AES-256-GCM


class Vault:
    """Seals and opens disk keys under one key-encryption key."""

    __slots__ = ("_cipher", "name", "session_key")

    def __init__(self, kek: Secret) -> None:
        """Take the key of 32 bytes. session_key: made from it, for `sessions.Challenger`."""
        self._cipher = AESGCM(kek.reveal())
        # a kek makes no other HMAC: sessions and disk keys do not meet
        self.session_key = Secret(hmac.digest(kek.reveal(), b"krunpy session key v1", "sha256"))
        self.name = hashlib.sha256(b"krunpy key-encryption key name v1" + kek.reveal()).digest()[:16]

    def seal(self, disk_key: Secret, *, workload: str, manifest_hash: Digest32) -> bytes:
        """Return the stored form of a disk key of any length."""
        iv = secrets.token_bytes(_IV_SIZE)
        return _FORM + iv + self._cipher.encrypt(iv, disk_key.reveal(), _bound(workload, manifest_hash))

    def open(self, stored: bytes, *, workload: str, manifest_hash: Digest32) -> Secret:
        """Return the disk key.

        Raises HostError if the stored form was changed, belongs to another workload, or is under another key.
        """
        what = f'cannot open the disk key of workload "{workload}"'
        if stored[:1] != _FORM:
            raise HostError(what, why="its stored form is unknown", next=_NEXT)
        iv, sealed = stored[1 : 1 + _IV_SIZE], stored[1 + _IV_SIZE :]
        try:
            return Secret(self._cipher.decrypt(iv, sealed, _bound(workload, manifest_hash)))
        except (InvalidTag, ValueError) as error:
            raise HostError(
                what, why="the store was changed: the key's authentication tag does not hold", next=_NEXT
            ) from error


_NEXT = "revoke the workload and register it again with its disk key"


def _bound(workload: str, manifest_hash: Digest32) -> bytes:
    name = workload.encode()
    return b"krunpy disk key v1" + len(name).to_bytes(4, "little") + name + manifest_hash
