"""Signals by name and number, and which of them a container's workload can be sent.

Light: no enum. Source: signal(7), x86-64 and arm64 numbers.
"""

from __future__ import annotations

from krunpy.core.errors import UsageError

_WORDS = (
    "HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP TSTP "
    "TTIN TTOU URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS"
)
_NAMES = tuple(_WORDS.split())
_ALIASES = {"IOT": 6, "CLD": 17, "POLL": 29, "RTMIN": 34, "RTMAX": 64}
HUP, INT, QUIT, TERM, KILL = 1, 2, 3, 15, 9
RTMIN, RTMAX = 34, 64
ENDING = frozenset({HUP, INT, QUIT, TERM})  # end the shim while no workload runs

# Signals that mean something else to the shim itself: its own faults, its children, its broken pipes, and
# the two that no process can catch.
_NOT_FORWARDED = {
    4: "a fault of the shim itself has the same number",
    7: "a fault of the shim itself has the same number",
    8: "a fault of the shim itself has the same number",
    11: "a fault of the shim itself has the same number",
    13: "the shim's own broken pipes raise it",
    17: "the shim's own children raise it",
    19: "it would stop the shim and not the workload",
}
FORWARDED = tuple(
    number
    for number in (*range(1, len(_NAMES) + 1), *range(RTMIN, RTMAX + 1))
    if number not in _NOT_FORWARDED and number != KILL
)


def parse_signal(text: str) -> int:
    """Return the number of a signal given as "15", "TERM", "SIGTERM" or "SIGRTMIN+3".

    Raises UsageError if there is no such signal, or if it cannot reach a workload in a machine.
    """
    number = _find_number(text)
    if number is None:
        raise UsageError(f'cannot send signal "{text[:40]}"', why="there is no such signal")
    if number in _NOT_FORWARDED:
        raise UsageError(
            f'cannot send signal "{text}" to a workload in a machine', why=_NOT_FORWARDED[number]
        )
    return number


def _find_number(text: str) -> int | None:
    if text.isascii() and text.isdigit() and len(text) < 4:  # noqa: PLR2004
        number = int(text)
        return number if 1 <= number <= len(_NAMES) or RTMIN <= number <= RTMAX else None
    name = text.upper().removeprefix("SIG")
    if name in _NAMES:
        return _NAMES.index(name) + 1
    if name in _ALIASES:
        return _ALIASES[name]
    base, plus, offset = name.partition("+")
    if base == "RTMIN" and plus and offset.isascii() and offset.isdigit() and len(offset) < 3:  # noqa: PLR2004
        return RTMIN + int(offset) if RTMIN + int(offset) <= RTMAX else None
    return None
