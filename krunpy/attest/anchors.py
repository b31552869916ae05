"""The roots that evidence may lead to: AMD's and Intel's, pinned with their digests, and what a caller adds.

A simulated root is never among the pinned ones; it must be given explicitly and is marked for life.
Nothing is fetched.

Source: roots/SOURCES; AMD VCEK Certificate and KDS Interface Specification (publication 57230), section 3;
Intel SGX PCK Certificate and Certificate Revocation List Profile Specification, section 1.3.2.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib import resources
from typing import TYPE_CHECKING

from krunpy.attest.signatures import RootKey, load_root_key
from krunpy.attest.tdx_signatures import P256Key, load_p256_key
from krunpy.core.errors import FormatError
from krunpy.formats import snp_simulated
from krunpy.formats.snp_tcb import Product
from krunpy.formats.x509 import OID_BASIC_CONSTRAINTS, KeyUsage, parse_certificate, read_constraints

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

AMD_ORGANIZATION = "Advanced Micro Devices"
INTEL_ORGANIZATION = "Intel Corporation"
_INTEL_ROOT_NAME = "Intel SGX Root CA"
_INTEL_ROOT_FILE = "intel_sgx_root_ca.pem"

# file name, SHA-256 of the certificate in DER: a changed package file is noticed at first use
_PINNED = {
    "amd_milan_ark.pem": "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd",
    "amd_milan_ask.pem": "67d303bd3905fd38db8b20e0793699870e7fa612eaad5dec358293fd8c0bac1b",
    "amd_milan_asvk.pem": "c5e081f59b7efab1fe2f8b505e159704e72f29cab7ef7cf628a05a42439082f5",
    "amd_genoa_ark.pem": "4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1",
    "amd_genoa_ask.pem": "5464738c1546aed5f2cecf1dc98c5c960a92e8913238a61711bc90ec6e828521",
    "amd_genoa_asvk.pem": "197e610743a917d6b9bb982a5a9226ccc0a15b611be0619e626aca9151457372",
    "amd_turin_ark.pem": "1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a",
    "amd_turin_ask.pem": "5b77ef5fe7a7a004fd9032668fba9d0fda22f88c4442069a479636a6ae3b3185",
    "amd_turin_asvk.pem": "104e10a8bd060a3c20a434261a57d0588fd65a88915b4f65b08bdecaf8df1a3c",
    _INTEL_ROOT_FILE: "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3",
}
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----")
_LARGEST_PEM = 65536  # bytes


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Anchor:
    """One root key (ARK) that is trusted without further proof, for one product.

    intermediates: certificates known from before, by subject common name; they are verified like others.
    """

    product: Product
    der: bytes
    key: RootKey
    subject: bytes
    not_before: datetime
    not_after: datetime
    simulated: bool
    intermediates: dict[str, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchors:
    """The roots that one verifier trusts: at most one per product, and one simulated per product."""

    hardware: dict[Product, Anchor]
    simulated: dict[Product, Anchor]

    def find(self, product: Product, *, simulated: bool) -> Anchor | None:
        """Return the root for a product, None if it is not trusted."""
        return (self.simulated if simulated else self.hardware).get(product)

    def add_simulated_root(self, root: bytes) -> Anchors:
        """Return these roots and one of a software TEE, whose evidence protects nothing.

        root: a certificate in DER that carries the software TEE's marks.

        Raises FormatError if it is anything else.
        """
        anchor = make_anchor(root, simulated=True)
        return Anchors(hardware=self.hardware, simulated={**self.simulated, anchor.product: anchor})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class IntelAnchor:
    """The root key of Intel's attestation: it issues the PCK CAs, the TCB signer, and the root CRL."""

    der: bytes
    key: P256Key
    subject: bytes
    not_before: datetime
    not_after: datetime


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class IntelAnchors:
    """Intel's roots that one verifier trusts, by their certificates in DER."""

    roots: dict[bytes, IntelAnchor]

    def find(self, der: bytes) -> IntelAnchor | None:
        """Return the root that this certificate is, byte for byte; None if it is not trusted."""
        return self.roots.get(der)


def split_pem(text: bytes) -> list[bytes]:
    """Return the certificates of a PEM file in DER, in order. Raises FormatError."""
    if len(text) > _LARGEST_PEM:
        raise FormatError("cannot read PEM", why=f"seen {len(text)} bytes, wanted at most {_LARGEST_PEM}")
    try:
        return [base64.b64decode(b"".join(match.split()), validate=True) for match in _PEM.findall(text)]
    except binascii.Error as error:
        raise FormatError("cannot read PEM", why="a certificate is not base64") from error


