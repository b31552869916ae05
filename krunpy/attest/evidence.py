"""SNP evidence as it came: bytes beside their reading, none of it verified."""

from __future__ import annotations

from dataclasses import dataclass

from krunpy.attest.refusal import Refusal, Stage
from krunpy.core.errors import FormatError
from krunpy.formats.snp_certs import LEAF_KINDS, CertKind, parse_cert_table, parse_evidence
from krunpy.formats.snp_report import SigningKey, SnpReport, parse_report


@dataclass(frozen=True, slots=True, kw_only=True)
class UnverifiedSnp:
    """A report and the certificates that came with it, in DER; nothing says yet that they are true.

    raw: the report's 1184 bytes, which the signature is over; report: the same, read.
    """

    raw: bytes
    report: SnpReport
    leaf: bytes
    intermediate: bytes | None
    root: bytes | None
    crls: tuple[bytes, ...]


def _read_report(raw: bytes) -> SnpReport:
    try:
        report = parse_report(raw)
    except FormatError as error:
        raise Refusal(Stage.PARSE, "report-format", why=error.why) from error
    if report.signing_key is SigningKey.NONE:
        raise Refusal(Stage.PARSE, "report-unsigned", why="the report says that no key signed it")
    return report


def read_snp_parts(
    report: bytes,
    *,
    leaf: bytes,
    intermediate: bytes | None,
    root: bytes | None,
    crls: tuple[bytes, ...] = (),
) -> UnverifiedSnp:
    """Return evidence from a report and certificates in DER that came separately.

    Raises Refusal (stage parse) if the report is not one, or is unsigned.
    """
    return UnverifiedSnp(
        raw=report,
        report=_read_report(report),
        leaf=leaf,
        intermediate=intermediate,
        root=root,
        crls=crls,
    )


def read_snp_evidence(payload: bytes) -> UnverifiedSnp:
    """Return evidence from an EVIDENCE payload: a report and a GHCB certificate table.

    Raises Refusal: stage parse if a part cannot be read, stage chain if the key's certificate is missing.
    """
    try:
        raw, table = parse_evidence(payload)
        blobs = parse_cert_table(table).blobs
    except FormatError as error:
        raise Refusal(Stage.PARSE, "evidence-format", why=error.why) from error
    report = _read_report(raw)
    kind = LEAF_KINDS[report.signing_key]
    if kind not in blobs:
        raise Refusal(
            Stage.CHAIN,
            "chain-missing",
            why=f"the evidence came without the {kind.name} certificate",
            next="install the certificates on the host with `snphost import`, or give the server AMD's",
        )
    crl = blobs.get(CertKind.CRL)
    return UnverifiedSnp(
        raw=raw,
        report=report,
        leaf=blobs[kind],
        intermediate=blobs.get(CertKind.ASK),
        root=blobs.get(CertKind.ARK),
        crls=() if crl is None else (crl,),
    )
