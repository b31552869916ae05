"""A guest kernel as libkrunfw carries it, and the same as an ELF file that libkrun and QEMU boot.

libkrunfw holds a flat image and tells two addresses. The ELF file has it as its one segment, the 64-bit entry for
libkrun, and the kernel's own PVH note, which later libkruns and QEMU enter by.
Source: ELF-64 Object File Format 1.5; Xen public/elfnote.h (XEN_ELFNOTE_PHYS32_ENTRY); Linux arch/x86/platform/pvh.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from krunpy.core.errors import FormatError

PAGE_SIZE = 4096  # bytes
LARGEST_KERNEL = 256 << 20  # bytes
_HIGHEST_GPA = 1 << 32
_FILE_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
_NOTE_HEADER = struct.Struct("<III4s")
_ENTRY = struct.Struct("<Q")
_EXECUTABLE, _X86_64, _VERSION = 2, 62, 1
_LOAD, _NOTE, _ALL_RIGHTS, _READ = 1, 4, 7, 4
_PHYS32_ENTRY = 18
_MAGIC = b"\x7fELF\2\1\1"
_NOTE_AT = _FILE_HEADER.size + 2 * _PROGRAM_HEADER.size


@dataclass(frozen=True, slots=True, kw_only=True)
class KrunKernel:
    """A flat kernel image. load_gpa: where its first byte goes. entry_gpa: where a CPU in 64-bit mode starts."""

    image: bytes
    load_gpa: int
    entry_gpa: int


def wrap_kernel(kernel: KrunKernel) -> bytes:
    """Return the kernel as an ELF file. Raises FormatError if it has no PVH note, or an entry outside its image."""
    image, load = kernel.image, kernel.load_gpa
    if not 0 < len(image) <= LARGEST_KERNEL or load % PAGE_SIZE or load + len(image) > _HIGHEST_GPA:
        why = f"{len(image)} bytes at {load:#x}, wanted at most {LARGEST_KERNEL} on a page below 4 GiB"
        raise FormatError("cannot use the kernel of libkrunfw", why=why)
    note = _find_note(image)
    (pvh_entry,) = _ENTRY.unpack_from(note, _NOTE_HEADER.size)
    for entry in (kernel.entry_gpa, pvh_entry):
        if not load <= entry < load + len(image):
            why = f"its entry is {entry:#x}, wanted {load:#x} to {load + len(image):#x}"
            raise FormatError("cannot use the kernel of libkrunfw", why=why)
    headers = [
        _FILE_HEADER.pack(
            _MAGIC, _EXECUTABLE, _X86_64, _VERSION, kernel.entry_gpa, _FILE_HEADER.size, 0, 0,
            _FILE_HEADER.size, _PROGRAM_HEADER.size, 2, 0, 0, 0,
        ),
        _PROGRAM_HEADER.pack(_LOAD, _ALL_RIGHTS, PAGE_SIZE, load, load, len(image), len(image), PAGE_SIZE),
        _PROGRAM_HEADER.pack(_NOTE, _READ, _NOTE_AT, 0, 0, len(note), len(note), 4),
        note,
    ]  # fmt: skip
    return b"".join(headers).ljust(PAGE_SIZE, b"\0") + image


def unwrap_kernel(contents: bytes) -> KrunKernel:
    """Return the kernel in an ELF file that `wrap_kernel` made. Raises FormatError if it is another file."""
    if len(contents) <= PAGE_SIZE or contents[: len(_MAGIC)] != _MAGIC:
        raise FormatError("cannot use the kernel", why="it is no ELF file of krunpy's")
    header = _FILE_HEADER.unpack_from(contents)
    kind, _, at, load, _, size, _, _ = _PROGRAM_HEADER.unpack_from(contents, _FILE_HEADER.size)
    kernel = KrunKernel(image=contents[PAGE_SIZE:], load_gpa=load, entry_gpa=header[4])
    if (kind, at, size) != (_LOAD, PAGE_SIZE, len(kernel.image)):
        raise FormatError(
            "cannot use the kernel", why="it is no ELF file of krunpy's: its first segment differs"
        )
    return kernel


def _find_note(image: bytes) -> bytes:
    """Return the kernel's note with its 32-bit entry, which lies at a multiple of four bytes."""
    header = _NOTE_HEADER.pack(4, _ENTRY.size, _PHYS32_ENTRY, b"Xen\0")
    at = image.find(header)
    while at >= 0 and at % 4:
        at = image.find(header, at + 1)
    if at < 0 or at + _NOTE_HEADER.size + _ENTRY.size > len(image):
        raise FormatError("cannot use the kernel of libkrunfw", why="it has no PVH note (CONFIG_PVH)")
    return image[at : at + _NOTE_HEADER.size + _ENTRY.size]
