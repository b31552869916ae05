"""Read the few X.509 certificates and revocation lists that SEV-SNP and TDX endorsements consist of.

It keeps the signed bytes as they came and reads beside them. It checks no signature, name or time:
that is `attest`. Written by hand because AMD's leaf certificates have serial number 0, which the
`cryptography` package announces to refuse.

Source: RFC 5280, sections 4.1 and 5.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag
from typing import TYPE_CHECKING

from krunpy.core.errors import FormatError
from krunpy.formats.der import (
    BIT_STRING,
    OBJECT_IDENTIFIER,
    OCTET_STRING,
    SEQUENCE,
    SET,
    DerReader,
    encode_oid,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

OID_COMMON_NAME = encode_oid("2.5.4.3")
OID_ORGANIZATION = encode_oid("2.5.4.10")
OID_KEY_USAGE = encode_oid("2.5.29.15")
OID_BASIC_CONSTRAINTS = encode_oid("2.5.29.19")

LARGEST_CERTIFICATE = 4096  # bytes
LARGEST_CRL = 65536  # bytes
_VERSION_TAG, _EXTENSIONS_TAG, _CRL_EXTENSIONS_TAG = 0xA0, 0xA3, 0xA0
_V3 = 2
_CRL_V2 = 1
_MOST_ATTRIBUTES = 16
_MOST_EXTENSIONS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Name:
    """A distinguished name: its bytes, and its attributes by object identifier (contents bytes)."""

    der: bytes
    attributes: Mapping[bytes, str]

    @property
    def common_name(self) -> str:
        """The common name, empty if there is none."""
        return self.attributes.get(OID_COMMON_NAME, "")

    @property
    def organization(self) -> str:
        """The organization, empty if there is none."""
        return self.attributes.get(OID_ORGANIZATION, "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Extension:
    """One extension: whether a reader must understand it, and the contents of its OCTET STRING."""

    is_critical: bool
    value: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A certificate whose shape was checked, and nothing else; `signed` is what the signature covers."""

    der: bytes
    signed: bytes
    algorithm: bytes
    signature: bytes
    serial: int
    issuer: Name
    subject: Name
    not_before: datetime
    not_after: datetime
    public_key: bytes
    extensions: Mapping[bytes, Extension]


class KeyUsage(IntFlag):
    """What a key may be used for: the first byte of the extension, whose first bit is the highest."""

    NONE = 0
    DIGITAL_SIGNATURE = 0x80
    KEY_CERT_SIGN = 0x04
    CRL_SIGN = 0x02


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraints:
    """What a certificate says its key is for; an extension that is missing or misshapen allows nothing."""

    is_ca: bool
    usage: KeyUsage


@dataclass(frozen=True, slots=True, kw_only=True)
class RevocationList:
    """A CRL whose shape was checked, and nothing else; `signed` is what the signature covers."""

    signed: bytes
    algorithm: bytes
    signature: bytes
    issuer: Name
    this_update: datetime
    next_update: datetime
    serials: frozenset[int]
    extensions: Mapping[bytes, Extension]


def _read_name(reader: DerReader) -> Name:
    der = reader.read_whole(SEQUENCE)
    inner = DerReader(der).enter(SEQUENCE)
    attributes: dict[bytes, str] = {}
    while inner.next_tag():
        relative = inner.enter(SET)
        pair = relative.enter(SEQUENCE)
        oid = pair.read(OBJECT_IDENTIFIER)
        if oid in attributes or len(attributes) == _MOST_ATTRIBUTES:
            raise FormatError("cannot read a name", why="an attribute is given twice, or there are over 16")
        attributes[oid] = pair.read_text()
        pair.require_end()
        relative.require_end()
    return Name(der=der, attributes=attributes)


def _read_extensions(reader: DerReader) -> dict[bytes, Extension]:
    extensions: dict[bytes, Extension] = {}
    listed = reader.enter(SEQUENCE)
    reader.require_end()
    while listed.next_tag():
        entry = listed.enter(SEQUENCE)
        oid = entry.read(OBJECT_IDENTIFIER)
        if oid in extensions or len(extensions) == _MOST_EXTENSIONS:
            raise FormatError(
                "cannot read extensions", why=f"{oid.hex()} is given twice, or there are over 32"
            )
        # DEFAULT FALSE: DER leaves it out; an explicit FALSE is another encoding of the same thing.
        is_critical = entry.next_tag() == 1 and entry.read_boolean()
        extensions[oid] = Extension(is_critical=is_critical, value=entry.read(OCTET_STRING))
        entry.require_end()
    return extensions


