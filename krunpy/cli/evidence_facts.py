"""Every field of an SNP report and of its certificates, for people: name, value, meaning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from krunpy.core.errors import FormatError
from krunpy.formats import snp_simulated
from krunpy.formats.snp_report import VMPL_OF_HOST, GuestPolicy, PlatformInfo, SigningKey, SnpReport
from krunpy.formats.snp_tcb import Product, find_product, parse_tcb
from krunpy.formats.x509 import parse_certificate

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from krunpy.formats.snp_certs import CertKind

_FIRST_WITH_CPUID, _FIRST_WITH_MITIGATIONS = 3, 5  # report versions
_MEANINGS_OF_POLICY = {
    GuestPolicy.SMT: "hyper-threading is allowed",
    GuestPolicy.RESERVED_ONE: "always set",
    GuestPolicy.MIGRATE_MA: "a migration agent may move the guest",
    GuestPolicy.DEBUG: "the host may read the guest's memory",
    GuestPolicy.SINGLE_SOCKET: "it may run on one socket only",
    GuestPolicy.CXL_ALLOW: "CXL memory is allowed",
    GuestPolicy.MEM_AES_256_XTS: "memory must be encrypted with AES-256-XTS",
    GuestPolicy.RAPL_DIS: "power measurement must be off",
    GuestPolicy.CIPHERTEXT_HIDING_DRAM: "ciphertext in memory must be hidden from the host",
    GuestPolicy.PAGE_SWAP_DISABLE: "the host may not swap pages out",
}
_MEANINGS_OF_PLATFORM = {
    PlatformInfo.SMT_ENABLED: "hyper-threading is on",
    PlatformInfo.TSME_ENABLED: "transparent memory encryption is on",
    PlatformInfo.ECC_ENABLED: "memory corrects errors",
    PlatformInfo.RAPL_DISABLED: "power measurement is off",
    PlatformInfo.CIPHERTEXT_HIDING_ENABLED: "ciphertext in memory is hidden from the host",
    PlatformInfo.ALIAS_CHECK_COMPLETE: "memory was checked for aliases (BadRAM)",
    PlatformInfo.IOMMU_WRITE_SAFE: "devices cannot write to guest memory past the IOMMU",
    PlatformInfo.TIO_ENABLED: "trusted I/O is on",
}
_KNOWN_PLATFORM_INFO = sum(PlatformInfo)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One field. is_part: it is a part, a bit or a component, of the field before it."""

    name: str
    value: str
    meaning: str = ""
    is_part: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Fields that belong together, under a title."""

    title: str
    facts: tuple[Fact, ...]


def describe_report(report: SnpReport) -> Section:
    """Return every field of a report, in its order."""
    return Section(
        title="SNP attestation report",
        facts=(*_list_guest(report), *_list_identity(report), *_list_platform(report)),
    )


def describe_bits(
    value: int, meanings: Mapping[PlatformInfo, str] | Mapping[GuestPolicy, str]
) -> Iterator[Fact]:
    """Yield one fact for each known bit, set or not."""
    for bit, meaning in meanings.items():
        is_set = bool(value & bit)
        yield Fact(
            name=str(bit.name), value=str(int(is_set)), meaning=meaning if is_set else "", is_part=True
        )


def _list_guest(report: SnpReport) -> Iterator[Fact]:
    yield Fact(name="version", value=str(report.version))
    yield Fact(name="guest_svn", value=str(report.guest_svn), meaning="security version in the ID block")
    major, minor = report.abi_version
    yield Fact(
        name="policy", value=f"{report.policy:#x}", meaning=f"asks for firmware ABI {major}.{minor} at least"
    )
    yield from describe_bits(report.policy, _MEANINGS_OF_POLICY)
    yield Fact(name="vmpl", value=str(report.vmpl), meaning=_explain_vmpl(report.vmpl))
    yield Fact(
        name="report_data", value=report.report_data.hex(), meaning="chosen by the guest: challenge and keys"
    )
    yield Fact(
        name="measurement", value=report.measurement.hex(), meaning="launch digest: what was loaded at start"
    )
    yield Fact(name="host_data", value=report.host_data.hex(), meaning="chosen by the host at launch")


def _explain_vmpl(vmpl: int) -> str:
    if vmpl == VMPL_OF_HOST:
        return "the host asked for the report: the guest did not choose report_data"
    return "most privileged" if vmpl == 0 else "below the most privileged level, 0"


def _list_identity(report: SnpReport) -> Iterator[Fact]:
    family_id = (
        "a software TEE signed it" if report.family_id == snp_simulated.FAMILY_ID else "from the ID block"
    )
    yield Fact(name="family_id", value=report.family_id.hex(), meaning=family_id)
    yield Fact(name="image_id", value=report.image_id.hex(), meaning="from the ID block")
    yield Fact(name="id_key_digest", value=report.id_key_digest.hex(), meaning="key that signed the ID block")
    author = "key that signed the ID key" if report.has_author_key else "AUTHOR_KEY_EN is 0: no author key"
    yield Fact(name="author_key_digest", value=report.author_key_digest.hex(), meaning=author)
    yield Fact(
        name="report_id", value=report.report_id.hex(), meaning="of this guest, for as long as it runs"
    )
    has_agent = report.report_id_ma != b"\xff" * len(report.report_id_ma)
    agent = "of its migration agent" if has_agent else "no migration agent"
    yield Fact(name="report_id_ma", value=report.report_id_ma.hex(), meaning=agent)
    yield Fact(name="signing_key", value=report.signing_key.name, meaning=_explain_key(report))
    masks = "the key is not used" if report.masks_chip_key else ""
    yield Fact(name="mask_chip_key", value=str(int(report.masks_chip_key)), meaning=masks)
    chip = "" if any(report.chip_id) else "masked: the chip is not named"
    yield Fact(name="chip_id", value=report.chip_id.hex(), meaning=chip)


def _explain_key(report: SnpReport) -> str:
    match report.signing_key:
        case SigningKey.VCEK:
            return "the chip's own key"
        case SigningKey.VLEK:
            return "a key that AMD gave to the cloud provider"
        case SigningKey.NONE:
            return "no key signed it"


def find_report_product(report: SnpReport) -> Product | None:
    """Return the product that CPUID names, None before version 3 or for an unknown one."""
    family, model, _ = report.cpuid
    return find_product(family, model) if report.version >= _FIRST_WITH_CPUID else None


def _list_platform(report: SnpReport) -> Iterator[Fact]:
    product = find_report_product(report)
    if report.version < _FIRST_WITH_CPUID:
        yield Fact(name="product", value="not stated", meaning="before version 3; the certificate names it")
    else:
        family, model, stepping = report.cpuid
        cpuid = f"family {family:#x}, model {model:#x}, stepping {stepping}"
        yield Fact(name="product", value=str(product or "unknown"), meaning=cpuid)
    for name, raw in (
        ("current_tcb", report.current_tcb),
        ("reported_tcb", report.reported_tcb),
        ("committed_tcb", report.committed_tcb),
        ("launch_tcb", report.launch_tcb),
    ):
        # Milan and Genoa, the only ones of version 2 that can be told, lay it out alike
        is_known = product is not None or report.version < _FIRST_WITH_CPUID
        yield Fact(
            name=name,
            value=raw.hex(),
            meaning=_explain_tcb(raw, product or Product.MILAN) if is_known else "",
        )
    for name, version in (
        ("current_firmware", report.current_firmware),
        ("committed_firmware", report.committed_firmware),
    ):
        yield Fact(name=name, value=".".join(str(part) for part in version))
    yield Fact(name="platform_info", value=f"{report.platform_info:#x}")
    yield from describe_bits(report.platform_info, _MEANINGS_OF_PLATFORM)
    if unknown := report.platform_info & ~_KNOWN_PLATFORM_INFO:
        yield Fact(name="unknown bits", value=f"{unknown:#x}", is_part=True)
    if report.version >= _FIRST_WITH_MITIGATIONS:
        yield Fact(name="launch_mit_vector", value=f"{report.launch_mit_vector:#x}")
        yield Fact(name="current_mit_vector", value=f"{report.current_mit_vector:#x}")
    yield Fact(name="signature_r", value=report.signature_r.hex(), meaning="ECDSA P-384, little-endian")
    yield Fact(name="signature_s", value=report.signature_s.hex())


def _explain_tcb(raw: bytes, product: Product) -> str:
    try:
        return str(parse_tcb(raw, product))
    except FormatError as error:
        return error.why


def describe_certificates(blobs: Mapping[CertKind, bytes]) -> Iterator[Section]:
    """Yield a section on the certificates that came along, if there are any."""
    if not blobs:
        return
    facts = []
    for kind, der in blobs.items():
        try:
            certificate = parse_certificate(der)
            meaning = (
                f"{certificate.subject.common_name}, issued by {certificate.issuer.common_name}, "
                f"{certificate.not_before:%Y-%m-%d} to {certificate.not_after:%Y-%m-%d}"
            )
        except FormatError as error:
            meaning = "a revocation list" if kind.name == "CRL" else f"cannot be read: {error.why}"
        facts.append(Fact(name=kind.name, value=f"{len(der)} bytes", meaning=meaning))
    yield Section(title="certificates that came with it", facts=tuple(facts))
