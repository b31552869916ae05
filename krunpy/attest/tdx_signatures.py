"""The one signature algorithm of TDX evidence: ECDSA on P-256 with SHA-256, and the keys it needs.

Certificates, revocation lists, QE reports, quotes and collateral are all signed with it. Nothing else is
accepted, whatever a certificate says of itself.

Source: Intel SGX PCK Certificate and Certificate Revocation List Profile Specification, section 1.3; Intel TDX
DCAP Quoting Library API, appendix A.3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from krunpy.core.errors import FormatError

if TYPE_CHECKING:
    from krunpy.formats.x509 import Certificate, RevocationList

_ALGORITHM = bytes.fromhex("300a06082a8648ce3d040302")  # ecdsa-with-SHA256, no parameters
_UNCOMPRESSED = b"\x04"  # the form of a point that x and y follow
_P256_KEY = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d030107034200") + _UNCOMPRESSED
_P256_ORDER = int("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551", 16)
_SCALAR_SIZE = 32  # bytes
_CURVE = ec.SECP256R1()
_ECDSA = ec.ECDSA(hashes.SHA256())


class P256Key:
    """A key on P-256."""

    __slots__ = ("_key",)

    def __init__(self, key: ec.EllipticCurvePublicKey) -> None:
        self._key = key

    def has_issued(self, document: Certificate | RevocationList) -> bool:
        """Return whether a certificate or revocation list is signed by this key."""
        return document.algorithm == _ALGORITHM and self._verify(document.signature, document.signed)

    def has_signed(self, signed: bytes, signature: bytes) -> bool:
        """Return whether r and s, 32 bytes each and big-endian, are this key's signature over `signed`."""
        if len(signature) != 2 * _SCALAR_SIZE:
            return False
        r, s = (int.from_bytes(part, "big") for part in (signature[:_SCALAR_SIZE], signature[_SCALAR_SIZE:]))
        if not (0 < r < _P256_ORDER and 0 < s < _P256_ORDER):
            return False
        return self._verify(encode_dss_signature(r, s), signed)

    def _verify(self, signature: bytes, signed: bytes) -> bool:
        try:
            self._key.verify(signature, signed, _ECDSA)
        except InvalidSignature:
            return False
        return True


def load_p256_key(public_key: bytes) -> P256Key:
    """Return the key in a SubjectPublicKeyInfo. Raises FormatError unless it is a point on P-256."""
    if not public_key.startswith(_P256_KEY):
        raise FormatError("cannot read the key", why="it is not on P-256")
    return load_p256_point(public_key[len(_P256_KEY) :])


def load_p256_point(point: bytes) -> P256Key:
    """Return the key whose x and y, 32 bytes each and big-endian, are given. Raises FormatError."""
    try:
        key = ec.EllipticCurvePublicKey.from_encoded_point(_CURVE, _UNCOMPRESSED + point)
    except ValueError as error:
        raise FormatError("cannot read the key", why="it is no point on P-256") from error
    return P256Key(key)
