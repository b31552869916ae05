"""A question to a library, asked in a process of its own: a library's constructor is not to run in ours."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import krunpy
from krunpy.core.errors import HostError, ToolError
from krunpy.core.proc import run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import NoReturn

_TIMEOUT_S = 30.0
_REFUSED = 3  # exit code of a process whose answer is why there is none
_START = (
    "import sys; sys.path.append(sys.argv[1]); from importlib import import_module; "
    "import_module(sys.argv[2]).main(sys.argv[3:])"
)


def ask_library(module: str, path: str, *words: str, pass_fds: Sequence[int] = ()) -> bytes:
    """Return what `answer` said in a process that runs the module's `main` with the library's path and the words.

    Raises HostError with what the process raised, or if it crashed or took more than 30 seconds.
    """
    package = os.path.dirname(os.path.dirname(os.path.abspath(krunpy.__file__)))
    argv = [os.path.realpath(sys.executable), "-I", "-S", "-c", _START, package, module, path, *words]
    try:
        output = run(argv, timeout_s=_TIMEOUT_S, pass_fds=pass_fds, codes=(0, _REFUSED))
    except ToolError as error:
        why = f"the process that asked it ended without an answer: {error.why}"
        raise HostError(f"cannot use {path}", why=why) from error
    if output.code == _REFUSED:
        what, why, following = os.fsdecode(output.stdout).split("\0")
        raise HostError(what, why=why, next=following)
    return output.stdout


def answer(work: Callable[[], str]) -> NoReturn:
    """Do the work, tell its result or the HostError that it raised to the process that asked, and end."""
    told = os.dup(1)
    os.dup2(2, 1)  # libraries print
    try:
        os.write(told, os.fsencode(work()))
    except HostError as error:
        os.write(told, os.fsencode(f"{error.what}\0{error.why}\0{error.next}"))
        os._exit(_REFUSED)
    os._exit(0)
