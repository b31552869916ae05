"""Evidence of an Azure confidential VM, `az-snp-vtpm` and `az-tdx-vtpm`, versions 0 to 2.

Three things in one JSON object: the HCL report, a quote of the virtual TPM, and what vouches for the hardware
report (a VCEK, or a TDX quote).

Source: confidential-containers/trustee, deps/verifier, az_snp_vtpm/compat.rs and az_tdx_vtpm/compat.rs.
"""

from __future__ import annotations

from dataclasses import dataclass

from krunpy.core.errors import FormatError
from krunpy.formats.evidence_hcl import LARGEST_HCL, HardwareReport, HclReport, parse_hcl_report
from krunpy.formats.evidence_text import decode_hex, take_base64, take_hex
from krunpy.formats.narrow import Fields
from krunpy.formats.tdx_quote import LARGEST_QUOTE
from krunpy.formats.tpm_quote import LARGEST_MESSAGE

PCR_COUNT = 24
PCR_SIZE = 32  # bytes, SHA-256

_U8 = 255
_LARGEST_SIGNATURE = 1024  # bytes
_LARGEST_VEK = 16384  # bytes
_VERSIONS = (1, 2)  # that state themselves


@dataclass(frozen=True, slots=True, kw_only=True)
class AzureEvidence:
    """The parts of the JSON object.

    version:   of the encoding; from 2 on the runtime data's user data must be the challenge.
    message:   a TPMS_ATTEST, which `signature` is over; pcrs: the values of SHA-256 PCR 0 to 23.
    vek:       the VCEK in DER, in PEM in version 0; empty for TDX.
    td_quote:  empty for SNP.
    """

    version: int
    hcl: HclReport
    message: bytes
    signature: bytes
    pcrs: tuple[bytes, ...]
    vek: bytes
    td_quote: bytes


def _take_bytes(fields: Fields, name: str, limit: int) -> bytes:
    return bytes(fields.take_integers(name, limit=limit, maximum=_U8))


def _take_pem(fields: Fields) -> bytes:
    text = fields.take_string("vcek")
    if len(text) > _LARGEST_VEK or not text.isascii():
        raise FormatError(
            f"cannot read {fields.where}.vcek", why=f"it is no PEM of at most {_LARGEST_VEK} bytes"
        )
    return text.encode("ascii")


def _read_quote(fields: Fields) -> tuple[bytes, bytes, tuple[bytes, ...]]:
    """Return the message, the signature and the registers, in hex as versions 1 and 2 write them."""
    message = take_hex(fields, "message", LARGEST_MESSAGE)
    signature = take_hex(fields, "signature", _LARGEST_SIGNATURE)
    texts = fields.take_strings("pcrs", limit=PCR_COUNT)
    return (
        message,
        signature,
        _require_registers([decode_hex(text, f"{fields.where}.pcrs") for text in texts]),
    )


def _read_quote_of_numbers(fields: Fields) -> tuple[bytes, bytes, tuple[bytes, ...]]:
    """Return the message, the signature and the registers, in integers as version 0 writes them."""
    message = _take_bytes(fields, "message", LARGEST_MESSAGE)
    signature = _take_bytes(fields, "signature", _LARGEST_SIGNATURE)
    lists = fields.take_list("pcrs", limit=PCR_COUNT)
    values = [_take_bytes(Fields({"pcr": item}, f"{fields.where}.pcrs"), "pcr", PCR_SIZE) for item in lists]
    return message, signature, _require_registers(values)


def _require_registers(values: list[bytes]) -> tuple[bytes, ...]:
    if len(values) != PCR_COUNT or any(len(value) != PCR_SIZE for value in values):
        raise FormatError(
            "cannot read the TPM's registers", why=f"wanted {PCR_COUNT} values of {PCR_SIZE} bytes"
        )
    return tuple(values)


def parse_azure_evidence(fields: Fields) -> AzureEvidence:
    """Return the parts of az-snp-vtpm or az-tdx-vtpm evidence.

    Raises FormatError on a member that is missing, unknown or malformed, and where the HCL report is not of
    the kind that the other members are for.
    """
    version = (
        fields.take_integer("version", maximum=_VERSIONS[-1], minimum=_VERSIONS[0])
        if fields.has("version")
        else 0
    )
    is_tdx = fields.has("td_quote")
    vek = td_quote = b""
    if version:
        quote = fields.take_fields("tpm_quote")
        message, signature, pcrs = _read_quote(quote)
        raw = take_base64(fields, "hcl_report", LARGEST_HCL)
        if is_tdx:
            td_quote = take_base64(fields, "td_quote", LARGEST_QUOTE)
        else:
            vek = take_base64(fields, "vcek", _LARGEST_VEK)
    else:
        quote = fields.take_fields("tpm_quote" if is_tdx else "quote")
        message, signature, pcrs = _read_quote_of_numbers(quote)
        raw = _take_bytes(fields, "hcl_report" if is_tdx else "report", LARGEST_HCL)
        if is_tdx:
            td_quote = _take_bytes(fields, "td_quote", LARGEST_QUOTE)
        else:
            vek = _take_pem(fields)
    quote.require_no_more()
    fields.require_no_more()
    hcl = parse_hcl_report(raw)
    if (hcl.kind is HardwareReport.TDX) is not is_tdx:
        raise FormatError(
            "cannot read Azure evidence", why=f"seen an HCL report of {hcl.kind.name} with the other's parts"
        )
    return AzureEvidence(
        version=version,
        hcl=hcl,
        message=message,
        signature=signature,
        pcrs=pcrs,
        vek=vek,
        td_quote=td_quote,
    )
