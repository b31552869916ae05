"""The two signature algorithms of SEV-SNP with their parameters fixed, and the keys they need.

Certificates: RSA-4096, RSASSA-PSS, SHA-384, MGF1 with SHA-384, salt of 48 bytes. Reports: ECDSA P-384 with
SHA-384. Nothing else is accepted, whatever a certificate says of itself.

Source: AMD VCEK Certificate and KDS Interface Specification (publication 57230), section 3.1;
AMD SEV-SNP Firmware ABI (publication 56860), section 10.1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_der_public_key

from krunpy.core.errors import FormatError

if TYPE_CHECKING:
    from krunpy.formats.x509 import Certificate, RevocationList

_RSA_BITS = 4096
_PSS_PARAMETERS = bytes.fromhex(
    "06092a864886f70d01010a3034a00f300d06096086480165030402020500a11c301a06092a864886f70d010108"
    "300d06096086480165030402020500a203020130"
)
# AMD writes the trailer field that DER would leave out; both encodings mean the same.
_PSS_ALGORITHMS = frozenset(
    {
        b"\x30\x41" + _PSS_PARAMETERS,
        b"\x30\x46" + _PSS_PARAMETERS.replace(b"\x30\x34\xa0", b"\x30\x39\xa0") + bytes.fromhex("a303020101"),
    }
)
_PSS = padding.PSS(mgf=padding.MGF1(hashes.SHA384()), salt_length=48)
_ECDSA = ec.ECDSA(hashes.SHA384())
_P384_KEY = bytes.fromhex("3076301006072a8648ce3d020106052b8104002203620004")  # then 96 bytes
_P384_ORDER = int(
    "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973", 16
)


class RootKey:
    """An RSA-4096 key that signs certificates and revocation lists."""

    __slots__ = ("_key",)

    def __init__(self, key: rsa.RSAPublicKey) -> None:
        self._key = key

    def has_signed(self, document: Certificate | RevocationList) -> bool:
        """Return whether the signature is by this key, with exactly our algorithm and parameters."""
        if document.algorithm not in _PSS_ALGORITHMS:
            return False
        try:
            self._key.verify(document.signature, document.signed, _PSS, hashes.SHA384())
        except InvalidSignature:
            return False
        return True


class ReportKey:
    """A P-384 key that signs attestation reports."""

    __slots__ = ("_key",)

    def __init__(self, key: ec.EllipticCurvePublicKey) -> None:
        self._key = key

    def has_signed(self, signed: bytes, r: bytes, s: bytes) -> bool:
        """Return whether r and s, 72 bytes each and little-endian, are this key's signature over `signed`."""
        # the 24 bytes above each scalar are not signed: the range keeps them zero
        scalars = int.from_bytes(r, "little"), int.from_bytes(s, "little")
        if not all(0 < scalar < _P384_ORDER for scalar in scalars):
            return False
        try:
            self._key.verify(encode_dss_signature(*scalars), signed, _ECDSA)
        except InvalidSignature:
            return False
        return True


def load_root_key(public_key: bytes) -> RootKey:
    """Return the key in a SubjectPublicKeyInfo. Raises FormatError unless it is RSA with 4096 bits."""
    try:
        key = load_der_public_key(public_key)
    except ValueError as error:
        raise FormatError("cannot read the root key", why="it is no public key") from error
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size != _RSA_BITS:
        raise FormatError("cannot read the root key", why="it is not RSA with 4096 bits")
    return RootKey(key)


def load_report_key(public_key: bytes) -> ReportKey:
    """Return the key in a SubjectPublicKeyInfo. Raises FormatError unless it is a point on P-384."""
    if not public_key.startswith(_P384_KEY):
        raise FormatError("cannot read the endorsement key", why="it is not on P-384")
    try:
        key = load_der_public_key(public_key)
    except ValueError as error:
        raise FormatError("cannot read the endorsement key", why="it is no point on P-384") from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise FormatError("cannot read the endorsement key", why="it is not on P-384")
    return ReportKey(key)
