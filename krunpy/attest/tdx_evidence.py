"""TDX evidence as it came: bytes beside their reading, none of it verified."""

from __future__ import annotations

from dataclasses import dataclass

from krunpy.attest.refusal import Refusal, Stage
from krunpy.core.errors import FormatError
from krunpy.formats.pck_chain import parse_pem_chain
from krunpy.formats.tdx_qe import QeReport, parse_qe_report
from krunpy.formats.tdx_quote import TdxQuote, parse_tdx_quote

INTEL_QE_VENDOR = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")


@dataclass(frozen=True, slots=True, kw_only=True)
class UnverifiedTdx:
    """A quote, its QE's report and its PCK chain in DER, leaf first; nothing says yet that they are true."""

    raw: bytes
    quote: TdxQuote
    qe: QeReport
    chain: tuple[bytes, ...]


def read_tdx_evidence(raw: bytes) -> UnverifiedTdx:
    """Return evidence from the bytes of a quote, which may have zero padding.

    Raises Refusal (stage parse) if it is no TDX quote of Intel's QE with a PCK chain.
    """
    try:
        quote = parse_tdx_quote(raw)
        qe = parse_qe_report(quote.qe_report)
        chain = parse_pem_chain(quote.pck_chain)
    except FormatError as error:
        raise Refusal(Stage.PARSE, "quote-format", why=error.why) from error
    if quote.qe_vendor != INTEL_QE_VENDOR:
        raise Refusal(
            Stage.PARSE,
            "qe-vendor",
            why=f"seen a QE of vendor {quote.qe_vendor.hex()}, wanted Intel's, {INTEL_QE_VENDOR.hex()}",
        )
    return UnverifiedTdx(raw=raw, quote=quote, qe=qe, chain=chain)
