"""The setup header of an x86 Linux kernel image: what it says, and what QEMU writes into it.

Source: Linux Documentation/arch/x86/boot.rst; QEMU hw/i386/x86-common.c, x86_load_linux.
"""

from __future__ import annotations

import struct

from krunpy.core.errors import FormatError

_MAX_RELEASE = 256  # bytes
_HEADER_END = 0x268
_U16, _U32 = struct.Struct("<H"), struct.Struct("<I")
_OLDEST_PROTOCOL = 0x202  # high kernels with a 32-bit command line pointer, since 2000
_XLOADFLAGS_PROTOCOL = 0x20C
_LOADED_HIGH, _CAN_USE_HEAP = 0x01, 0x80
_CAN_BE_LOADED_ABOVE_4G = 0x02
_QEMU_LOADER = 0xB0
_REAL_MODE_GPA, _CMDLINE_GPA = 0x10000, 0x20000
_LOW_MEMORY_SPLIT, _LOW_MEMORY = 0xB0000000, 0x80000000  # machine q35
_ACPI_DATA_SIZE = 0x28000  # bytes below the end of low memory that QEMU leaves to the firmware
_U32_MAX = 0xFFFFFFFF
_PAGE_MASK = 0xFFF


def _require_header(data: bytes) -> None:
    if len(data) < _HEADER_END or data[0x202:0x206] != b"HdrS":
        raise FormatError("cannot read the kernel image", why="it is not a bzImage: no HdrS at 0x202")


def parse_kernel_release(data: bytes) -> str:
    """Return the release ("6.1.0-42-cloud-amd64") that a bzImage names itself.

    Raises FormatError if the bytes are no bzImage or name none.
    """
    _require_header(data)
    (pointer,) = _U16.unpack_from(data, 0x20E)
    start = pointer + 0x200
    text = data[start : start + _MAX_RELEASE].split(b"\0", 1)[0]
    if not pointer or not text:
        raise FormatError("cannot read the kernel image", why="it does not name its release")
    return text.decode("ascii", "replace").split(" ", 1)[0]


def _place_initrd(kernel: bytes, protocol: int, initrd_size: int, memory_size: int) -> int:
    """Return the gpa at which QEMU's machine q35 puts the initrd."""
    (highest,) = _U32.unpack_from(kernel, 0x22C)
    (flags,) = _U16.unpack_from(kernel, 0x236)
    if protocol >= _XLOADFLAGS_PROTOCOL and flags & _CAN_BE_LOADED_ABOVE_4G:
        highest = _U32_MAX
    split = _LOW_MEMORY if memory_size >= _LOW_MEMORY_SPLIT else _LOW_MEMORY_SPLIT
    available = min(memory_size, split) - _ACPI_DATA_SIZE
    highest = min(highest, available - 1)
    if initrd_size >= highest:
        raise FormatError(
            "cannot place the initrd", why=f"seen {initrd_size} bytes, there is room for {max(highest, 0)}"
        )
    return int(highest - initrd_size) & ~_PAGE_MASK


def patch_as_qemu(kernel: bytes, *, initrd_size: int, memory_size: int) -> bytes:
    """Return a kernel as QEMU's machine q35 hands it to firmware that uses the legacy loader.

    initrd_size: bytes, 0 if there is none; memory_size: bytes of RAM. A command line with "vga=" changes
    one field more, and is not covered.

    Raises FormatError if the bytes are no bzImage of protocol 2.02 or later, or the initrd has no room.
    """
    _require_header(kernel)
    (protocol,) = _U16.unpack_from(kernel, 0x206)
    if protocol < _OLDEST_PROTOCOL or not kernel[0x211] & _LOADED_HIGH:
        raise FormatError(
            "cannot patch the kernel",
            why=f"seen boot protocol {protocol:#x}, wanted 0x202 or later, loaded high",
        )
    patched = bytearray(kernel)
    if initrd_size:
        place = _place_initrd(kernel, protocol, initrd_size, memory_size)
        struct.pack_into("<II", patched, 0x218, place, initrd_size)
    patched[0x210] = _QEMU_LOADER
    patched[0x211] |= _CAN_USE_HEAP
    _U16.pack_into(patched, 0x224, _CMDLINE_GPA - _REAL_MODE_GPA - 0x200)
    _U32.pack_into(patched, 0x228, _CMDLINE_GPA)
    return bytes(patched)
