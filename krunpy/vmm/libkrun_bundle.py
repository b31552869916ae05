"""The guest kernel out of libkrunfw, taken by a process of its own: a library's constructor is not to run in ours."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import krunpy
from krunpy.core.errors import HostError, format_error
from krunpy.core.proc import run
from krunpy.formats.krun_kernel import LARGEST_KERNEL, KrunKernel
from krunpy.vmm.files import read_sealed_file
from krunpy.vmm.libkrun_abi import KernelBundle, copy_memory

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

_TIMEOUT_S = 30.0
_START = (
    "import sys; sys.path.append(sys.argv[1]); from krunpy.vmm.libkrun_bundle import main; main(sys.argv[2:])"
)


def load_bundle_kernel(path: str) -> KrunKernel:
    """Return the kernel in a libkrunfw. Raises HostError if the library is none, or crashes."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(krunpy.__file__)))
    taken = os.memfd_create("kernel", os.MFD_CLOEXEC)
    try:
        argv = [os.path.realpath(sys.executable), "-I", "-S", "-c", _START, package, path, str(taken)]
        output = run(argv, timeout_s=_TIMEOUT_S, pass_fds=[taken])
        load, entry = (int(word) for word in output.stdout.split())
        return KrunKernel(image=read_sealed_file(taken), load_gpa=load, entry_gpa=entry)
    finally:
        os.close(taken)


def main(words: Sequence[str]) -> NoReturn:
    """Write the kernel of the library at words[0] to descriptor words[1], and its two addresses to standard output."""
    path, descriptor = words[0], int(words[1])
    try:
        here, size, load, entry = KernelBundle(path).locate_kernel()
        if not here or not 0 < size <= LARGEST_KERNEL:
            raise HostError(f"cannot use {path}", why=f"its kernel has {size} bytes")
        view = memoryview(copy_memory(here, size))
        while view:
            view = view[os.write(descriptor, view) :]
        os.write(1, f"{load} {entry}\n".encode())
    except HostError as error:
        os.write(2, f"{format_error(error)}\n".encode())
        os._exit(1)
    os._exit(0)
