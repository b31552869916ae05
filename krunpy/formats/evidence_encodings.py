"""Recognise evidence by its content, however it was written down.

Raw: an SNP report alone or with its certificate table (as the kernel and configfs-tsm give them, or in our
EVIDENCE payload), a TDX quote; JSON: Trustee's `snp`, `tdx`, `az-snp-vtpm` and `az-tdx-vtpm`. Each of them in
hex or base64 too. Nothing is verified.

Source: Linux, include/uapi/linux/sev-guest.h (snp_report_resp, snp_ext_report_req) and
Documentation/ABI/testing/configfs-tsm; confidential-containers/trustee, deps/verifier.
"""

from __future__ import annotations

import base64
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, assert_never

from krunpy.core.errors import FormatError
from krunpy.formats.evidence_azure import AzureEvidence, parse_azure_evidence
from krunpy.formats.evidence_hcl import HardwareReport
from krunpy.formats.evidence_sev import SnpEvidence, parse_sev_evidence
from krunpy.formats.evidence_text import find_text, take_base64
from krunpy.formats.narrow import Fields
from krunpy.formats.snp_certs import parse_cert_table, parse_evidence
from krunpy.formats.snp_report import REPORT_SIZE
from krunpy.formats.tdx_json import parse_signed_json
from krunpy.formats.tdx_quote import KEY_TYPE_ECDSA_P256, LARGEST_QUOTE, TEE_TYPE_TDX

if TYPE_CHECKING:
    from collections.abc import Callable

LARGEST_EVIDENCE = 4 * 1024 * 1024  # bytes; JSON with an event log of 1 MiB in base64 fits, in base64 again

_QUOTE_HEAD = struct.Struct("<HHI")  # version, key type, TEE type
_PAYLOAD_HEAD = struct.Struct("<I")
_RESPONSE_HEAD = struct.Struct("<II24x")  # of the firmware's MSG_REPORT_RSP: status, report size
_QUOTE_VERSIONS = frozenset({4, 5})
_LARGEST_EVENT_LOG = 1024 * 1024  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class TdxEvidence:
    """A quote's bytes, and the event log (CCEL) that came with it; empty if none did."""

    quote: bytes
    event_log: bytes = b""


Evidence: TypeAlias = SnpEvidence | TdxEvidence | AzureEvidence


def is_of_tdx(evidence: Evidence) -> bool:
    """Return whether evidence is about a TD, rather than an SNP guest."""
    match evidence:
        case SnpEvidence():
            return False
        case TdxEvidence():
            return True
        case AzureEvidence():
            return evidence.hcl.kind is HardwareReport.TDX
        case _:
            assert_never(evidence)


@dataclass(frozen=True, slots=True, kw_only=True)
class RecognisedEvidence:
    """Evidence, and for people how it was written: "SNP report and certificate table", "base64"."""

    evidence: Evidence
    encoding: str
    wrapping: str = ""


def _refuse(why: str) -> FormatError:
    return FormatError(
        "cannot recognise the evidence",
        why=why,
        next="give a report, a quote, or the JSON that Trustee takes",
    )


def recognise_evidence(data: bytes) -> RecognisedEvidence:
    """Return the evidence in these bytes, and which encoding they are.

    data: at most 4 MiB.

    Raises FormatError if they are no encoding known here, or are one and malformed. The report or quote inside
    is not read.
    """
    if len(data) > LARGEST_EVIDENCE:
        raise _refuse(f"seen {len(data)} bytes, wanted at most {LARGEST_EVIDENCE}")
    if data.lstrip()[:1] == b"{":
        return _recognise_json(data)
    found = _recognise_binary(data)
    if found is not None:
        return found
    text = find_text(data)
    if text is None:
        raise _refuse(_say_what_was_seen(data))
    wrapping, inner = text
    found = _recognise_json(inner) if inner.lstrip()[:1] == b"{" else _recognise_binary(inner)
    if found is None:
        raise _refuse(f"it is {wrapping}, and in it {_say_what_was_seen(inner)}")
    return RecognisedEvidence(evidence=found.evidence, encoding=found.encoding, wrapping=wrapping)


def _say_what_was_seen(data: bytes) -> str:
    if not data:
        return "seen no bytes"
    return (
        f"seen {len(data)} bytes that start with {data[:8].hex()}, "
        f"wanted a report of {REPORT_SIZE} bytes, a TDX quote or JSON"
    )


# --- bytes


