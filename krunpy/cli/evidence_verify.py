"""`krunpy evidence verify`: read what it was given, print the verdict, return the exit status."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from krunpy.attest.anchors import load_amd_anchors, load_intel_anchors
from krunpy.attest.policy_sections import load_policy_document, parse_policies
from krunpy.attest.refusal import Refusal, Stage
from krunpy.attest.verdict import make_refused_verdict
from krunpy.cli.collateral_cache import has_collateral_cache, open_collateral_cache
from krunpy.cli.evidence_files import (
    is_event_log,
    load_ders,
    load_event_log,
    load_evidence,
    load_option,
    parse_hex,
    parse_time,
)
from krunpy.cli.evidence_given import NOT_GIVEN, REPORT_DATA_SIZE, Given
from krunpy.cli.evidence_judge import find_outcome, judge_evidence
from krunpy.cli.evidence_options import SNP_VALUES, TDX_VALUES, VALUES
from krunpy.cli.render import print_json
from krunpy.cli.verdicts import accepts_any, print_checks
from krunpy.core.errors import FormatError, HostError, UsageError, make_plain
from krunpy.formats.evidence_encodings import is_of_tdx, recognise_evidence
from krunpy.formats.tdx_collateral import parse_tdx_collateral

if TYPE_CHECKING:
    from krunpy.attest.verdict import Check, Verdict
    from krunpy.cli.evidence_options import VerifyWords
    from krunpy.core.settings import Settings
    from krunpy.formats.evidence_encodings import Evidence

_NOT_RECOGNISED = "not recognised"
_BESIDE = "give the quote, and this beside it: --event-log FILE"


def verify_file(words: VerifyWords, settings: Settings) -> int:
    """Print the verdict on a file of evidence and return the exit status.

    settings: say where `krunpy collateral fetch` keeps what the evidence may come without.

    Raises UsageError or FormatError if an option cannot be read; about the evidence it raises nothing.
    """
    given = _read_options(words)
    data = load_evidence(words.file)
    try:
        found = recognise_evidence(data)
    except FormatError as error:
        refusal = Refusal(Stage.PARSE, "evidence-format", why=error.why, next=error.next)
        if is_event_log(data):
            refusal = Refusal(Stage.PARSE, "evidence-format", why="it is an event log alone", next=_BESIDE)
        encoding, verdict = _NOT_RECOGNISED, make_refused_verdict(refusal, tee="", simulated=False)
        cached: tuple[str, ...] = ()
    else:
        _require_fitting(words, found.evidence)
        encoding = found.encoding
        verdict, cached = _judge(data, found.evidence, given, settings)
    outcome = int(find_outcome(verdict))
    if words.json:
        about = {"encoding": encoding, "at": given.now.isoformat(), "cached": list(cached), "exit": outcome}
        print_json("evidence-verdict", {**about, **verdict.to_dict()})
    else:
        _print_verdict(verdict, encoding, given.now, cached)
    return outcome


def _judge(
    data: bytes, evidence: Evidence, given: Given, settings: Settings
) -> tuple[Verdict, tuple[str, ...]]:
    """Return the verdict, and the names of what was taken from the cache: only what would else be missing."""
    verdict = judge_evidence(evidence, given)
    if not verdict.could_not_check or not has_collateral_cache(settings):
        return verdict, ()
    from krunpy.cli.evidence_cache import complete_given  # not at the top: it imports the client

    try:
        cache = open_collateral_cache(settings)
    except HostError:  # nobody's cache: a user without a home, a read-only file system
        return verdict, ()
    completed = complete_given(data, given, cache)
    return (judge_evidence(evidence, completed.given), completed.names) if completed.names else (verdict, ())


def _read_options(words: VerifyWords) -> Given:
    if words.nonce and words.report_data:
        raise UsageError(
            "cannot verify", why="--nonce and --report-data say the same thing: give one of them"
        )
    size = REPORT_DATA_SIZE
    veks = load_ders(words.vek) if words.vek else ()
    document: object = load_policy_document(load_option(words.policy)) if words.policy else {}
    source = words.policy or "the default policy"
    return Given(
        anchors=load_amd_anchors(),
        intel_anchors=load_intel_anchors(),
        now=parse_time(words.at) if words.at else datetime.now(UTC),
        policies=parse_policies(document, source=source, accepts_simulated=False),
        vek=veks[0] if veks else None,
        chain=(*(load_ders(words.chain) if words.chain else ()), *veks[1:]),
        crls=tuple(der for path in words.crl for der in load_ders(path)),
        collateral=parse_tdx_collateral(load_option(words.collateral)) if words.collateral else None,
        events=load_event_log(words.event_log) if words.event_log else None,
        nonce=parse_hex(words.nonce, "--nonce", smallest=1, largest=size) if words.nonce else None,
        report_data=parse_hex(words.report_data, "--report-data", smallest=size, largest=size)
        if words.report_data
        else None,
        values={
            option: frozenset(parse_hex(text, option, smallest=length, largest=length) for text in texts)
            for option, length in VALUES.items()
            if (texts := words.values.get(option))
        },
    )


def _require_fitting(words: VerifyWords, evidence: Evidence) -> None:
    """Refuse an option that says nothing about this kind of evidence, rather than ignore it."""
    files: dict[str, object]
    if is_of_tdx(evidence):
        files = {"--vek": words.vek, "--chain": words.chain, "--crl": words.crl}
        others = SNP_VALUES.keys() - TDX_VALUES.keys()
        why = "a quote of TDX has its certificates inside, Intel's collateral the revocation lists, and no HOST_DATA"
    else:
        files = {"--collateral": words.collateral, "--event-log": words.event_log}
        others = TDX_VALUES.keys() - SNP_VALUES.keys()
        why = "the evidence is of SNP: collateral, event logs, MRCONFIGID and RTMRs are of TDX"
    for option, value in {**files, **{option: words.values.get(option) for option in others}}.items():
        if value:
            raise UsageError(f"cannot use {option}", why=why)


def _print_verdict(verdict: Verdict, encoding: str, now: datetime, cached: tuple[str, ...]) -> None:
    """Print a heading, the checks, what was not checked, and what mends the failures.

    A check that any value would pass is left out, but for challenge and measurement, without which nobody
    knows what was attested.
    """
    unchecked = [check for check in verdict.checks if check.wanted == "any" and _is_open(check.source)]
    but = f", but not checked: {', '.join(check.name for check in unchecked)}" if unchecked else ""
    print(make_plain(f"{verdict.heading}{but}"))
    print(make_plain(f"{encoding}, as of {now:%Y-%m-%dT%H:%M:%S%z}"))
    for name in cached:
        print(make_plain(f"from the cache: {name}"))
    rows = [check.to_dict() for check in verdict.checks]
    shown = [row for row in rows if not accepts_any(row) or _is_open(str(row["source"]))]
    print_checks(shown)
    if len(shown) < len(rows):
        print(f"({len(rows) - len(shown)} more where any value would do: --json)")
    for check in _pick_causes(verdict):
        print(f"\n{make_plain(f'{check.name}: {check.seen}')}")
        if check.hint:
            print(f"  next: {make_plain(check.hint)}")


def _is_open(source: str) -> bool:
    return source.startswith(f"{NOT_GIVEN}: ")


def _pick_causes(verdict: Verdict) -> tuple[Check, ...]:
    """Return the failures to explain: the first is the cause of the others where nothing could be checked."""
    known = tuple(check for check in verdict.failures if not check.unknown)
    return known or verdict.failures[:1]
