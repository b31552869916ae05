"""Verify the chain from a root to the key that signs reports, and read what its certificate says.

Result: an `EndorsedKey`, true for as long as its certificates are valid; times, revocation and the
report itself are checked elsewhere. Chains that were verified are remembered, by their bytes.

Source: AMD VCEK Certificate and KDS Interface Specification (publication 57230), sections 3 and 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING

from krunpy.attest.anchors import AMD_ORGANIZATION
from krunpy.attest.refusal import Refusal, Stage
from krunpy.attest.signatures import ReportKey, load_report_key, load_root_key
from krunpy.core.errors import FormatError
from krunpy.formats import snp_simulated
from krunpy.formats.der import IA5_STRING, OCTET_STRING, SEQUENCE, DerReader, encode_oid
from krunpy.formats.snp_report import SigningKey
from krunpy.formats.snp_tcb import Product
from krunpy.formats.x509 import OID_BASIC_CONSTRAINTS, OID_KEY_USAGE, Certificate, parse_certificate

if TYPE_CHECKING:
    from datetime import datetime

    from krunpy.attest.anchors import Anchor, Anchors

_AMD = "1.3.6.1.4.1.3704.1"
_LEVEL_OIDS = {
    "bootloader": encode_oid(f"{_AMD}.3.1"),
    "tee": encode_oid(f"{_AMD}.3.2"),
    "snp": encode_oid(f"{_AMD}.3.3"),
    "spl4": encode_oid(f"{_AMD}.3.4"),
    "spl5": encode_oid(f"{_AMD}.3.5"),
    "spl6": encode_oid(f"{_AMD}.3.6"),
    "spl7": encode_oid(f"{_AMD}.3.7"),
    "microcode": encode_oid(f"{_AMD}.3.8"),
    "fmc": encode_oid(f"{_AMD}.3.9"),
}
_HWID_OID, _CSP_OID = encode_oid(f"{_AMD}.4"), encode_oid(f"{_AMD}.5")
_UNDERSTOOD = frozenset({OID_BASIC_CONSTRAINTS, OID_KEY_USAGE})
_KEY_CERT_SIGN = 0x04  # bit 5 of KeyUsage, counted from the most significant
_HWID_SIZES = (64, 8)  # bytes; Turin's are 8
_LEAF_NAMES = {SigningKey.VCEK: "SEV-VCEK", SigningKey.VLEK: "SEV-VLEK"}
_INTERMEDIATE_NAMES = {
    f"{stem}-{product}": (kind, product)
    for stem, kind in (("SEV", SigningKey.VCEK), ("SEV-VLEK", SigningKey.VLEK))
    for product in Product
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Validity:
    """One certificate of a chain: what it is, its serial number, and when it is valid."""

    what: str
    serial: int
    not_before: datetime
    not_after: datetime


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EndorsedKey:
    """A report key that a trusted root vouches for.

    levels: the certificate's security patch levels by name; one it does not state is missing.
    hwid:   64 or 8 bytes of a VCEK, None if not stated; csp_id: the cloud of a VLEK, None if not stated.
    digest: SHA-256 of the key as SubjectPublicKeyInfo.
    """

    anchor: Anchor
    key: ReportKey
    kind: SigningKey
    levels: dict[str, int]
    hwid: bytes | None
    csp_id: str | None
    digest: bytes
    chain: tuple[Validity, ...]

    @property
    def product(self) -> Product:
        """The product whose root vouches for the key."""
        return self.anchor.product

    @property
    def simulated(self) -> bool:
        """Whether that root is a software TEE's."""
        return self.anchor.simulated


def _refuse(code: str, why: str, next: str = "") -> Refusal:
    return Refusal(Stage.CHAIN, code, why=why, next=next)


