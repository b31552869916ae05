"""The program that a confidential image of libkrun starts where it is not started by libkrun: it says so and fails.

A static ELF of one segment for x86-64, 64 + 56 bytes of headers and 8 instructions. In assembly:

    mov eax, 1; mov edi, 2; lea rsi, [rip + message]; mov edx, SIZE; syscall     write(2, message, SIZE)
    mov eax, 60; mov edi, 1; syscall                                             exit(1)

Source: System V ABI, AMD64 supplement, 0.99 (ELF header and program header; system calls of Linux: appendix A.2).
"""

from __future__ import annotations

import struct

MESSAGE = b"krunpy: this image is a confidential workload; start it with libkrun, by crun's krun handler\n"
_BASE = 0x400000  # where it is mapped
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_EXECUTABLE, _X86_64, _LOAD, _READ_EXECUTE = 2, 62, 1, 5


def build_entrypoint() -> bytes:
    """Return the program."""
    after_lea = 10 + 7  # bytes of code to the end of `lea`, which counts from there
    code_size = after_lea + 5 + 2 + 5 + 5 + 2
    code = b"".join(
        (
            b"\xb8" + struct.pack("<I", 1),
            b"\xbf" + struct.pack("<I", 2),
            b"\x48\x8d\x35" + struct.pack("<i", code_size - after_lea),
            b"\xba" + struct.pack("<I", len(MESSAGE)),
            b"\x0f\x05",
            b"\xb8" + struct.pack("<I", 60),
            b"\xbf" + struct.pack("<I", 1),
            b"\x0f\x05",
        )
    )
    start = _HEADER.size + _SEGMENT.size
    size = start + len(code) + len(MESSAGE)
    identity = b"\x7fELF" + bytes((2, 1, 1))  # 64 bits, little-endian, version 1
    header = _HEADER.pack(
        identity,
        _EXECUTABLE,
        _X86_64,
        1,
        _BASE + start,
        _HEADER.size,
        0,
        0,
        _HEADER.size,
        _SEGMENT.size,
        1,
        0,
        0,
        0,
    )
    segment = _SEGMENT.pack(_LOAD, _READ_EXECUTE, 0, _BASE, _BASE, size, size, 4096)
    return header + segment + code + MESSAGE