def _recognise_binary(data: bytes) -> RecognisedEvidence | None:
    if len(data) >= _QUOTE_HEAD.size and _starts_quote(data):
        return RecognisedEvidence(evidence=TdxEvidence(quote=data), encoding="TDX quote")
    found = _recognise_payload(data)
    if found is not None:
        return found
    if len(data) >= _RESPONSE_HEAD.size + REPORT_SIZE and _RESPONSE_HEAD.unpack_from(data) == (
        0,
        REPORT_SIZE,
    ):
        end = _RESPONSE_HEAD.size + REPORT_SIZE
        if data[8 : _RESPONSE_HEAD.size].strip(b"\0") or data[end:].strip(b"\0"):
            raise _refuse("seen a firmware response with bytes other than zero around its report")
        report = data[_RESPONSE_HEAD.size : end]
        return RecognisedEvidence(
            evidence=SnpEvidence(report=report, blobs={}), encoding="SNP report in the firmware's response"
        )
    if len(data) == REPORT_SIZE:
        return RecognisedEvidence(evidence=SnpEvidence(report=data, blobs={}), encoding="SNP report")
    if len(data) > REPORT_SIZE and _starts_report(data):
        blobs = parse_cert_table(data[REPORT_SIZE:]).blobs
        return RecognisedEvidence(
            evidence=SnpEvidence(report=data[:REPORT_SIZE], blobs=blobs),
            encoding="SNP report and certificate table",
        )
    return None


def _starts_quote(data: bytes) -> bool:
    version, key_type, tee_type = _QUOTE_HEAD.unpack_from(data)
    return version in _QUOTE_VERSIONS and (key_type, tee_type) == (KEY_TYPE_ECDSA_P256, TEE_TYPE_TDX)


def _starts_report(data: bytes) -> bool:
    """Whether the first integer can be a report's version; text never is, for it has no zero bytes."""
    return data[1:4] == bytes(3)


def _recognise_payload(data: bytes) -> RecognisedEvidence | None:
    """Return what an EVIDENCE payload of docs/protocol.md section 3 holds; None if the bytes are not framed so."""
    if len(data) < _PAYLOAD_HEAD.size:
        return None
    (size,) = _PAYLOAD_HEAD.unpack_from(data)
    if not _PAYLOAD_HEAD.size < size <= len(data) - 2 * _PAYLOAD_HEAD.size:
        return None
    try:
        first, second = parse_evidence(data)
    except FormatError:
        return None
    if len(first) >= _QUOTE_HEAD.size and _starts_quote(first):
        if second:
            raise _refuse(f"seen {len(second)} bytes of certificates beside a quote, which has its own")
        return RecognisedEvidence(
            evidence=TdxEvidence(quote=first), encoding="EVIDENCE payload with a TDX quote"
        )
    blobs = parse_cert_table(second).blobs
    return RecognisedEvidence(
        evidence=SnpEvidence(report=first, blobs=blobs), encoding="EVIDENCE payload with an SNP report"
    )


# --- JSON


def _recognise_json(data: bytes) -> RecognisedEvidence:
    return recognise_document(parse_signed_json(data, "the evidence", limit=LARGEST_EVIDENCE))


def recognise_document(document: Fields) -> RecognisedEvidence:
    """Return the evidence that a JSON object holds, as `recognise_evidence` does. Raises FormatError."""
    for members, encoding, read in _JSON_ENCODINGS:
        if all(document.has(name) for name in members):
            return RecognisedEvidence(evidence=read(document), encoding=encoding)
    raise _refuse("seen JSON without the members of snp, tdx, az-snp-vtpm or az-tdx-vtpm")


def _read_tdx(fields: Fields) -> TdxEvidence:
    quote = take_base64(fields, "quote", LARGEST_QUOTE)
    log = b""
    if fields.has("cc_eventlog"):
        given = fields.take("cc_eventlog")
        if given is not None:
            log = take_base64(Fields({"cc_eventlog": given}, fields.where), "cc_eventlog", _LARGEST_EVENT_LOG)
    fields.require_no_more()
    return TdxEvidence(quote=quote, event_log=log)


def _read_raw(fields: Fields) -> Evidence:
    text = find_text(fields.take_string("report").encode("utf-8", "replace"))
    fields.require_no_more()
    found = None if text is None else _recognise_binary(text[1])
    if found is None:
        raise _refuse('seen a "report" that is neither an SNP report nor a TDX quote')
    return found.evidence


# the members that tell an encoding, the most particular first
_JSON_ENCODINGS: tuple[tuple[tuple[str, ...], str, Callable[[Fields], Evidence]], ...] = (
    (("attestation_report",), "Trustee's snp", parse_sev_evidence),
    (("hcl_report", "td_quote"), "Trustee's az-tdx-vtpm", parse_azure_evidence),
    (("hcl_report", "vcek"), "Trustee's az-snp-vtpm", parse_azure_evidence),
    (("quote", "report", "vcek"), "Trustee's az-snp-vtpm", parse_azure_evidence),
    (("quote",), "Trustee's tdx", _read_tdx),
    (("report",), "JSON around a raw report", _read_raw),
)


def make_tdx_evidence(evidence: TdxEvidence) -> dict[str, object]:
    """Return the JSON object that Trustee takes for `tdx`."""
    log = base64.b64encode(evidence.event_log).decode("ascii") if evidence.event_log else None
    return {"cc_eventlog": log, "quote": base64.b64encode(evidence.quote).decode("ascii")}