def verify_endorsement(
    leaf: bytes, intermediate: bytes | None, root: bytes | None, anchors: Anchors
) -> EndorsedKey:
    """Return the key of a leaf certificate whose chain ends at one of `anchors`.

    leaf: VCEK or VLEK in DER; intermediate: ASK or ASVK in DER, None to use the pinned one;
    root: the ARK that came with the evidence, None if none came.

    1. The leaf's issuer names a product and a kind of key.
    2. A root for that product is trusted, and the ARK given, if any, is it, byte for byte.
    3. The intermediate and the leaf are signed below it; see `_endorse`.

    Raises Refusal (stage chain, or parse for what is no certificate).
    """
    certificate = _parse(leaf)
    # 1
    issuer = certificate.issuer.common_name
    simulated = issuer.startswith(snp_simulated.COMMON_NAME_PREFIX)
    name = issuer.removeprefix(snp_simulated.COMMON_NAME_PREFIX)
    if name not in _INTERMEDIATE_NAMES:
        raise _refuse(
            "chain-issuer", f'seen issuer "{issuer[:80]}", wanted SEV- or SEV-VLEK- and a known product'
        )
    kind, product = _INTERMEDIATE_NAMES[name]
    # 2
    anchor = anchors.find(product, simulated=simulated)
    if anchor is None:
        trusted = "simulated root" if simulated else "root"
        raise _refuse(
            "chain-anchor", f"seen a certificate for {issuer}, and no {trusted} for {product} is trusted"
        )
    if root is not None and root != anchor.der:
        raise _refuse("chain-root", "the ARK that came with the evidence is not the one that is trusted")
    # 3
    if intermediate is None:
        intermediate = anchor.intermediates.get(issuer)
        if intermediate is None:
            raise _refuse("chain-intermediate", f"no certificate of {issuer} came with the evidence")
    return _endorse(anchor, intermediate, leaf, kind)


@lru_cache(maxsize=64)
def _parse(der: bytes) -> Certificate:
    try:
        return parse_certificate(der)
    except FormatError as error:
        raise Refusal(
            Stage.PARSE, "certificate-format", why=f"a certificate cannot be read: {error.why}"
        ) from error


@lru_cache(maxsize=512)
def _endorse(anchor: Anchor, intermediate_der: bytes, leaf_der: bytes, kind: SigningKey) -> EndorsedKey:
    """Return the endorsed key.

    1. The intermediate: AMD's names (or the simulator's), a CA, signed by the root.
    2. The leaf: its kind's name, not a CA, signed by the intermediate, a P-384 key.
    3. No critical extension is left that we do not understand; the mark of simulation is there or not.
    4. The leaf's AMD extensions are read.
    """
    intermediate, leaf = _parse(intermediate_der), _parse(leaf_der)
    # 1
    _require_intermediate(intermediate, anchor, kind)
    # 2
    key = _verify_leaf(leaf, intermediate, anchor, kind)
    # 3
    for certificate in (intermediate, leaf):
        _require_extensions(certificate, simulated=anchor.simulated)
    # 4
    try:
        levels, hwid, csp_id = _read_levels(leaf), _read_hwid(leaf), _read_csp_id(leaf)
    except FormatError as error:
        why = f"the leaf's extensions: {error.why}"
        raise Refusal(Stage.PARSE, "certificate-format", why=why) from error
    return EndorsedKey(
        anchor=anchor,
        key=key,
        kind=kind,
        levels=levels,
        hwid=hwid,
        csp_id=csp_id,
        digest=sha256(leaf.public_key).digest(),
        chain=(
            Validity(what="ARK", serial=-1, not_before=anchor.not_before, not_after=anchor.not_after),
            _validity("ASVK" if kind is SigningKey.VLEK else "ASK", intermediate),
            _validity(kind.name, leaf),
        ),
    )


def _require_intermediate(intermediate: Certificate, anchor: Anchor, kind: SigningKey) -> None:
    stem = "SEV-VLEK" if kind is SigningKey.VLEK else "SEV"
    _require_name(intermediate, f"{stem}-{anchor.product}", anchor)
    name = intermediate.subject.common_name
    if intermediate.issuer.der != anchor.subject:
        raise _refuse("chain-names", f'"{name}" is not issued by the trusted root')
    _require_ca(intermediate)
    if not anchor.key.has_signed(intermediate):
        raise _refuse("chain-signature", f'"{name}" is not signed by the trusted root')


