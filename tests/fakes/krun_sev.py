"""What a libkrunfw for SEV-SNP has, small: a kernel with the marks that krunpy looks for; and a hash that C can do."""

import struct

from krunpy.formats.krun_kernel import KrunKernel

LOAD, ENTRY = 0x1000000, 0x1000123
_NOTE = struct.pack("<III4sQ", 4, 8, 18, b"Xen\0", LOAD + 0x10)
_BANNER = b"Linux version 6.12.91 (nobody@nowhere)\0"
CMDLINE = b"reboot=k panic=-1 console=hvc0 quiet no-kvmapf tsi_hijack acpi=off init=/init.krun"
IMAGE = (_NOTE + _BANNER + b"tsi_hijack\0" + CMDLINE).ljust(0x3000, b"\x90")
KERNEL = KrunKernel(image=IMAGE, load_gpa=LOAD, entry_gpa=ENTRY)


def fnv(data):
    """Return the FNV-1a hash of bytes, 32 bits."""
    value = 2166136261
    for octet in data:
        value = (value ^ octet) * 16777619 & 0xFFFFFFFF
    return value
