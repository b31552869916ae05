"""AMD as a test sees it: made-up roots that mint chains and sign reports, each able to lie in one way."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID

from krunpy.attest.anchors import Anchors, make_anchors
from krunpy.attest.evidence import UnverifiedSnp, read_snp_parts
from krunpy.formats.snp_certs import CertKind, pack_cert_table, pack_evidence
from krunpy.formats.snp_report import SIGNED_SIZE, GuestPolicy, SigningKey, SnpReport, pack_report
from krunpy.formats.snp_tcb import Product, Tcb, pack_tcb

NOW = datetime(2026, 6, 1, tzinfo=UTC)
LONG_AGO = datetime(2024, 1, 1, tzinfo=UTC)
LATER = datetime(2031, 1, 1, tzinfo=UTC)
OID = "1.3.6.1.4.1.3704.1"
CPUID = {Product.MILAN: (0x19, 1, 1), Product.GENOA: (0x19, 0x11, 1), Product.TURIN: (0x1A, 2, 1)}
TCB = {
    Product.MILAN: Tcb(bootloader=4, tee=0, snp=20, microcode=115),
    Product.GENOA: Tcb(bootloader=9, tee=0, snp=23, microcode=72),
    Product.TURIN: Tcb(fmc=1, bootloader=1, tee=1, snp=4, microcode=84),
}


@functools.cache
def rsa_key(who: str) -> rsa.RSAPrivateKey:
    """Return the key of "ark", "ask" or "evil", the same for the whole run."""
    del who
    return rsa.generate_private_key(65537, 4096)


@functools.cache
def ec_key(who: str) -> ec.EllipticCurvePrivateKey:
    del who
    return ec.generate_private_key(ec.SECP384R1())


def name(common_name: str, organization: str = "Advanced Micro Devices") -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "Engineering"),
            x509.NameAttribute(NameOID.COUNTRY_NAME, "US"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def usage(*, cert_sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not cert_sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=cert_sign,
        crl_sign=cert_sign,
        encipher_only=False,
        decipher_only=False,
    )


@dataclass(frozen=True, kw_only=True)
class Cert:
    """A certificate to be minted; the defaults are AMD's, a test changes one of them."""

    subject: x509.Name
    issuer: x509.Name
    key: object
    signer: rsa.RSAPrivateKey
    serial: int = 0x10001
    not_before: datetime = LONG_AGO
    not_after: datetime = LATER
    is_ca: bool | None = None  # None: no basic constraints
    cert_sign: bool | None = None  # None: no key usage
    extensions: tuple[tuple[str, bytes, bool], ...] = ()
    salt: int = 48
    hash: hashes.HashAlgorithm = field(default_factory=hashes.SHA384)

    def der(self) -> bytes:
        builder = (
            x509.CertificateBuilder()
            .subject_name(self.subject)
            .issuer_name(self.issuer)
            .public_key(self.key.public_key())
            .serial_number(self.serial)
            .not_valid_before(self.not_before)
            .not_valid_after(self.not_after)
        )
        if self.is_ca is not None:
            constraints = x509.BasicConstraints(ca=self.is_ca, path_length=0 if self.is_ca else None)
            builder = builder.add_extension(constraints, critical=True)
        if self.cert_sign is not None:
            builder = builder.add_extension(usage(cert_sign=self.cert_sign), critical=True)
        for oid, value, critical in self.extensions:
            extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), value)
            builder = builder.add_extension(extension, critical=critical)
        pss = padding.PSS(mgf=padding.MGF1(self.hash), salt_length=self.salt)
        return builder.sign(self.signer, self.hash, rsa_padding=pss).public_bytes(serialization.Encoding.DER)


def rename_algorithm(der: bytes, signer: rsa.RSAPrivateKey) -> bytes:
    """Return a certificate that calls its hash SHA-256, signed again with SHA-384 all the same."""
    named = der.replace(bytes.fromhex("608648016503040202"), bytes.fromhex("608648016503040201"))
    signed = named[4 : 4 + 4 + int.from_bytes(named[6:8], "big")]
    pss = padding.PSS(mgf=padding.MGF1(hashes.SHA384()), salt_length=48)
    return named[:-512] + signer.sign(signed, pss, hashes.SHA384())


