"""Which collateral evidence needs, and evidence made whole with it.

What is read here is not verified yet: it only says what to look for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from krunpy.client.collateral_check import PCK_AUTHORITIES
from krunpy.client.collateral_http import CollateralError
from krunpy.client.collateral_item import AmdChain, AmdCrl, list_tdx_items, make_vcek
from krunpy.core.errors import FormatError, HostError
from krunpy.formats.evidence_azure import AzureEvidence
from krunpy.formats.evidence_encodings import TdxEvidence, recognise_evidence
from krunpy.formats.evidence_hcl import HardwareReport
from krunpy.formats.evidence_sev import SnpEvidence
from krunpy.formats.pck_chain import parse_pem_chain
from krunpy.formats.pck_extension import OID_SGX_EXTENSION, parse_pck_extension
from krunpy.formats.snp_certs import (
    LEAF_KINDS,
    CertKind,
    pack_cert_table,
    pack_evidence,
    parse_cert_table,
    parse_evidence,
)
from krunpy.formats.snp_report import SigningKey, parse_report
from krunpy.formats.snp_tcb import Product, find_product, parse_tcb
from krunpy.formats.tdx_collateral import pack_tdx_collateral
from krunpy.formats.tdx_quote import parse_tdx_quote
from krunpy.formats.x509 import parse_certificate

if TYPE_CHECKING:
    from collections.abc import Callable

    from krunpy.client.collateral import CollateralClient
    from krunpy.client.collateral_item import Item, PckCa, Vcek
    from krunpy.core.errors import KrunpyError
    from krunpy.formats.snp_report import SnpReport

_FIRST_WITH_CPUID = 3  # report version
_ISSUERS = {f"{stem}-{product}": product for stem in ("SEV", "SEV-VLEK") for product in Product}


def list_needed(data: bytes, product: Product | None = None) -> tuple[Item, ...]:
    """Return the collateral that evidence in any encoding needs and does not bring.

    product: for reports of version 2 without a certificate, which do not say it.

    Raises FormatError if the evidence cannot be read, or does not say what it needs.
    """
    evidence = recognise_evidence(data).evidence
    match evidence:
        case TdxEvidence():
            return list_tdx_items(*_read_platform(evidence.quote))
        case SnpEvidence():
            return _list_report_items(evidence.report, evidence.blobs, product)
        case AzureEvidence() if evidence.hcl.kind is HardwareReport.TDX:
            return list_tdx_items(*_read_platform(evidence.td_quote))
        case _:
            return _list_report_items(evidence.hcl.hardware_report, {}, product)


def _read_platform(quote: bytes) -> tuple[bytes, PckCa]:
    leaf = parse_certificate(parse_pem_chain(parse_tdx_quote(quote).pck_chain)[0])
    extension = leaf.extensions.get(OID_SGX_EXTENSION)
    ca = PCK_AUTHORITIES.get(leaf.issuer.common_name)
    if extension is None or ca is None:
        raise FormatError(
            "cannot say which collateral the quote needs",
            why=f'seen a certificate issued by "{leaf.issuer.common_name[:80]}", wanted a PCK certificate',
        )
    return parse_pck_extension(extension.value).fmspc, ca


def _list_report_items(raw: bytes, blobs: dict[CertKind, bytes], product: Product | None) -> tuple[Item, ...]:
    report = parse_report(raw)
    product = _find_product(report, blobs, product)
    key = report.signing_key
    if key is SigningKey.NONE:
        raise FormatError("cannot say which collateral the report needs", why="no key signed it")
    common: tuple[Item, ...] = (AmdChain(product=product, key=key), AmdCrl(product=product, key=key))
    if key is SigningKey.VLEK or CertKind.VCEK in blobs:
        return common  # a VLEK comes with the evidence, or not at all: AMD hands it to clouds alone
    return (_name_vcek(report, product), *common)


def _name_vcek(report: SnpReport, product: Product) -> Vcek:
    return make_vcek(product, report.chip_id, parse_tcb(report.reported_tcb, product))


def _find_product(report: SnpReport, blobs: dict[CertKind, bytes], given: Product | None) -> Product:
    """Return the product that a report states, else its certificate, else the caller."""
    if report.version >= _FIRST_WITH_CPUID:
        family, model, _ = report.cpuid
        stated = find_product(family, model)
        if stated is None:
            raise FormatError(
                "cannot say which collateral the report needs",
                why=f"seen CPUID family {family:#x} model {model:#x}, for which no root is known",
            )
    else:
        leaf = blobs.get(LEAF_KINDS.get(report.signing_key, CertKind.VCEK))
        stated = None if leaf is None else _ISSUERS.get(parse_certificate(leaf).issuer.common_name)
    found = stated or given
    if found is None or (given is not None and found is not given):
        raise FormatError(
            "cannot say which collateral the report needs",
            why=f"it states {stated or 'no product'}, and {given or 'none'} was given",
            next="name the product: --product Milan, Genoa or Turin",
        )
    return found


class EvidenceCollateral:
    """Collateral for EVIDENCE payloads, as an attestation server asks for it. Safe for threads.

    What cannot be had now is None or empty, and the reason is noted; what cannot be read is left for the
    verifier to refuse.
    """

    def __init__(self, client: CollateralClient, note: Callable[[KrunpyError], None]) -> None:
        """Take who fetches, and whom to tell of what cannot be had."""
        self._client = client
        self._note = note

    def complete_snp(self, payload: bytes, product: Product | None) -> bytes | None:
        """Return a payload with the VCEK that it came without; as it is, if AMD could not have one for it.

        product: for a report that does not say it.
        """
        try:
            raw, table = parse_evidence(payload)
            blobs = parse_cert_table(table).blobs
            report = parse_report(raw)
            if report.signing_key is not SigningKey.VCEK or CertKind.VCEK in blobs:
                return payload
            vcek = _name_vcek(report, _find_product(report, blobs, product))
        except FormatError:
            return payload
        contents = self._ask(lambda: self._client.fetch(vcek).contents)
        if contents is None:
            return None
        return pack_evidence(raw, pack_cert_table({CertKind.VCEK: contents, **blobs}))

    def find_crls(self, payload: bytes) -> tuple[bytes, ...]:
        """Return AMD's CRL for a payload, in DER."""
        try:
            raw, table = parse_evidence(payload)
            report, blobs = parse_report(raw), parse_cert_table(table).blobs
            crl = AmdCrl(product=_find_product(report, blobs, None), key=report.signing_key)
        except FormatError:
            return ()
        if crl.key is SigningKey.NONE:
            return ()
        contents = self._ask(lambda: self._client.fetch(crl).contents)
        return () if contents is None else (contents,)

    def find_tdx(self, payload: bytes) -> bytes | None:
        """Return the collateral document of a payload with a quote."""
        try:
            quote, _ = parse_evidence(payload)
            fmspc, ca = _read_platform(quote)
        except FormatError:
            return None
        return self._ask(lambda: pack_tdx_collateral(self._client.fetch_tdx(fmspc, ca)))

    def _ask(self, ask: Callable[[], bytes]) -> bytes | None:
        try:
            return ask()
        except (CollateralError, HostError) as error:  # HostError: the cache cannot be written
            self._note(error)
            return None
