"""What came of an appraisal: every check with what was seen and what was wanted, held or not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from krunpy.attest.refusal import Refusal, Stage

SIMULATED_HEADING = "SIMULATED - NOT CONFIDENTIAL"
# codes of refusals for want of something, or something fresh, to check with: they say nothing against the evidence
_NOT_CHECKED = frozenset({"chain-missing", "crl-missing", "crl-stale", "collateral-stale"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One comparison. `name` is a short code that stays the same between versions.

    seen, wanted: values for people, hex where bytes; source: where the wanted value comes from;
    hint: what mends it, empty where it held.
    unknown: it did not hold because what it needs was not given: it says nothing about the evidence.
    """

    name: str
    stage: Stage
    seen: str
    wanted: str
    source: str
    held: bool
    hint: str = ""
    unknown: bool = False

    def to_dict(self) -> dict[str, object]:
        """Return the check as a JSON object."""
        return {
            "name": self.name,
            "stage": str(self.stage),
            "seen": self.seen,
            "wanted": self.wanted,
            "source": self.source,
            "held": self.held,
            "hint": self.hint,
            "unknown": self.unknown,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The outcome. Nothing is released unless `trusted` is true, which needs every check to hold."""

    tee: str
    simulated: bool
    checks: tuple[Check, ...]

    @property
    def trusted(self) -> bool:
        """Whether there are checks and all of them held."""
        return bool(self.checks) and all(check.held for check in self.checks)

    @property
    def failures(self) -> tuple[Check, ...]:
        """The checks that did not hold, in order."""
        return tuple(check for check in self.checks if not check.held)

    @property
    def could_not_check(self) -> bool:
        """Whether nothing speaks against the evidence but what was not there to check it with."""
        return bool(self.failures) and all(check.unknown for check in self.failures)

    @property
    def code(self) -> str:
        """The name of the first check that failed; where none did, of the first that could not be made, if any."""
        return next((check.name for check in sorted(self.failures, key=lambda check: check.unknown)), "")

    @property
    def heading(self) -> str:
        """One line for people; simulated evidence says so first."""
        refused = "could not check" if self.could_not_check else "refused"
        outcome = "trusted" if self.trusted else f"{refused}: {self.code}"
        return f"{SIMULATED_HEADING}: {outcome}" if self.simulated else outcome

    def to_dict(self) -> dict[str, object]:
        """Return the verdict as a JSON object."""
        return {
            "tee": self.tee,
            "simulated": self.simulated,
            "trusted": self.trusted,
            "could_not_check": self.could_not_check,
            "code": self.code,
            "heading": self.heading,
            "checks": [check.to_dict() for check in self.checks],
        }


def make_refused_verdict(refusal: Refusal, *, tee: str, simulated: bool) -> Verdict:
    """Return the verdict on evidence that could not be verified: one check, the one that failed."""
    check = Check(
        name=refusal.code,
        stage=refusal.stage,
        seen=refusal.why,
        wanted="evidence that verifies",
        source="the TEE vendor's specification",
        held=False,
        hint=refusal.next,
        unknown=refusal.code in _NOT_CHECKED,
    )
    return Verdict(tee=tee, simulated=simulated, checks=(check,))
