"""From a TDX quote and what the operator gave to a verdict. It reads no file and prints nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from krunpy.attest.appraise_checks import check_octets
from krunpy.attest.azure import appraise_vtpm, verify_vtpm
from krunpy.attest.policy import OneOf
from krunpy.attest.refusal import Refusal, Stage
from krunpy.attest.revocation import RevocationMode
from krunpy.attest.tdx_appraise import TdxExpectations, appraise_tdx
from krunpy.attest.tdx_evidence import read_tdx_evidence
from krunpy.attest.tdx_verify import verify_tdx
from krunpy.cli.evidence_given import (
    expect_measurement,
    expect_nonce,
    expect_report_data,
    expect_runtime_hash,
    expect_value,
    say_any,
)
from krunpy.core.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from krunpy.attest.tdx_claims import TdxClaims
    from krunpy.attest.verdict import Check, Verdict
    from krunpy.cli.evidence_given import Given
    from krunpy.formats.eventlog import Event
    from krunpy.formats.evidence_azure import AzureEvidence
    from krunpy.formats.evidence_encodings import TdxEvidence
    from krunpy.formats.tdx_quote import TdReport

_LOG_DIFFERS = (
    "no event of the log is proved: take log and quote from the same boot, "
    "and a log with what was extended after it"
)


def judge_quote(evidence: TdxEvidence, given: Given) -> Verdict:
    """Return the verdict on a quote and the event log that came with it.

    Raises Refusal if the quote does not verify, or its log cannot be read.
    """
    claims = _verify(evidence.quote, given)
    if given.events is None and evidence.event_log:
        given = replace(given, events=_read_log(evidence.event_log))
    return _appraise(claims, given, expect_report_data(given, bytes(claims.quote.td.report_data)))


def judge_azure_quote(evidence: AzureEvidence, given: Given) -> Verdict:
    """Return the verdict on Azure's evidence with a quote. Raises Refusal if it does not verify."""
    claims = _verify(evidence.td_quote, given)
    vtpm = verify_vtpm(evidence, report_data=bytes(claims.quote.td.report_data))
    verdict = _appraise(claims, given, expect_runtime_hash(given, evidence))
    return replace(verdict, checks=verdict.checks + appraise_vtpm(vtpm, nonce=expect_nonce(given)))


def _read_log(log: bytes) -> tuple[Event, ...]:
    from krunpy.formats.eventlog_dstack import parse_event_log  # few quotes come with a log

    try:
        return parse_event_log(log)
    except FormatError as error:
        raise Refusal(Stage.PARSE, "event-log-format", why=error.why) from error


def _verify(quote: bytes, given: Given) -> TdxClaims:
    is_required = given.policies.tdx.requires_crl
    return verify_tdx(
        read_tdx_evidence(quote),
        anchors=given.intel_anchors,
        now=given.now,
        collateral=given.collateral,
        revocation=RevocationMode.REQUIRED if is_required else RevocationMode.IF_FRESH,
    )


def _appraise(claims: TdxClaims, given: Given, report_data: OneOf) -> Verdict:
    td = claims.quote.td
    expected = TdxExpectations(
        report_data=report_data,
        mrtds=expect_measurement(given, bytes(td.mrtd)),
        rtmrs=(
            expect_value(given, "--rtmr0"),
            expect_value(given, "--rtmr1"),
            expect_value(given, "--rtmr2"),
            expect_value(given, "--rtmr3"),
        ),
        mrconfigids=expect_value(given, "--mrconfigid"),
    )
    verdict = say_any(appraise_tdx(claims, expected=expected, policy=given.policies.tdx))
    if given.events is None:
        return verdict
    return replace(verdict, checks=(*verdict.checks, *_replay(given.events, td)))


def _replay(events: tuple[Event, ...], td: TdReport) -> Iterator[Check]:
    """Yield one check for each register: whether the log leads to what a verified quote has there."""
    from krunpy.measure.replay import replay_events

    for index, (led_to, rtmr) in enumerate(zip(replay_events(events).rtmrs, td.rtmrs, strict=True)):
        wanted = OneOf(values=frozenset({bytes(rtmr)}), source=f"RTMR{index} of the quote")
        yield check_octets(f"event-log-rtmr{index}", led_to, wanted, _LOG_DIFFERS)
