"""Signals as a fresh process has them (engines block some, Python ignores two), or held for later."""

from __future__ import annotations

import signal

from krunpy.runtime.signals import FORWARDED

_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)


def restore_signals() -> None:
    """Give every signal its default action and block none."""
    for number in (*FORWARDED, *_IGNORED_BY_PYTHON, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def hold_signals() -> None:
    """Block what a handler will want: the kernel keeps such signals, and would drop them for a pid 1."""
    signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
