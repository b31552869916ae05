"""What libkrunfw holds, taken by a process of its own: a library's constructor is not to run in ours."""

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
    return load_bundle_parts(path)[0]


def load_bundle_parts(path: str) -> tuple[KrunKernel, bytes]:
    """Return the kernel in a libkrunfw, and its firmware, empty if it has none. Raises as `load_bundle_kernel`."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(krunpy.__file__)))
    taken = os.memfd_create("kernel", os.MFD_CLOEXEC)
    try:
        argv = [os.path.realpath(sys.executable), "-I", "-S", "-c", _START, package, path, str(taken)]
        output = run(argv, timeout_s=_TIMEOUT_S, pass_fds=[taken])
        load, entry, size = (int(word) for word in output.stdout.split())
        parts = read_sealed_file(taken)
        return KrunKernel(image=parts[:size], load_gpa=load, entry_gpa=entry), parts[size:]
    finally:
        os.close(taken)


def _write_all(descriptor: int, contents: bytes) -> None:
    view = memoryview(contents)
    while view:
        view = view[os.write(descriptor, view) :]


def main(words: Sequence[str]) -> NoReturn:
    """Write kernel and firmware of the library at words[0] to descriptor words[1].

    Two addresses and the size of the kernel go to standard output.
    """
    path, descriptor = words[0], int(words[1])
    try:
        bundle = KernelBundle(path)
        here, size, load, entry = bundle.locate_kernel()
        qboot, qboot_size = bundle.locate_qboot()
        for name, at, length in (("kernel", here, size), ("firmware", qboot, qboot_size)):
            if length > LARGEST_KERNEL or (not at and length) or (name == "kernel" and not length):
                raise HostError(f"cannot use {path}", why=f"its {name} has {length} bytes")
            _write_all(descriptor, copy_memory(at, length) if length else b"")
        os.write(1, f"{load} {entry} {size}\n".encode())
    except HostError as error:
        os.write(2, f"{format_error(error)}\n".encode())
        os._exit(1)
    os._exit(0)
