"""Files that nobody can change after they were read: sealed memory, handed on by descriptor.

What the software TEE measures and what the machine loads are the same pages.
"""

from __future__ import annotations

import fcntl
import os

_F_ADD_SEALS = 1033
_SEAL_ALL = 0x1 | 0x2 | 0x4 | 0x8  # seal, shrink, grow, write (fcntl(2))


def make_sealed_file(name: str, contents: bytes, *more: bytes) -> int:
    """Return the descriptor of an immutable file in memory; the caller closes it. more: what follows the contents."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        for part in (contents, *more):
            view = memoryview(part)
            while view:
                view = view[os.write(descriptor, view) :]
        fcntl.fcntl(descriptor, _F_ADD_SEALS, _SEAL_ALL)
        os.lseek(descriptor, 0, os.SEEK_SET)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def read_sealed_file(descriptor: int) -> bytes:
    """Return the contents of a sealed file."""
    size = os.fstat(descriptor).st_size
    parts: list[bytes] = []
    at = 0
    while at < size:
        part = os.pread(descriptor, min(size - at, 1 << 24), at)
        parts.append(part)
        at += len(part)
    return b"".join(parts)
