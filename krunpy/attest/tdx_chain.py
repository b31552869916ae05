"""Verify Intel's certificate chains: from a root to the key of a platform (PCK), or of collateral.

Two shapes and no others: root, PCK CA, PCK; and root, TCB signer. Times and revocation are checked elsewhere.
Chains that were verified are remembered, by their bytes.

Source: Intel SGX PCK Certificate and Certificate Revocation List Profile Specification, section 1.3;
RFC 5280, section 6.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING, Literal

from krunpy.attest.anchors import INTEL_ORGANIZATION
from krunpy.attest.endorsement import Validity
from krunpy.attest.refusal import Refusal, Stage
from krunpy.attest.tdx_claims import PckIdentity
from krunpy.attest.tdx_signatures import P256Key, load_p256_key
from krunpy.core.errors import FormatError
from krunpy.formats.pck_extension import OID_SGX_EXTENSION, parse_pck_extension
from krunpy.formats.x509 import (
    OID_BASIC_CONSTRAINTS,
    OID_KEY_USAGE,
    Certificate,
    KeyUsage,
    parse_certificate,
    read_constraints,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from krunpy.attest.anchors import IntelAnchor, IntelAnchors

_CaKind = Literal["platform", "processor"]

_PCK_CA_NAMES: Mapping[str, _CaKind] = {
    "Intel SGX PCK Platform CA": "platform",
    "Intel SGX PCK Processor CA": "processor",
}
_PCK_NAME = "Intel SGX PCK Certificate"
_TCB_SIGNER_NAME = "Intel SGX TCB Signing"
_PCK_CHAIN, _SIGNER_CHAIN = 3, 2  # certificates
_UNDERSTOOD = frozenset({OID_BASIC_CONSTRAINTS, OID_KEY_USAGE})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PckEndorsement:
    """A platform's key that a trusted root vouches for; chain: root, CA and PCK, in this order.

    ca_key, ca_subject: of the CA, which signs the CRL that may name the PCK.
    """

    anchor: IntelAnchor
    key: P256Key
    ca_key: P256Key
    ca_subject: bytes
    identity: PckIdentity
    chain: tuple[Validity, Validity, Validity]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TcbSigner:
    """The key that signs collateral, and that a trusted root vouches for."""

    anchor: IntelAnchor
    key: P256Key
    link: Validity


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _PckCa:
    """A PCK CA that a trusted root vouches for."""

    kind: _CaKind
    subject: bytes
    key: P256Key
    link: Validity


class _Chain:
    """The checks of one chain, all of which refuse at the same stage."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def refuse(self, code: str, why: str) -> Refusal:
        """Return the refusal."""
        return Refusal(self._stage, code, why=why)

    def find_root(self, chain: tuple[bytes, ...], length: int, anchors: IntelAnchors) -> IntelAnchor:
        """Return the trusted root that the last certificate of a chain is."""
        if len(chain) != length:
            raise self.refuse("chain-length", f"seen {len(chain)} certificates, wanted {length}")
        anchor = anchors.find(chain[-1])
        if anchor is None:
            raise self.refuse("chain-root", "the chain ends at a root that is not trusted")
        return anchor

    def parse(self, der: bytes) -> Certificate:
        """Return a certificate."""
        try:
            return parse_certificate(der)
        except FormatError as error:
            raise self.refuse("certificate-format", f"a certificate cannot be read: {error.why}") from error

    def require_name(self, certificate: Certificate, *names: str) -> str:
        """Return the common name of a certificate of Intel's, which must be one of `names`."""
        subject = certificate.subject
        if subject.common_name not in names or subject.organization != INTEL_ORGANIZATION:
            raise self.refuse(
                "chain-names",
                f'seen "{subject.common_name[:80]}" of "{subject.organization[:80]}", '
                f'wanted "{" or ".join(names)}" of "{INTEL_ORGANIZATION}"',
            )
        return subject.common_name

    def require_issued(self, certificate: Certificate, issuer: bytes, key: P256Key) -> None:
        """Return nothing; refuses unless the issuer named `issuer` signed the certificate with `key`."""
        name = certificate.subject.common_name[:80]
        if certificate.issuer.der != issuer:
            raise self.refuse("chain-issuer", f'the issuer of "{name}" is not the next in the chain')
        if not key.has_issued(certificate):
            raise self.refuse("chain-signature", f'"{name}" is not signed by the next in the chain')

    def require_purpose(self, certificate: Certificate, *, is_ca: bool, usage: KeyUsage) -> None:
        """Return nothing; refuses unless the key may be used so, or if an extension is not understood."""
        name = certificate.subject.common_name[:80]
        constraints = read_constraints(certificate)
        if constraints.is_ca is not is_ca or usage not in constraints.usage:
            raise self.refuse("chain-usage", f'"{name}" says that its key is for something else')
        if not is_ca and KeyUsage.KEY_CERT_SIGN in constraints.usage:
            raise self.refuse("chain-usage", f'"{name}" is no CA, but may sign certificates')
        for oid, extension in certificate.extensions.items():
            if extension.is_critical and oid not in _UNDERSTOOD:
                raise self.refuse(
                    "chain-extension", f"seen critical extension {oid.hex()}, which we do not understand"
                )

    def load_key(self, certificate: Certificate) -> P256Key:
        """Return the key of a certificate."""
        try:
            return load_p256_key(certificate.public_key)
        except FormatError as error:
            raise self.refuse("chain-key", error.why) from error