def _split_signed(der: bytes, limit: int, what: str) -> tuple[bytes, bytes, bytes]:
    """Return the signed bytes, the algorithm and the signature of a SIGNED structure."""
    if len(der) > limit:
        raise FormatError(f"cannot read a {what}", why=f"seen {len(der)} bytes, wanted at most {limit}")
    whole = DerReader(der)
    outer = whole.enter(SEQUENCE)
    whole.require_end()
    signed = outer.read_whole(SEQUENCE)
    algorithm = outer.read_whole(SEQUENCE)
    signature = outer.read_bits()
    outer.require_end()
    return signed, algorithm, signature


def _require_same_algorithm(inner: bytes, outer: bytes) -> None:
    if inner != outer:
        raise FormatError(
            "cannot read a signature algorithm", why="it differs inside and outside the signed part"
        )


def parse_certificate(der: bytes) -> Certificate:
    """Return the certificate that `der`, at most 4096 bytes, holds.

    Raises FormatError if it is not one version 3 certificate in DER, or names an extension twice.
    """
    signed, algorithm, signature = _split_signed(der, LARGEST_CERTIFICATE, "certificate")
    body = DerReader(signed).enter(SEQUENCE)
    version = body.enter(_VERSION_TAG)
    if version.read_integer() != _V3:
        raise FormatError("cannot read a certificate", why="it is not version 3")
    version.require_end()
    serial = body.read_integer()
    _require_same_algorithm(body.read_whole(SEQUENCE), algorithm)
    issuer = _read_name(body)
    validity = body.enter(SEQUENCE)
    not_before, not_after = validity.read_time(), validity.read_time()
    validity.require_end()
    subject = _read_name(body)
    public_key = body.read_whole(SEQUENCE)
    extensions = _read_extensions(body.enter(_EXTENSIONS_TAG)) if body.next_tag() else {}
    body.require_end()
    return Certificate(
        der=der,
        signed=signed,
        algorithm=algorithm,
        signature=signature,
        serial=serial,
        issuer=issuer,
        subject=subject,
        not_before=not_before,
        not_after=not_after,
        public_key=public_key,
        extensions=extensions,
    )


def read_constraints(certificate: Certificate) -> Constraints:
    """Return the basic constraints and the key usage of a certificate.

    Source: RFC 5280, sections 4.2.1.3 and 4.2.1.9.
    """
    constraints = certificate.extensions.get(OID_BASIC_CONSTRAINTS)
    usage = certificate.extensions.get(OID_KEY_USAGE)
    try:
        reader = DerReader(b"" if constraints is None else constraints.value).enter(SEQUENCE)
        is_ca = bool(reader.next_tag()) and reader.read_boolean()
        bits = DerReader(b"" if usage is None else usage.value).read(BIT_STRING)
    except FormatError:
        return Constraints(is_ca=False, usage=KeyUsage.NONE)
    # the first byte counts the unused bits of the last
    return Constraints(is_ca=is_ca, usage=KeyUsage(bits[1]) if len(bits) > 1 else KeyUsage.NONE)


def _read_revoked(reader: DerReader) -> frozenset[int]:
    serials = set()
    while reader.next_tag():
        entry = reader.enter(SEQUENCE)
        serials.add(entry.read_integer())
        entry.read_time()
        if entry.next_tag():
            entry.read(SEQUENCE)  # reasons: revoked is revoked
        entry.require_end()
    return frozenset(serials)


def parse_crl(der: bytes) -> RevocationList:
    """Return the certificate revocation list that `der`, at most 64 KiB, holds.

    Raises FormatError if it is not one version 2 CRL in DER, or has no nextUpdate.
    """
    signed, algorithm, signature = _split_signed(der, LARGEST_CRL, "revocation list")
    body = DerReader(signed).enter(SEQUENCE)
    if body.read_integer() != _CRL_V2:
        raise FormatError("cannot read a revocation list", why="it is not version 2")
    _require_same_algorithm(body.read_whole(SEQUENCE), algorithm)
    issuer = _read_name(body)
    this_update, next_update = body.read_time(), body.read_time()
    serials = _read_revoked(body.enter(SEQUENCE)) if body.next_tag() == SEQUENCE else frozenset()
    extensions = _read_extensions(body.enter(_CRL_EXTENSIONS_TAG)) if body.next_tag() else {}
    body.require_end()
    return RevocationList(
        signed=signed,
        algorithm=algorithm,
        signature=signature,
        issuer=issuer,
        this_update=this_update,
        next_update=next_update,
        serials=serials,
        extensions=extensions,
    )
