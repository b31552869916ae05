"""CRC-32C as file systems have it: without the final inversion, and over several pieces.

Source: Linux lib/crc32.c (__crc32c_le); RFC 3720, appendix B.4 (the polynomial).
"""

from __future__ import annotations

CRC32C_START = 0xFFFFFFFF


def _make_table() -> tuple[int, ...]:
    table = []
    for index in range(256):
        value = index
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_TABLE = _make_table()


def fold_crc32c(value: int, data: bytes | bytearray) -> int:
    """Return the checksum over more bytes. value: of the bytes before, CRC32C_START where there are none."""
    table = _TABLE
    for byte in data:
        value = (value >> 8) ^ table[(value ^ byte) & 0xFF]
    return value
