"""Intel's certificates as a test sees them: a made-up root, its CAs and signers, and the SGX extension."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID

from krunpy.attest.anchors import IntelAnchors, make_intel_anchors
from krunpy.formats.der import encode_oid
from krunpy.formats.pck_chain import encode_pem
from tests.fakes.amd import usage

NOW = datetime(2026, 6, 1, tzinfo=UTC)
LONG_AGO = datetime(2024, 1, 1, tzinfo=UTC)
LATER = datetime(2034, 1, 1, tzinfo=UTC)
SGX = "1.2.840.113741.1.13.1"
COMPONENTS = bytes([7, 9, 3, 3, 4, 1, 0, 5, *bytes(8)])
FMSPC = bytes.fromhex("00f0f0000001")
ROOT_SERIAL, CA_SERIAL, SIGNER_SERIAL, PCK_SERIAL = 1, 2, 3, 4


@functools.cache
def key(who: str) -> ec.EllipticCurvePrivateKey:
    """Return the key of "root", "ca", "pck", "ak", "signer" or "evil", the same for the whole run."""
    curve = ec.SECP384R1() if who == "p384" else ec.SECP256R1()
    return ec.generate_private_key(curve)


def name(common_name: str, organization: str = "Intel Corporation") -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization),
            x509.NameAttribute(NameOID.COUNTRY_NAME, "US"),
        ]
    )


ROOT, PLATFORM_CA, PROCESSOR_CA, PCK, SIGNER = (
    f"Intel SGX {role}"
    for role in ("Root CA", "PCK Platform CA", "PCK Processor CA", "PCK Certificate", "TCB Signing")
)


CA_USAGE, DATA_USAGE = usage(cert_sign=True), usage(cert_sign=False)


@dataclass(frozen=True, kw_only=True)
class Cert:
    """A certificate to be minted; the defaults are Intel's, a test changes one of them."""

    subject: x509.Name
    issuer: x509.Name
    key: str
    signer: str
    serial: int
    is_ca: bool | None = False  # None: no basic constraints
    usage: x509.KeyUsage | None = DATA_USAGE
    not_before: datetime = LONG_AGO
    not_after: datetime = LATER
    extensions: tuple[tuple[str, bytes, bool], ...] = ()
    hash: type[hashes.HashAlgorithm] = hashes.SHA256

    def der(self) -> bytes:
        builder = (
            x509.CertificateBuilder()
            .subject_name(self.subject)
            .issuer_name(self.issuer)
            .public_key(key(self.key).public_key())
            .serial_number(self.serial)
            .not_valid_before(self.not_before)
            .not_valid_after(self.not_after)
        )
        if self.is_ca is not None:
            constraints = x509.BasicConstraints(ca=self.is_ca, path_length=None)
            builder = builder.add_extension(constraints, critical=True)
        if self.usage is not None:
            builder = builder.add_extension(self.usage, critical=True)
        for oid, value, critical in self.extensions:
            extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value)
            builder = builder.add_extension(extension, critical=critical)
        return builder.sign(key(self.signer), self.hash()).public_bytes(serialization.Encoding.DER)


@functools.lru_cache(maxsize=64)
def mint(cert: Cert) -> bytes:
    return cert.der()


ROOT_CERT = Cert(
    subject=name(ROOT),
    issuer=name(ROOT),
    key="root",
    signer="root",
    serial=ROOT_SERIAL,
    is_ca=True,
    usage=CA_USAGE,
)
CA_CERT = Cert(
    subject=name(PLATFORM_CA),
    issuer=name(ROOT),
    key="ca",
    signer="root",
    serial=CA_SERIAL,
    is_ca=True,
    usage=CA_USAGE,
)
SIGNER_CERT = Cert(subject=name(SIGNER), issuer=name(ROOT), key="signer", signer="root", serial=SIGNER_SERIAL)


@functools.cache
def mint_root() -> bytes:
    return ROOT_CERT.der()


@functools.cache
def anchors() -> IntelAnchors:
    return make_intel_anchors([mint_root()])


def pem(*chain: bytes) -> bytes:
    return b"".join(encode_pem(der) + b"\n" for der in chain)


# The SGX extension.


def tlv(tag: int, contents: bytes) -> bytes:
    length = len(contents)
    long = length.to_bytes(1 if length < 256 else 2, "big")
    size = long if length < 128 else bytes([0x80 | len(long)]) + long
    return bytes([tag]) + size + contents


def integer(value: int) -> bytes:
    return tlv(2, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def octets(value: bytes) -> bytes:
    return tlv(4, value)


def boolean(*, value: bool) -> bytes:
    return tlv(1, b"\xff" if value else b"\0")


def pairs(entries: dict[str, bytes]) -> bytes:
    """Return a SEQUENCE of pairs by their number below the SGX arc: "2.17"; a number may be given as "4#2"."""
    listed = (
        tlv(0x30, tlv(6, encode_oid(f"{SGX}.{arc.split('#')[0]}")) + value) for arc, value in entries.items()
    )
    return tlv(0x30, b"".join(listed))


def tcb_entries() -> dict[str, bytes]:
    levels = {f"2.{index}": integer(level) for index, level in enumerate(COMPONENTS, 1)}
    return levels | {"2.17": integer(13), "2.18": octets(COMPONENTS)}


def sgx_entries() -> dict[str, bytes]:
    settings = {"7.1": boolean(value=True), "7.2": boolean(value=False), "7.3": boolean(value=True)}
    return {
        "1": octets(b"\x77" * 16),
        "2": pairs(tcb_entries()),
        "3": octets(bytes(2)),
        "4": octets(FMSPC),
        "5": tlv(0x0A, b"\1"),
        "6": octets(b"\x66" * 16),
        "7": pairs(settings),
    }


def sign(who: str, signed: bytes) -> bytes:
    """Return r and s, 32 bytes each, big-endian."""
    r, s = decode_dss_signature(key(who).sign(signed, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")
