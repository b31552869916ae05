import signal

import pytest

from krunpy.core.errors import UsageError
from krunpy.runtime.signals import FORWARDED, parse_signal


@pytest.mark.parametrize("known", list(signal.Signals))
def test_names_and_numbers_agree_with_the_system(known):
    for text in (known.name, known.name.removeprefix("SIG"), known.name.lower(), str(known.value)):
        try:
            assert parse_signal(text) == known.value
        except UsageError as error:
            assert "workload in a machine" in error.what  # noqa: PT017 - some are known and refused
            assert known not in FORWARDED


@pytest.mark.parametrize(("text", "number"), [("RTMIN+3", 37), ("SIGRTMIN", 34), ("RTMAX", 64), ("64", 64)])
def test_real_time_signals_have_names(text, number):
    assert parse_signal(text) == number


@pytest.mark.parametrize(
    "text", ["", "0", "32", "33", "65", "-9", "NOPE", "RTMIN+31", "9999", "\u0669", "SIG"]
)
def test_what_is_no_signal_is_refused(text):
    with pytest.raises(UsageError, match="no such signal"):
        parse_signal(text)


@pytest.mark.parametrize("text", ["STOP", "SEGV", "CHLD", "PIPE"])
def test_a_signal_that_cannot_reach_the_workload_is_refused(text):
    with pytest.raises(UsageError, match="cannot send signal"):
        parse_signal(text)


def test_kill_is_never_forwarded():
    assert signal.SIGKILL not in FORWARDED
    assert signal.SIGSTOP not in FORWARDED
    assert {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGWINCH} <= set(FORWARDED)
