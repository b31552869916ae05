"""PE images as kernels are: a bzImage's setup header inside the DOS stub, sections, perhaps certificates."""

from __future__ import annotations

import struct

HEADERS = 0x400  # bytes


def build_pe(
    sections: list[bytes],
    *,
    certificates: bytes = b"",
    trailing: bytes = b"",
    checksum: int = 0,
    setup: bool = False,
    protocol: int = 0x20F,
    loadflags: int = 0x01,
    xloadflags: int = 0x02,
    initrd_max: int = 0x7FFFFFFF,
) -> bytes:
    """Return a PE32+ image whose sections follow its headers; setup: with a Linux setup header."""
    image = bytearray(HEADERS)
    pe = 0x280
    struct.pack_into("<H58xI", image, 0, 0x5A4D, pe)
    if setup:
        image[0x202:0x206] = b"HdrS"
        struct.pack_into("<H", image, 0x206, protocol)
        image[0x211] = loadflags
        struct.pack_into("<I", image, 0x22C, initrd_max)
        struct.pack_into("<H", image, 0x236, xloadflags)
    struct.pack_into("<4sHH12xHH", image, pe, b"PE\0\0", 0x8664, len(sections), 112 + 5 * 8, 0x20E)
    optional = pe + 24
    struct.pack_into("<H", image, optional, 0x20B)
    struct.pack_into("<II", image, optional + 60, HEADERS, checksum)
    struct.pack_into("<I", image, optional + 108, 5)
    at = HEADERS
    table = optional + 112 + 5 * 8
    for index, section in enumerate(sections):
        struct.pack_into("<16xII16x", image, table + index * 40, len(section), at if section else 0)
        at += len(section)
    if certificates:
        where = at + len(trailing)
        struct.pack_into("<II", image, optional + 112 + 4 * 8, where, len(certificates))
    return bytes(image) + b"".join(sections) + trailing + certificates
