"""The setup header of an x86 Linux kernel image.

Source: Linux Documentation/arch/x86/boot.rst.
"""

from __future__ import annotations

import struct

from krunpy.core.errors import FormatError

_MAX_RELEASE = 256  # bytes
_HEADER_END = 0x268


def parse_kernel_release(data: bytes) -> str:
    """Return the release ("6.1.0-42-cloud-amd64") that a bzImage names itself.

    Raises FormatError if the bytes are no bzImage or name none.
    """
    what = "cannot read the kernel image"
    if len(data) < _HEADER_END or data[0x202:0x206] != b"HdrS":
        raise FormatError(what, why="it is not a bzImage: no HdrS at 0x202")
    (pointer,) = struct.unpack_from("<H", data, 0x20E)
    start = pointer + 0x200
    text = data[start : start + _MAX_RELEASE].split(b"\0", 1)[0]
    if not pointer or not text:
        raise FormatError(what, why="it does not name its release")
    return text.decode("ascii", "replace").split(" ", 1)[0]
