"""Replay an event log to the registers that it claims to explain.

A replay that ends at a quote's registers proves the digests in it and their order, and nothing else: the
data of an event is proved only where the digest is over that data. A log that does not is worth nothing.

Source: Intel TDX Module Base Architecture Specification, TDG.MR.RTMR.EXTEND; UEFI 2.10, section 38.4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from krunpy.core.errors import EvidenceError
from krunpy.core.octets import Digest48
from krunpy.formats.eventlog import Event, EventType
from krunpy.measure.tdx_rtmr import ZERO_REGISTER, extend

if TYPE_CHECKING:
    from collections.abc import Iterable

Registers = tuple[Digest48, Digest48, Digest48, Digest48]


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """Where a log leads: RTMR0 to RTMR3, from zero; and the events, in order."""

    rtmrs: Registers
    events: tuple[Event, ...]

    @property
    def vouched(self) -> tuple[Event, ...]:
        """The events that were extended and whose data the digest is over: if the log holds, so does their data."""
        return tuple(event for event in self.events if is_extended(event) and event.is_vouched)


def is_extended(event: Event) -> bool:
    """Return whether an event changes an RTMR: EV_NO_ACTION does not, nor does what is of MRTD."""
    return event.kind != EventType.NO_ACTION and event.register != 0


def replay_events(events: Iterable[Event]) -> Replay:
    """Return the registers after all events of a log; nothing has been compared."""
    listed = tuple(events)
    rtmrs = [ZERO_REGISTER] * 4
    for event in listed:
        if is_extended(event):
            rtmrs[event.register - 1] = extend(rtmrs[event.register - 1], event.digest)
    return Replay(rtmrs=(rtmrs[0], rtmrs[1], rtmrs[2], rtmrs[3]), events=listed)


def find_differences(replay: Replay, rtmrs: Registers) -> tuple[int, ...]:
    """Return the numbers, 0 to 3, of the registers in which a replay differs from a verified quote."""
    return tuple(index for index in range(4) if replay.rtmrs[index] != rtmrs[index])


def require_replay(events: Iterable[Event], rtmrs: Registers) -> Replay:
    """Return the replay of a log that leads to the registers of a verified quote.

    Raises EvidenceError if it leads elsewhere: then no event of it is worth anything.
    """
    replay = replay_events(events)
    for index in find_differences(replay, rtmrs):
        raise EvidenceError(
            "the event log does not belong to the quote",
            why=f"RTMR{index}: the log leads to {replay.rtmrs[index].hex()}, the quote has {rtmrs[index].hex()}",
            next="ask for the log and the quote again, both from the same boot",
        )
    return replay
