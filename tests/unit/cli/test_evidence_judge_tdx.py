"""Verdicts on quotes of made-up platforms: each exit status, and the one thing that leads to it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from krunpy.attest.anchors import load_amd_anchors, load_intel_anchors
from krunpy.attest.policy_sections import parse_policies
from krunpy.cli.evidence_cache import complete_given
from krunpy.cli.evidence_given import Given
from krunpy.cli.evidence_judge import Outcome, find_outcome, judge_evidence
from krunpy.client.collateral_item import PckCa
from krunpy.core.octets import Digest48
from krunpy.formats.eventlog import Event, EventType, pack_ccel
from krunpy.formats.evidence_encodings import TdxEvidence, make_tdx_evidence, recognise_evidence
from krunpy.measure.replay import replay_events
from tests.fakes import collateral_samples
from tests.fakes.azure import NONCE, make_tdx_document
from tests.fakes.intel import TD, FakePlatform
from tests.fakes.intel_collateral import mint_collateral
from tests.fakes.intel_pki import FMSPC, NOW, anchors

PLATFORM = FakePlatform()
COLLATERAL = mint_collateral()
REGISTERS = ("mrconfigid", "rtmr0", "rtmr1", "rtmr2", "rtmr3")
NEWER = parse_policies({"tdx": {"min_tcb_eval_data_number": 9999}}, source="p.toml", accepts_simulated=False)
GIVEN = Given(
    anchors=load_amd_anchors(),
    intel_anchors=anchors(),
    now=NOW,
    policies=parse_policies({}, source="the default policy", accepts_simulated=False),
    collateral=COLLATERAL,
)


def judge(data: bytes, **given: Any) -> tuple[Outcome, str]:
    verdict = judge_evidence(recognise_evidence(data).evidence, replace(GIVEN, **given))
    return find_outcome(verdict), verdict.code


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"report_data": TD["report_data"], "values": {"--measurement": frozenset({bytes(48), TD["mrtd"]})}},
        {"values": {f"--{name}": frozenset({TD[name]}) for name in REGISTERS}},
        {"nonce": TD["report_data"]},
    ],
)
def test_a_quote_that_holds_is_trusted(given: dict[str, Any]) -> None:
    assert judge(PLATFORM.quote(), **given) == (Outcome.TRUSTED, "")


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"nonce": b"other"}, "report-data"),
        ({"report_data": bytes(64)}, "report-data"),
        ({"values": {"--measurement": frozenset({bytes(48)})}}, "mrtd"),
        *(({"values": {f"--{name}": frozenset({b"\1" * 48})}}, name) for name in REGISTERS),
        ({"policies": NEWER}, "tcb-evaluation-number"),
    ],
)
def test_what_was_asked_for_and_is_not_there_is_not_trusted(given: dict[str, Any], code: str) -> None:
    assert judge(PLATFORM.quote(), **given) == (Outcome.NOT_TRUSTED, code)


@pytest.mark.parametrize("given", [{}, {"collateral": None}])
def test_a_debug_td_is_valid_but_not_trusted_with_and_without_collateral(given: dict[str, Any]) -> None:
    assert judge(PLATFORM.quote(td_attributes=b"\1" + bytes(7)), **given)[0] is Outcome.NOT_TRUSTED


def test_a_quote_without_collateral_cannot_be_checked() -> None:
    assert judge(PLATFORM.quote(), collateral=None) == (Outcome.NOT_CHECKED, "collateral")


def test_a_forged_quote_is_invalid_with_and_without_collateral() -> None:
    forged = FakePlatform(quote_signer="evil").quote()

    assert judge(forged) == (Outcome.INVALID, "signature")
    assert judge(forged, collateral=None) == (Outcome.INVALID, "signature")


def test_a_chain_to_another_root_is_invalid() -> None:
    assert judge(PLATFORM.quote(), intel_anchors=load_intel_anchors())[0] is Outcome.INVALID


# --- event logs

EVENTS = tuple(
    Event(register=register, kind=EventType.SEPARATOR, digest=Digest48(b"\1" * 48), data=b"", hashed=b"")
    for register in (1, 2, 3, 3, 4)
)
RTMRS = {f"rtmr{index}": bytes(rtmr) for index, rtmr in enumerate(replay_events(EVENTS).rtmrs)}


def make_trustee(quote: bytes, log: bytes) -> bytes:
    return json.dumps(make_tdx_evidence(TdxEvidence(quote=quote, event_log=log))).encode()


def test_a_quote_is_trusted_with_the_log_that_leads_to_its_registers() -> None:
    quote = PLATFORM.quote(**RTMRS)

    assert judge(quote, events=EVENTS) == (Outcome.TRUSTED, "")
    assert judge(make_trustee(quote, pack_ccel(EVENTS))) == (Outcome.TRUSTED, "")


@pytest.mark.parametrize("index", range(4))
def test_a_log_that_leads_elsewhere_is_refused_for_the_register_in_which_it_does(index: int) -> None:
    quote = PLATFORM.quote(**RTMRS | {f"rtmr{index}": bytes(48)})

    verdict = judge_evidence(recognise_evidence(make_trustee(quote, pack_ccel(EVENTS))).evidence, GIVEN)

    (failure,) = verdict.failures
    assert (find_outcome(verdict), failure.name) == (Outcome.NOT_TRUSTED, f"event-log-rtmr{index}")
    assert (failure.seen, failure.wanted) == (RTMRS[f"rtmr{index}"].hex(), "00" * 48)


def test_events_in_another_order_are_refused() -> None:
    other = replace(EVENTS[2], digest=Digest48(b"\2" * 48))
    registers = replay_events((*EVENTS[:2], other, *EVENTS[3:])).rtmrs
    quote = PLATFORM.quote(**{f"rtmr{index}": bytes(rtmr) for index, rtmr in enumerate(registers)})

    swapped = (*EVENTS[:2], EVENTS[3], other, EVENTS[4])

    assert judge(quote, events=swapped) == (Outcome.NOT_TRUSTED, "event-log-rtmr2")


def test_the_log_that_was_given_is_replayed_and_not_the_evidences() -> None:
    data = make_trustee(PLATFORM.quote(**RTMRS), pack_ccel(EVENTS))

    assert judge(data, events=EVENTS[:-1]) == (Outcome.NOT_TRUSTED, "event-log-rtmr3")


def test_a_log_that_cannot_be_read_is_invalid_and_a_forged_quote_is_said_first() -> None:
    forged = FakePlatform(quote_signer="evil").quote()

    assert judge(make_trustee(PLATFORM.quote(), b"no log")) == (Outcome.INVALID, "event-log-format")
    assert judge(make_trustee(forged, b"no log")) == (Outcome.INVALID, "signature")


def test_a_log_that_does_not_replay_is_refused_also_without_collateral() -> None:
    outcome, _ = judge(PLATFORM.quote(), collateral=None, events=EVENTS)

    assert outcome is Outcome.NOT_TRUSTED


# --- Azure


def test_azure_is_trusted_for_its_challenge_alone() -> None:
    data = json.dumps(make_tdx_document(PLATFORM)).encode()

    assert judge(data, nonce=NONCE) == (Outcome.TRUSTED, "")
    assert judge(data, nonce=b"other") == (Outcome.NOT_TRUSTED, "vtpm-nonce")
    assert judge(data, collateral=None) == (Outcome.NOT_CHECKED, "collateral")


def test_azure_whose_quote_is_for_other_runtime_data_is_invalid() -> None:
    data = json.dumps(make_tdx_document(PLATFORM, report_data=bytes(64))).encode()

    assert judge(data, nonce=NONCE) == (Outcome.INVALID, "runtime-data")


def test_collateral_is_taken_from_the_cache_once_all_of_it_is_there(tmp_path: Path) -> None:
    server = collateral_samples.good_server()
    given = replace(GIVEN, collateral=None)
    quote = PLATFORM.quote()
    with server.running():
        client = collateral_samples.make_client(tmp_path, server.url)
        client.fetch(collateral_samples.TCB_INFO)
        nothing = complete_given(quote, given, client.cache)
        client.fetch_tdx(FMSPC, PckCa.PLATFORM)

    completed = complete_given(quote, given, client.cache)

    assert nothing.names == ()
    assert len(completed.names) == 4
    assert judge_evidence(recognise_evidence(quote).evidence, completed.given).trusted
    assert complete_given(quote, GIVEN, client.cache).names == ()
