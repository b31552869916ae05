"""SNP evidence as Trustee sends it: the sev crate's structures in JSON, to and from the report's bytes.

The bytes are what AMD signed, so they are rebuilt exactly; what the JSON does not carry, the reserved
bytes, was zero if the signature holds.

Source: virtee/sev 7, `AttestationReport` and `CertTableEntry`; confidential-containers/trustee,
deps/verifier, `SnpEvidence`.
"""

from __future__ import annotations

from dataclasses import dataclass

from krunpy.core.errors import FormatError
from krunpy.core.octets import Digest48, HostData, LaunchDigest, ReportData
from krunpy.formats.narrow import Fields
from krunpy.formats.snp_certs import LARGEST_TABLE, CertKind
from krunpy.formats.snp_report import SigningKey, SnpReport, pack_report, parse_report
from krunpy.formats.snp_tcb import Product, Tcb, find_product, pack_tcb, parse_tcb

_U8, _U32, _U64 = (1 << 8) - 1, (1 << 32) - 1, (1 << 64) - 1
_HIGHEST_KEY_INFO = 0x1F
_MOST_CERTIFICATES = 32
_FIRST_WITH_CPUID, _FIRST_WITH_MITIGATIONS = 3, 5  # report versions
_TCBS = ("current_tcb", "reported_tcb", "committed_tcb", "launch_tcb")
_OCTETS = {
    "family_id": 16,
    "image_id": 16,
    "report_data": 64,
    "measurement": 48,
    "host_data": 32,
    "id_key_digest": 48,
    "author_key_digest": 48,
    "report_id": 32,
    "report_id_ma": 32,
    "chip_id": 64,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpEvidence:
    """A report's bytes and the certificates that came with it, by kind, in DER."""

    report: bytes
    blobs: dict[CertKind, bytes]


def _take_octets(fields: Fields, name: str, size: int) -> bytes:
    octets = bytes(fields.take_integers(name, limit=size, maximum=_U8))
    if len(octets) != size:
        raise FormatError(
            f"cannot read {fields.where}.{name}", why=f"seen {len(octets)} bytes, wanted {size}"
        )
    return octets


def _take_optional(fields: Fields, name: str, maximum: int) -> int | None:
    """Return an integer, None where it is null or left out, as Rust's serde reads an Option."""
    value = fields.take(name) if fields.has(name) else None
    if value is None:
        return None
    return Fields({name: value}, fields.where).take_integer(name, maximum=maximum)


def _take_tcb(fields: Fields, name: str) -> bytes:
    members = fields.take_fields(name)
    fmc = _take_optional(members, "fmc", _U8)
    levels = {
        level: members.take_integer(level, maximum=_U8) for level in ("bootloader", "tee", "snp", "microcode")
    }
    members.require_no_more()
    # only Turin has an fmc, and only its TCB is laid out so
    product = Product.MILAN if fmc is None else Product.TURIN
    return pack_tcb(Tcb(fmc=fmc or 0, **levels), product)


def _take_firmware(fields: Fields, name: str) -> tuple[int, int, int]:
    members = fields.take_fields(name)
    version = (
        members.take_integer("major", maximum=_U8),
        members.take_integer("minor", maximum=_U8),
        members.take_integer("build", maximum=_U8),
    )
    members.require_no_more()
    return version


def _take_key_info(fields: Fields) -> tuple[bool, bool, SigningKey]:
    key_info = fields.take_integer("key_info", maximum=_HIGHEST_KEY_INFO)
    try:
        return bool(key_info & 1), bool(key_info & 2), SigningKey(key_info >> 2)
    except ValueError as error:
        raise FormatError(
            f"cannot read {fields.where}.key_info", why=f"seen {key_info}, wanted SIGNING_KEY 0, 1 or 7"
        ) from error


def _read_report(fields: Fields) -> SnpReport:
    octets = {name: _take_octets(fields, name, size) for name, size in _OCTETS.items()}
    tcbs = {name: _take_tcb(fields, name) for name in _TCBS}
    signature = fields.take_fields("signature")
    r, s = _take_octets(signature, "r", 72), _take_octets(signature, "s", 72)
    signature.require_no_more()
    has_author_key, masks_chip_key, signing_key = _take_key_info(fields)
    family, model, stepping = (
        _take_optional(fields, name, _U8) or 0 for name in ("cpuid_fam_id", "cpuid_mod_id", "cpuid_step")
    )
    return SnpReport(
        version=fields.take_integer("version", maximum=_U32),
        guest_svn=fields.take_integer("guest_svn", maximum=_U32),
        policy=fields.take_integer("policy", maximum=_U64),
        family_id=octets["family_id"],
        image_id=octets["image_id"],
        vmpl=fields.take_integer("vmpl", maximum=_U32),
        signature_algorithm=fields.take_integer("sig_algo", maximum=_U32),
        platform_info=fields.take_integer("plat_info", maximum=_U64),
        has_author_key=has_author_key,
        masks_chip_key=masks_chip_key,
        signing_key=signing_key,
        report_data=ReportData(octets["report_data"]),
        measurement=LaunchDigest(octets["measurement"]),
        host_data=HostData(octets["host_data"]),
        id_key_digest=Digest48(octets["id_key_digest"]),
        author_key_digest=Digest48(octets["author_key_digest"]),
        report_id=octets["report_id"],
        report_id_ma=octets["report_id_ma"],
        cpuid=(family, model, stepping),
        chip_id=octets["chip_id"],
        current_firmware=_take_firmware(fields, "current"),
        committed_firmware=_take_firmware(fields, "committed"),
        launch_mit_vector=_take_optional(fields, "launch_mit_vector", _U64) or 0,
        current_mit_vector=_take_optional(fields, "current_mit_vector", _U64) or 0,
        signature_r=r,
        signature_s=s,
        **tcbs,
    )


def _read_chain(fields: Fields) -> dict[CertKind, bytes]:
    """Return the certificates by kind; kinds that AMD's table does not name are left out."""
    blobs: dict[CertKind, bytes] = {}
    chain = fields.take("cert_chain") if fields.has("cert_chain") else None
    if chain is None:
        return blobs
    entries = Fields({"cert_chain": chain}, fields.where)
    for entry in entries.take_objects("cert_chain", limit=_MOST_CERTIFICATES):
        data = bytes(entry.take_integers("data", limit=LARGEST_TABLE, maximum=_U8))
        name = entry.take("cert_type")
        entry.require_no_more()
        if not isinstance(name, str) or name not in CertKind.__members__:
            continue  # {"OTHER": GUID}, or "Empty"
        kind = CertKind[name]
        if kind in blobs:
            raise FormatError(f"cannot read {entry.where}", why=f"seen {name} twice")
        blobs[kind] = data
    return blobs


def parse_sev_evidence(fields: Fields) -> SnpEvidence:
    """Return the report's bytes and the certificates of {"attestation_report": ..., "cert_chain": ...}.

    Raises FormatError on a member that is missing, unknown, of another type, or out of range.
    """
    members = fields.take_fields("attestation_report")
    report = _read_report(members)
    members.require_no_more()
    blobs = _read_chain(fields)
    fields.require_no_more()
    return SnpEvidence(report=pack_report(report), blobs=blobs)


def make_sev_evidence(evidence: SnpEvidence) -> dict[str, object]:
    """Return the JSON object for a report and certificates; the inverse of `parse_sev_evidence`.

    Raises FormatError if the bytes are not a report.
    """
    report = parse_report(evidence.report)
    family, model, stepping = report.cpuid
    has_cpuid = report.version >= _FIRST_WITH_CPUID
    has_mitigations = report.version >= _FIRST_WITH_MITIGATIONS
    product = (find_product(family, model) if has_cpuid else None) or Product.MILAN
    members: dict[str, object] = {
        "version": report.version,
        "guest_svn": report.guest_svn,
        "policy": report.policy,
        "vmpl": report.vmpl,
        "sig_algo": report.signature_algorithm,
        "plat_info": report.platform_info,
        "key_info": report.has_author_key | report.masks_chip_key << 1 | report.signing_key << 2,
        "cpuid_fam_id": family if has_cpuid else None,
        "cpuid_mod_id": model if has_cpuid else None,
        "cpuid_step": stepping if has_cpuid else None,
        "current": _make_firmware(report.current_firmware),
        "committed": _make_firmware(report.committed_firmware),
        "launch_mit_vector": report.launch_mit_vector if has_mitigations else None,
        "current_mit_vector": report.current_mit_vector if has_mitigations else None,
        "signature": {"r": list(report.signature_r), "s": list(report.signature_s)},
    }
    members |= {name: list(getattr(report, name)) for name in _OCTETS}
    members |= {name: _make_tcb(getattr(report, name), product) for name in _TCBS}
    chain = [{"cert_type": kind.name, "data": list(data)} for kind, data in evidence.blobs.items()]
    return {"attestation_report": members, "cert_chain": chain or None}


def _make_firmware(version: tuple[int, int, int]) -> dict[str, int]:
    return dict(zip(("major", "minor", "build"), version, strict=True))


def _make_tcb(raw: bytes, product: Product) -> dict[str, int | None]:
    tcb = parse_tcb(raw, product)
    return {
        "fmc": tcb.fmc if product is Product.TURIN else None,
        "bootloader": tcb.bootloader,
        "tee": tcb.tee,
        "snp": tcb.snp,
        "microcode": tcb.microcode,
    }
