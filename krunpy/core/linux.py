"""System calls that Python 3.11 does not wrap. One function per call, nothing else.

Source: unshare(2), setns(2), prctl(2).
"""

from __future__ import annotations

import ctypes
import os

from krunpy.core.errors import HostError

CLONE_NEWPID = 0x20000000
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NO_NEW_PRIVS = 38


def unshare(flags: int) -> None:
    """Give the caller (for CLONE_NEWPID: its next children) new namespaces. Raises HostError."""
    call = ctypes.CDLL(None, use_errno=True).unshare
    call.argtypes = [ctypes.c_int]
    call.restype = ctypes.c_int
    _check("unshare", call(flags))


def setns(descriptor: int, kind: int) -> None:
    """Join the namespace that `descriptor` stands for, which is of CLONE_ kind `kind`. Raises HostError."""
    call = ctypes.CDLL(None, use_errno=True).setns
    call.argtypes = [ctypes.c_int, ctypes.c_int]
    call.restype = ctypes.c_int
    _check("setns", call(descriptor, kind))


def set_parent_death_signal(number: int) -> None:
    """Have the kernel send the caller a signal when its parent dies. Raises HostError."""
    _prctl(PR_SET_PDEATHSIG, number)


def set_no_new_privileges() -> None:
    """Keep the caller, and all that it executes, from gaining privileges by set-user-ID. Raises HostError."""
    _prctl(PR_SET_NO_NEW_PRIVS, 1)


def set_dumpable() -> None:
    """Give the caller, who changed its user, its own files in /proc back. Raises HostError."""
    _prctl(PR_SET_DUMPABLE, 1)


def _prctl(option: int, argument: int) -> None:
    call = ctypes.CDLL(None, use_errno=True).prctl
    call.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong]
    call.restype = ctypes.c_int
    _check("prctl", call(option, argument, 0, 0, 0))


def _check(name: str, result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise HostError(f"cannot call {name}", why=os.strerror(number).lower()) from OSError(number, name)
