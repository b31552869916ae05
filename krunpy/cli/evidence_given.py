"""What the operator gave to judge evidence by, and what is expected of the evidence for it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from krunpy.attest.azure import hash_runtime_data
from krunpy.attest.policy import OneOf, Unchecked

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from krunpy.attest.anchors import Anchors, IntelAnchors
    from krunpy.attest.policy import Expected
    from krunpy.attest.policy_sections import Policies
    from krunpy.attest.verdict import Verdict
    from krunpy.formats.eventlog import Event
    from krunpy.formats.evidence_azure import AzureEvidence
    from krunpy.formats.tdx_collateral import TdxCollateral

REPORT_DATA_SIZE = 64  # bytes

NOT_GIVEN = "none was given"  # how the source of such a check begins
_NO_REPORT_DATA = f"{NOT_GIVEN}: --nonce or --report-data"
_NO_MEASUREMENT = f"{NOT_GIVEN}: --measurement"


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What the operator gave.

    anchors:     the roots that are trusted; now: the time at which everything has to hold.
    policies:    what is demanded, by TEE.
    vek:         in DER, None to take the evidence's; chain: further certificates in DER.
    crls:        in DER; giving one requires that one counts.
    collateral:  Intel's; None if none was given.
    events:      of the event log; None to take the one that came with the evidence, if one did.
    nonce:       1 to 64 bytes; report_data: 64 bytes.
    values:      accepted reference values, by the option that gives them; any is accepted of one without.
    """

    anchors: Anchors
    intel_anchors: IntelAnchors
    now: datetime
    policies: Policies
    vek: bytes | None = None
    chain: tuple[bytes, ...] = ()
    crls: tuple[bytes, ...] = ()
    collateral: TdxCollateral | None = None
    events: tuple[Event, ...] | None = None
    nonce: bytes | None = None
    report_data: bytes | None = None
    values: Mapping[str, frozenset[bytes]] = field(default_factory=dict)


def expect_report_data(given: Given, seen: bytes) -> OneOf:
    """Return what REPORT_DATA has to be; if nothing was given, what it is, for `say_any`."""
    if given.report_data is not None:
        return OneOf(values=frozenset({given.report_data}), source="--report-data")
    if given.nonce is not None:
        padded = given.nonce.ljust(REPORT_DATA_SIZE, b"\0")
        return OneOf(values=frozenset({padded}), source="--nonce, and zeros after it")
    return OneOf(values=frozenset({seen}), source=_NO_REPORT_DATA)


def expect_measurement(given: Given, seen: bytes) -> OneOf:
    """Return what the launch digest or MRTD has to be; if nothing was given, what it is, for `say_any`."""
    expected = expect_value(given, "--measurement")
    return (
        expected if isinstance(expected, OneOf) else OneOf(values=frozenset({seen}), source=_NO_MEASUREMENT)
    )


def expect_value(given: Given, option: str) -> Expected:
    """Return what the reference value of an option has to be."""
    values = given.values.get(option)
    return OneOf(values=values, source=option) if values else Unchecked(reason=f"{option} was not given")


def say_any(verdict: Verdict) -> Verdict:
    """Return the verdict with the truth about values that were compared with themselves: any would do."""
    checks = (
        replace(check, wanted="any") if check.source in {_NO_REPORT_DATA, _NO_MEASUREMENT} else check
        for check in verdict.checks
    )
    return replace(verdict, checks=tuple(checks))


def expect_runtime_hash(given: Given, evidence: AzureEvidence) -> OneOf:
    """Return what REPORT_DATA of an Azure machine has to be; the challenge is not in it."""
    if given.report_data is not None:
        return OneOf(values=frozenset({given.report_data}), source="--report-data")
    return OneOf(values=frozenset({hash_runtime_data(evidence)}), source="the hash of the runtime data")


def expect_nonce(given: Given) -> Expected:
    """Return what the quote of a virtual TPM has to be for."""
    if given.nonce is None:
        return Unchecked(reason=f"{NOT_GIVEN}: --nonce")
    return OneOf(values=frozenset({given.nonce}), source="--nonce")
