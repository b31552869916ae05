"""`krunpy evidence show`: what evidence says, field by field. Nothing is verified."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_never

from krunpy.cli.evidence_facts import describe_certificates, describe_report
from krunpy.cli.evidence_files import is_event_log, load_evidence
from krunpy.cli.render import print_json
from krunpy.core.errors import FormatError, format_error, make_plain
from krunpy.formats import snp_simulated
from krunpy.formats.evidence_azure import AzureEvidence
from krunpy.formats.evidence_encodings import TdxEvidence, is_of_tdx, recognise_evidence
from krunpy.formats.evidence_sev import SnpEvidence
from krunpy.formats.snp_report import parse_report

if TYPE_CHECKING:
    from collections.abc import Iterator

    from krunpy.cli.evidence_facts import Section
    from krunpy.formats.evidence_encodings import Evidence

MALFORMED = 4  # exit status

_SIMULATED = "SIMULATED - NOT CONFIDENTIAL: it bears the marks of a software TEE"
_UNVERIFIED = "nothing of this is verified: krunpy evidence verify"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shown:
    """Sections of a file, how it was written, and whether it bears the marks of a software TEE."""

    encoding: str
    sections: tuple[Section, ...]
    wrapping: str = ""
    is_marked: bool = False


def show_file(path: str, *, as_json: bool) -> int:
    """Print every field of a file of evidence and return the exit status: 4 if it is malformed.

    Raises UsageError if it cannot be read.
    """
    data = load_evidence(path)
    try:
        shown = _read(data)
    except FormatError as error:
        print(format_error(error), file=sys.stderr)
        return MALFORMED
    if as_json:
        print_json("evidence", _make_document(shown))
        return 0
    if shown.is_marked:
        print(_SIMULATED)
    print(f"{shown.encoding}{f', in {shown.wrapping}' if shown.wrapping else ''}; {_UNVERIFIED}")
    for section in shown.sections:
        _print_section(section)
    return 0


def _read(data: bytes) -> _Shown:
    """Return what is to be shown of evidence, or of an event log alone. Raises FormatError."""
    if is_event_log(data):
        return _Shown(encoding="event log, without its quote", sections=(_describe_log(data),))
    found = recognise_evidence(data)
    return _Shown(
        encoding=found.encoding,
        wrapping=found.wrapping,
        is_marked=_is_marked(found.evidence),
        sections=tuple(_describe(found.evidence)),
    )


def _describe(evidence: Evidence) -> Iterator[Section]:
    match evidence:
        case SnpEvidence():
            yield describe_report(parse_report(evidence.report))
            yield from describe_certificates(evidence.blobs)
        case TdxEvidence():
            yield from _describe_tdx(evidence.quote)
            if evidence.event_log:
                yield _describe_log(evidence.event_log)
        case AzureEvidence():
            if is_of_tdx(evidence):
                yield from _describe_tdx(evidence.td_quote)
            else:
                yield describe_report(parse_report(evidence.hcl.hardware_report))
            yield from _describe_azure(evidence)
        case _:
            assert_never(evidence)


def _describe_tdx(quote: bytes) -> Iterator[Section]:
    from krunpy.cli.evidence_facts_tdx import describe_quote
    from krunpy.formats.tdx_quote import parse_tdx_quote

    yield from describe_quote(parse_tdx_quote(quote))


def _describe_log(log: bytes) -> Section:
    from krunpy.cli.evidence_facts_log import describe_log
    from krunpy.formats.eventlog_dstack import parse_event_log

    return describe_log(parse_event_log(log))


def _describe_azure(evidence: AzureEvidence) -> Iterator[Section]:
    from krunpy.cli.evidence_facts_azure import describe_runtime, describe_vtpm

    yield describe_runtime(evidence)
    yield describe_vtpm(evidence)


def _is_marked(evidence: Evidence) -> bool:
    return isinstance(evidence, SnpEvidence) and snp_simulated.FAMILY_ID in evidence.report


def _make_document(shown: _Shown) -> dict[str, object]:
    return {
        "encoding": shown.encoding,
        "wrapping": shown.wrapping,
        "simulated": shown.is_marked,
        "sections": [
            {
                "title": section.title,
                "fields": [
                    {"name": fact.name, "value": fact.value, "meaning": fact.meaning}
                    for fact in section.facts
                ],
            }
            for section in shown.sections
        ],
    }


def _print_section(section: Section) -> None:
    print(f"\n{section.title}")
    labels = [f"  {fact.name}" if fact.is_part else fact.name for fact in section.facts]
    width = max((len(label) for label in labels), default=0)
    for label, fact in zip(labels, section.facts, strict=True):
        meaning = f"  ({fact.meaning})" if fact.meaning else ""
        print(make_plain(f"{label:{width}}  {fact.value}{meaning}"))
