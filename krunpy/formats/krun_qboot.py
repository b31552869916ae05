"""Where libkrun's firmware for SEV-SNP jumps to: a number in its code, which nothing compares with the kernel's entry.

The entry moves with every build of a kernel. A firmware that names another one would jump into the middle of the
kernel; patched, it is measured as it then is. The firmware for TDX hands over in another way and is not touched.

Source: slp/qboot-krunfw, main.c; Intel SDM volume 2, MOV and JMP.
"""

from __future__ import annotations

import re

from krunpy.core.errors import FormatError
from krunpy.formats.krun_bundle import QBOOT_SIZE

_LARGEST = 0x7FFFFFFF  # the instruction extends the sign
_JUMP = re.compile(rb"\x48\xc7\xc0(.{4})\xff\xe0", re.DOTALL)  # mov $imm32, %rax; jmp *%rax


def read_entry(qboot: bytes) -> int:
    """Return the address that this firmware starts the kernel at. Raises FormatError if it does not say so once."""
    return int.from_bytes(_find_jump(qboot)[1], "little")


def set_entry(qboot: bytes, entry: int) -> bytes:
    """Return the firmware with another kernel entry. Raises FormatError as `read_entry`, or if it does not fit."""
    if not 0 < entry <= _LARGEST:
        raise FormatError(
            "cannot use the kernel", why=f"its entry is {entry:#x}, wanted at most {_LARGEST:#x}"
        )
    start, end = _find_jump(qboot).span(1)
    return qboot[:start] + entry.to_bytes(4, "little") + qboot[end:]


def _find_jump(qboot: bytes) -> re.Match[bytes]:
    if len(qboot) != QBOOT_SIZE:
        raise FormatError(
            "cannot use the firmware", why=f"it has {len(qboot)} bytes, wanted {QBOOT_SIZE} as libkrun does"
        )
    found = list(_JUMP.finditer(qboot))
    if len(found) != 1:
        raise FormatError(
            "cannot use the firmware",
            why=f"seen {len(found)} jumps to a fixed address, wanted the one to the kernel's entry",
            next="use the qboot of libkrunfw-sev",
        )
    return found[0]