def _verify_leaf(leaf: Certificate, intermediate: Certificate, anchor: Anchor, kind: SigningKey) -> ReportKey:
    _require_name(leaf, _LEAF_NAMES[kind], anchor)
    if leaf.issuer.der != intermediate.subject.der:
        raise _refuse("chain-names", "the leaf's issuer is not the intermediate's subject")
    if OID_BASIC_CONSTRAINTS in leaf.extensions:
        raise _refuse("chain-leaf", "the leaf has basic constraints, which AMD's do not have")
    try:
        if not load_root_key(intermediate.public_key).has_signed(leaf):
            raise _refuse(
                "chain-signature", f'"{leaf.subject.common_name}" is not signed by the intermediate'
            )
        return load_report_key(leaf.public_key)
    except FormatError as error:
        raise _refuse("chain-key", error.why) from error


def _validity(what: str, certificate: Certificate) -> Validity:
    return Validity(
        what=what,
        serial=certificate.serial,
        not_before=certificate.not_before,
        not_after=certificate.not_after,
    )


def _require_name(certificate: Certificate, common_name: str, anchor: Anchor) -> None:
    organization = AMD_ORGANIZATION
    if anchor.simulated:
        common_name = snp_simulated.COMMON_NAME_PREFIX + common_name
        organization = snp_simulated.ORGANIZATION
    subject = certificate.subject
    if subject.common_name != common_name or subject.organization != organization:
        raise _refuse(
            "chain-names",
            f'seen "{subject.common_name[:80]}" of "{subject.organization[:80]}", '
            f'wanted "{common_name}" of "{organization}"',
        )


def _require_ca(certificate: Certificate) -> None:
    name = certificate.subject.common_name
    constraints = certificate.extensions.get(OID_BASIC_CONSTRAINTS)
    usage = certificate.extensions.get(OID_KEY_USAGE)
    try:
        reader = DerReader(b"" if constraints is None else constraints.value).enter(SEQUENCE)
        is_ca = bool(reader.next_tag()) and reader.read_boolean()
        bits = DerReader(b"" if usage is None else usage.value).read(0x03)
    except FormatError:
        is_ca, bits = False, b""
    if not is_ca or len(bits) < 2 or not bits[1] & _KEY_CERT_SIGN:  # noqa: PLR2004 - unused bits, then bits
        raise _refuse("chain-ca", f'"{name}" may not sign certificates: no CA, or no key usage for it')


def _require_extensions(certificate: Certificate, *, simulated: bool) -> None:
    understood = _UNDERSTOOD | {snp_simulated.EXTENSION_OID_BYTES} if simulated else _UNDERSTOOD
    for oid, extension in certificate.extensions.items():
        if extension.is_critical and oid not in understood:
            raise _refuse(
                "chain-extension", f"seen critical extension {oid.hex()}, which we do not understand"
            )
    mark = certificate.extensions.get(snp_simulated.EXTENSION_OID_BYTES)
    if (mark is not None and mark.is_critical) is not simulated:
        raise _refuse("chain-mark", "the mark of simulation does not fit the root")


def _read_levels(leaf: Certificate) -> dict[str, int]:
    levels = {}
    for name, oid in _LEVEL_OIDS.items():
        if (extension := leaf.extensions.get(oid)) is not None:
            reader = DerReader(extension.value)
            levels[name] = reader.read_integer()
            reader.require_end()
    return levels


def _read_hwid(leaf: Certificate) -> bytes | None:
    extension = leaf.extensions.get(_HWID_OID)
    if extension is None:
        return None
    if len(extension.value) in _HWID_SIZES:
        return extension.value
    reader = DerReader(extension.value)  # some certificates wrap it in an OCTET STRING
    hwid = reader.read(OCTET_STRING)
    reader.require_end()
    return hwid


def _read_csp_id(leaf: Certificate) -> str | None:
    extension = leaf.extensions.get(_CSP_OID)
    if extension is None:
        return None
    reader = DerReader(extension.value)
    if reader.next_tag() != IA5_STRING:
        raise FormatError("cannot read CSP_ID", why="it is no IA5String")
    text = reader.read_text()
    reader.require_end()
    return text