def make_anchor(root: bytes, *, simulated: bool, intermediates: Iterable[bytes] = ()) -> Anchor:
    """Return a root that is trusted from now on.

    root: an ARK in DER, self-signed; intermediates: ASK and ASVK in DER that evidence may leave out.

    Raises FormatError if it is not a self-signed ARK of a known product, or its marks do not fit `simulated`.
    """
    certificate = parse_certificate(root)
    organization = snp_simulated.ORGANIZATION if simulated else AMD_ORGANIZATION
    prefix = snp_simulated.COMMON_NAME_PREFIX if simulated else ""
    products = {f"{prefix}ARK-{product}": product for product in Product}
    product = products.get(certificate.subject.common_name)
    if product is None or certificate.subject.organization != organization:
        raise FormatError(
            "cannot trust the root",
            why=f'seen "{certificate.subject.common_name}" of "{certificate.subject.organization}", '
            f'wanted {" or ".join(products)} of "{organization}"',
        )
    if (snp_simulated.EXTENSION_OID_BYTES in certificate.extensions) is not simulated:
        raise FormatError("cannot trust the root", why="its mark of simulation does not fit how it was given")
    if OID_BASIC_CONSTRAINTS not in certificate.extensions:
        raise FormatError("cannot trust the root", why="it is no certificate authority")
    key = load_root_key(certificate.public_key)
    if certificate.issuer.der != certificate.subject.der or not key.has_signed(certificate):
        raise FormatError("cannot trust the root", why="it is not signed by itself")
    return Anchor(
        product=product,
        der=root,
        key=key,
        subject=certificate.subject.der,
        not_before=certificate.not_before,
        not_after=certificate.not_after,
        simulated=simulated,
        intermediates={parse_certificate(der).subject.common_name: der for der in intermediates},
    )


def make_anchors(roots: Iterable[bytes], *, simulated_roots: Iterable[bytes] = ()) -> Anchors:
    """Return the roots given, in DER, instead of the pinned ones. Raises FormatError as `make_anchor`."""
    hardware = [make_anchor(root, simulated=False) for root in roots]
    simulated = [make_anchor(root, simulated=True) for root in simulated_roots]
    return Anchors(
        hardware={anchor.product: anchor for anchor in hardware},
        simulated={anchor.product: anchor for anchor in simulated},
    )


def read_pinned(name: str, text: bytes) -> bytes:
    """Return the certificate in DER of the package file `name`, whose contents are `text`.

    Raises FormatError if it is not the one that was pinned.
    """
    (der,) = split_pem(text) or (b"",)
    if sha256(der).hexdigest() != _PINNED[name]:
        raise FormatError(f"cannot trust the root in {name}", why="it differs from the one that was pinned")
    return der


def _load_pinned(name: str) -> bytes:
    return read_pinned(name, resources.files("krunpy.attest").joinpath("roots", name).read_bytes())


@cache
def load_amd_anchors() -> Anchors:
    """Return AMD's pinned roots for Milan, Genoa and Turin; read from the package once.

    Raises FormatError if a package file is not what was pinned.
    """
    hardware = {}
    for product in Product:
        stem = f"amd_{product.lower()}"
        hardware[product] = make_anchor(
            _load_pinned(f"{stem}_ark.pem"),
            simulated=False,
            intermediates=[_load_pinned(f"{stem}_ask.pem"), _load_pinned(f"{stem}_asvk.pem")],
        )
    return Anchors(hardware=hardware, simulated={})


def _make_intel_anchor(root: bytes) -> IntelAnchor:
    certificate = parse_certificate(root)
    subject = certificate.subject
    if (subject.common_name, subject.organization) != (_INTEL_ROOT_NAME, INTEL_ORGANIZATION):
        raise FormatError(
            "cannot trust the root",
            why=f'seen "{subject.common_name[:80]}" of "{subject.organization[:80]}", '
            f'wanted "{_INTEL_ROOT_NAME}" of "{INTEL_ORGANIZATION}"',
        )
    constraints = read_constraints(certificate)
    if not constraints.is_ca or KeyUsage.KEY_CERT_SIGN | KeyUsage.CRL_SIGN not in constraints.usage:
        raise FormatError("cannot trust the root", why="it may not sign certificates and revocation lists")
    key = load_p256_key(certificate.public_key)
    if certificate.issuer.der != subject.der or not key.has_issued(certificate):
        raise FormatError("cannot trust the root", why="it is not signed by itself")
    return IntelAnchor(
        der=root,
        key=key,
        subject=subject.der,
        not_before=certificate.not_before,
        not_after=certificate.not_after,
    )


def make_intel_anchors(roots: Iterable[bytes]) -> IntelAnchors:
    """Return the roots given, in DER, instead of the pinned one.

    Raises FormatError if one is not a self-signed root of Intel's names with a key on P-256.
    """
    return IntelAnchors(roots={root: _make_intel_anchor(root) for root in roots})


@cache
def load_intel_anchors() -> IntelAnchors:
    """Return Intel's pinned root; read from the package once.

    Raises FormatError if the package file is not what was pinned.
    """
    return make_intel_anchors([_load_pinned(_INTEL_ROOT_FILE)])
