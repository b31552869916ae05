"""What libkrunfw holds, taken by a process of its own: a library's constructor is not to run in ours."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from krunpy.core.errors import HostError
from krunpy.formats.krun_kernel import LARGEST_KERNEL, KrunKernel
from krunpy.vmm.files import read_sealed_file
from krunpy.vmm.libkrun_abi import KernelBundle, copy_memory
from krunpy.vmm.libkrun_ask import answer, ask_library

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn


def load_bundle_kernel(path: str) -> KrunKernel:
    """Return the kernel in a libkrunfw. Raises HostError if the library is none, or crashes."""
    return load_bundle_parts(path)[0]


def load_bundle_parts(path: str) -> tuple[KrunKernel, bytes]:
    """Return the kernel in a libkrunfw, and its firmware, empty if it has none. Raises as `load_bundle_kernel`."""
    taken = os.memfd_create("kernel", os.MFD_CLOEXEC)
    try:
        said = ask_library(__name__, path, str(taken), pass_fds=[taken])
        load, entry, size = (int(word) for word in said.split())
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

    The answer is the kernel's two addresses and its size.
    """
    answer(lambda: _take_parts(words[0], int(words[1])))


def _take_parts(path: str, descriptor: int) -> str:
    bundle = KernelBundle(path)
    here, size, load, entry = bundle.locate_kernel()
    qboot, qboot_size = bundle.locate_qboot()
    for name, at, length in (("kernel", here, size), ("firmware", qboot, qboot_size)):
        if length > LARGEST_KERNEL or (not at and length) or (name == "kernel" and not length):
            raise HostError(f"cannot use {path}", why=f"its {name} has {length} bytes")
        _write_all(descriptor, copy_memory(at, length) if length else b"")
    return f"{load} {entry} {size}"