def _link(what: str, certificate: Certificate) -> Validity:
    return Validity(
        what=what,
        serial=certificate.serial,
        not_before=certificate.not_before,
        not_after=certificate.not_after,
    )


def _root_link(anchor: IntelAnchor) -> Validity:
    return Validity(
        what="root CA", serial=-1, not_before=anchor.not_before, not_after=anchor.not_after
    )  # no CRL names the root: it is trusted by being given


def _read_identity(checks: _Chain, leaf: Certificate, ca_kind: _CaKind) -> PckIdentity:
    extension = leaf.extensions.get(OID_SGX_EXTENSION)
    if extension is None:
        raise checks.refuse("pck-extension", "the PCK certificate has no SGX extension")
    try:
        said = parse_pck_extension(extension.value)
    except FormatError as error:
        raise checks.refuse("pck-extension", f"the PCK certificate's SGX extension: {error.why}") from error
    return PckIdentity(
        fmspc=said.fmspc,
        pceid=said.pceid,
        ppid=said.ppid,
        piid=said.piid,
        sgx_type=said.sgx_type,
        components=said.components,
        cpu_svn=said.cpu_svn,
        pce_svn=said.pce_svn,
        dynamic_platform=said.dynamic_platform,
        cached_keys=said.cached_keys,
        smt_enabled=said.smt_enabled,
        ca_kind=ca_kind,
        key_digest=sha256(leaf.public_key).digest(),
    )


@lru_cache(maxsize=16)
def _verify_pck_ca(der: bytes, anchor: IntelAnchor) -> _PckCa:
    """Return a PCK CA: one of Intel's two names, signed by the root, may sign certificates and CRLs."""
    checks = _Chain(Stage.CHAIN)
    ca = checks.parse(der)
    kind = _PCK_CA_NAMES[checks.require_name(ca, *_PCK_CA_NAMES)]
    checks.require_issued(ca, anchor.subject, anchor.key)
    checks.require_purpose(ca, is_ca=True, usage=KeyUsage.KEY_CERT_SIGN | KeyUsage.CRL_SIGN)
    return _PckCa(
        kind=kind, subject=ca.subject.der, key=checks.load_key(ca), link=_link(f"PCK {kind} CA", ca)
    )


@lru_cache(maxsize=512)
def verify_pck_chain(chain: tuple[bytes, ...], anchors: IntelAnchors) -> PckEndorsement:
    """Return the key of a platform whose chain ends at one of `anchors`.

    chain: PCK, PCK CA and root, in DER.

    1. The chain has three certificates, and the root is a trusted one, byte for byte.
    2. The CA has the name of one of Intel's two, is signed by the root, and may sign certificates and CRLs
       (`_verify_pck_ca`).
    3. The PCK has its name, is signed by the CA, may sign data and nothing else, and has a key on P-256.
    4. Its SGX extension is read.

    Raises Refusal (stage chain).
    """
    checks = _Chain(Stage.CHAIN)
    # 1
    anchor = checks.find_root(chain, _PCK_CHAIN, anchors)
    # 2
    ca = _verify_pck_ca(chain[1], anchor)
    # 3
    leaf = checks.parse(chain[0])
    checks.require_name(leaf, _PCK_NAME)
    checks.require_issued(leaf, ca.subject, ca.key)
    checks.require_purpose(leaf, is_ca=False, usage=KeyUsage.DIGITAL_SIGNATURE)
    key = checks.load_key(leaf)
    # 4
    identity = _read_identity(checks, leaf, ca.kind)
    return PckEndorsement(
        anchor=anchor,
        key=key,
        ca_key=ca.key,
        ca_subject=ca.subject,
        identity=identity,
        chain=(_root_link(anchor), ca.link, _link("PCK certificate", leaf)),
    )


@lru_cache(maxsize=64)
def verify_tcb_signer(chain: tuple[bytes, ...], anchors: IntelAnchors) -> TcbSigner:
    """Return the key of a signer of collateral whose chain ends at one of `anchors`.

    chain: TCB signing certificate and root, in DER.

    1. The chain has two certificates, and the root is a trusted one, byte for byte.
    2. The signer has its name, which no PCK has, is signed by the root, and may sign data and nothing else.

    Raises Refusal (stage collateral).
    """
    checks = _Chain(Stage.COLLATERAL)
    # 1
    anchor = checks.find_root(chain, _SIGNER_CHAIN, anchors)
    # 2
    signer = checks.parse(chain[0])
    checks.require_name(signer, _TCB_SIGNER_NAME)
    checks.require_issued(signer, anchor.subject, anchor.key)
    checks.require_purpose(signer, is_ca=False, usage=KeyUsage.DIGITAL_SIGNATURE)
    return TcbSigner(
        anchor=anchor, key=checks.load_key(signer), link=_link("TCB signing certificate", signer)
    )
