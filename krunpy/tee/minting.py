"""Mint the software TEE's certificates: a chain of AMD's shape whose every part says that it is simulated.

Source: AMD VCEK Certificate and KDS Interface Specification (publication 57230), sections 3 and 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import NameOID

from krunpy.formats import snp_simulated

if TYPE_CHECKING:
    from datetime import datetime

    from krunpy.formats.snp_tcb import Product, Tcb

_RSA_BITS = 4096
_PSS_SALT = 48  # bytes
_OID = "1.3.6.1.4.1.3704.1"
_ASN1_INTEGER, _ASN1_IA5_STRING = 2, 22
_SIGN_BIT = 0x80


@dataclass(frozen=True, slots=True, kw_only=True)
class MintedChain:
    """Three certificates in DER, and the VCEK's private key in PKCS #8 DER. The RSA keys are gone."""

    ark: bytes
    ask: bytes
    vcek: bytes
    key: bytes


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "not AMD, not hardware"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, snp_simulated.ORGANIZATION),
            x509.NameAttribute(NameOID.COMMON_NAME, snp_simulated.COMMON_NAME_PREFIX + common_name),
        ]
    )


def _der_integer(value: int) -> bytes:
    body = value.to_bytes(1 if value < _SIGN_BIT else 2, "big")
    return bytes((_ASN1_INTEGER, len(body))) + body


def _vcek_extensions(product: Product, tcb: Tcb, chip_id: bytes) -> dict[str, bytes]:
    name = product.value.encode()
    levels = {1: tcb.bootloader, 2: tcb.tee, 3: tcb.snp, 4: 0, 5: 0, 6: 0, 7: 0, 8: tcb.microcode}
    extensions = {f"{_OID}.3.{index}": _der_integer(level) for index, level in levels.items()}
    extensions[f"{_OID}.1"] = _der_integer(0)
    extensions[f"{_OID}.2"] = bytes((_ASN1_IA5_STRING, len(name))) + name
    extensions[f"{_OID}.4"] = chip_id
    return extensions


def _builder(
    issuer: str,
    subject: str,
    public_key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey,
    window: tuple[datetime, datetime],
) -> x509.CertificateBuilder:
    mark = x509.UnrecognizedExtension(
        x509.ObjectIdentifier(snp_simulated.EXTENSION_OID), snp_simulated.EXTENSION_VALUE
    )
    return (
        x509.CertificateBuilder()
        .issuer_name(_name(issuer))
        .subject_name(_name(subject))
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(window[0])
        .not_valid_after(window[1])
        .add_extension(mark, critical=True)
    )


def _make_ca(builder: x509.CertificateBuilder, path_length: int | None) -> x509.CertificateBuilder:
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    constraints = x509.BasicConstraints(ca=True, path_length=path_length)
    return builder.add_extension(constraints, critical=True).add_extension(usage, critical=True)


def _sign(builder: x509.CertificateBuilder, key: rsa.RSAPrivateKey) -> bytes:
    pss = padding.PSS(mgf=padding.MGF1(hashes.SHA384()), salt_length=_PSS_SALT)
    return builder.sign(key, hashes.SHA384(), rsa_padding=pss).public_bytes(serialization.Encoding.DER)


def mint_chain(
    *, product: Product, tcb: Tcb, chip_id: bytes, not_before: datetime, not_after: datetime
) -> MintedChain:
    """Return a new simulated chain: ARK and ASK with RSA-4096, VCEK with P-384. Takes some seconds.

    chip_id: 64 bytes; tcb: below Turin, so without fmc.
    """
    window = (not_before, not_after)
    ark_name, ask_name = f"ARK-{product}", f"SEV-{product}"
    ark_key = rsa.generate_private_key(65537, _RSA_BITS)
    ask_key = rsa.generate_private_key(65537, _RSA_BITS)
    vcek_key = ec.generate_private_key(ec.SECP384R1())
    ark = _make_ca(_builder(ark_name, ark_name, ark_key.public_key(), window), None)
    ask = _make_ca(_builder(ark_name, ask_name, ask_key.public_key(), window), 0)
    vcek = _builder(ask_name, "SEV-VCEK", vcek_key.public_key(), window)
    for oid, value in _vcek_extensions(product, tcb, chip_id).items():
        vcek = vcek.add_extension(
            x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value), critical=False
        )
    return MintedChain(
        ark=_sign(ark, ark_key),
        ask=_sign(ask, ark_key),
        vcek=_sign(vcek, ask_key),
        key=vcek_key.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    )