def der_integer(value: int) -> bytes:
    body = value.to_bytes(value.bit_length() // 8 + 1, "big")
    return bytes((2, len(body))) + body


def levels(tcb: Tcb, product: Product) -> dict[str, bytes]:
    named = {f"{OID}.3.1": tcb.bootloader, f"{OID}.3.2": tcb.tee, f"{OID}.3.3": tcb.snp}
    named |= dict.fromkeys((f"{OID}.3.5", f"{OID}.3.6", f"{OID}.3.7"), 0)
    named[f"{OID}.3.8"] = tcb.microcode
    named |= {f"{OID}.3.9": tcb.fmc} if product is Product.TURIN else {f"{OID}.3.4": 0}
    return {oid: der_integer(level) for oid, level in named.items()}


@functools.cache
def mint_root(product: Product, who: str = "ark") -> bytes:
    root = name(f"ARK-{product}")
    key = rsa_key(who)
    return Cert(subject=root, issuer=root, key=key, signer=key, is_ca=True, cert_sign=True).der()


def anchors() -> Anchors:
    return make_anchors([mint_root(product) for product in Product])


@dataclass(frozen=True, kw_only=True)
class FakeChip:
    """A chip (or, with kind VLEK, a cloud's host) with its chain, and the key that signs its reports."""

    product: Product = Product.MILAN
    kind: SigningKey = SigningKey.VCEK
    ask: dict = field(default_factory=dict)  # changes to the intermediate
    leaf: dict = field(default_factory=dict)  # changes to the leaf
    drop: tuple[str, ...] = ()  # leaf extensions to leave out
    add: dict = field(default_factory=dict)  # leaf extensions to add or change
    signer: str = "leaf"

    @property
    def chip_id(self) -> bytes:
        size = 8 if self.product is Product.TURIN else 64
        return bytes(range(1, size + 1)).ljust(64, b"\0")

    @property
    def intermediate(self) -> bytes:
        stem = "SEV-VLEK" if self.kind is SigningKey.VLEK else "SEV"
        cert = Cert(
            subject=name(f"{stem}-{self.product}"),
            issuer=name(f"ARK-{self.product}"),
            key=rsa_key("ask"),
            signer=rsa_key("ark"),
            is_ca=True,
            cert_sign=True,
        )
        return replace(cert, **self.ask).der()

    @property
    def certificate(self) -> bytes:
        stem = "SEV-VLEK" if self.kind is SigningKey.VLEK else "SEV"
        extensions = levels(TCB[self.product], self.product)
        if self.kind is SigningKey.VCEK:
            extensions[f"{OID}.4"] = self.chip_id[: 8 if self.product is Product.TURIN else 64]
        else:
            extensions[f"{OID}.5"] = b"\x16\x07CN=fake"
        extensions |= self.add
        cert = Cert(
            subject=name(f"SEV-{self.kind.name}"),
            issuer=name(f"{stem}-{self.product}"),
            key=ec_key("leaf"),
            signer=rsa_key("ask"),
            serial=1,
            extensions=tuple(
                (oid, value, False) for oid, value in extensions.items() if oid not in self.drop
            ),
        )
        return replace(cert, **self.leaf).der()

    def report(self, **changes: object) -> SnpReport:
        tcb = pack_tcb(TCB[self.product], self.product)
        report = SnpReport(
            version=3,
            policy=GuestPolicy.RESERVED_ONE | GuestPolicy.SMT,
            cpuid=CPUID[self.product],
            chip_id=self.chip_id if self.kind is SigningKey.VCEK else bytes(64),
            signing_key=self.kind,
            current_tcb=tcb,
            reported_tcb=tcb,
            committed_tcb=tcb,
            launch_tcb=tcb,
            platform_info=0x25,
        )
        return replace(report, **changes)

    def sign(self, report: SnpReport) -> bytes:
        signed = pack_report(report)[:SIGNED_SIZE]
        r, s = decode_dss_signature(ec_key(self.signer).sign(signed, ec.ECDSA(hashes.SHA384())))
        return signed + (r.to_bytes(72, "little") + s.to_bytes(72, "little")).ljust(512, b"\0")

    def evidence(
        self, raw: bytes | None = None, *, root: bytes | None = None, **changes: object
    ) -> UnverifiedSnp:
        return read_snp_parts(
            raw if raw is not None else self.sign(self.report(**changes)),
            leaf=self.certificate,
            intermediate=self.intermediate,
            root=root or mint_root(self.product),
        )

    def payload(self, **changes: object) -> bytes:
        kind = CertKind[self.kind.name]
        table = {
            kind: self.certificate,
            CertKind.ASK: self.intermediate,
            CertKind.ARK: mint_root(self.product),
        }
        return pack_evidence(self.sign(self.report(**changes)), pack_cert_table(table))


def mint_crl(
    *serials: int,
    product: Product = Product.MILAN,
    issuer: str = "",
    signer: str = "ark",
    this_update: datetime = datetime(2026, 5, 1, tzinfo=UTC),
    next_update: datetime = datetime(2026, 7, 1, tzinfo=UTC),
    critical: str = "",
) -> bytes:
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(name(issuer or f"ARK-{product}"))
        .last_update(this_update)
        .next_update(next_update)
    )
    for serial in serials:
        revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(this_update)
        builder = builder.add_revoked_certificate(revoked.build())
    if critical:
        extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(critical), b"\5\0")
        builder = builder.add_extension(extension, critical=True)
    pss = padding.PSS(mgf=padding.MGF1(hashes.SHA384()), salt_length=48)
    crl = builder.sign(rsa_key(signer), hashes.SHA384(), rsa_padding=pss)
    return crl.public_bytes(serialization.Encoding.DER)
