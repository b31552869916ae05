"""Firmware images with the table that OVMF has, each entry as a test wants it."""

from __future__ import annotations

import struct
from uuid import UUID

FOOTER = UUID("96b582de-1fb2-45f7-baea-a366c55a082d")
SEV_METADATA = UUID("dc886566-984a-4798-a75e-5585a7bf67cc")
SEV_HASH_TABLE = UUID("7255371f-3a3b-4b04-927b-1da6efa8d454")
SEV_ES_RESET = UUID("00f771de-1a7e-4fcb-890e-68c77e2fb44e")
AMD_SEV_SECTIONS = [
    (1, 0x800000, 0x9000),
    (2, 0x80D000, 0x1000),
    (3, 0x80E000, 0x1000),
    (0x10, 0x810000, 0x1000),
    (1, 0x811000, 0xF000),
]


def entry(guid: UUID, data: bytes) -> bytes:
    return data + struct.pack("<H16s", len(data) + 18, guid.bytes_le)


def build_firmware(
    *,
    sections: list[tuple[int, int, int]] | None = None,
    hash_table_gpa: int | None = None,
    reset_eip: int | None = None,
    size: int = 8192,
    count: int | None = None,
    version: int = 1,
    signature: bytes = b"ASEV",
    metadata_size: int | None = None,
    from_end: int | None = None,
    more: bytes = b"",
    table_size: int | None = None,
) -> bytes:
    """Return an image of `size` bytes; sections are (type, gpa, size)."""
    image = bytearray(b"\x90" * size)
    table = more
    if sections is not None:
        body = b"".join(struct.pack("<III", gpa, length, kind) for kind, gpa, length in sections)
        stated = 16 + len(body) if metadata_size is None else metadata_size
        header = struct.pack("<4sIII", signature, stated, version, len(sections) if count is None else count)
        image[1024 : 1024 + 16 + len(body)] = header + body
        table += entry(SEV_METADATA, struct.pack("<I", size - 1024 if from_end is None else from_end))
    if hash_table_gpa is not None:
        table += entry(SEV_HASH_TABLE, struct.pack("<II", hash_table_gpa, 0x400))
    if reset_eip is not None:
        table += entry(SEV_ES_RESET, struct.pack("<I", reset_eip))
    length = len(table) + 18 if table_size is None else table_size
    table += struct.pack("<H16s", length, FOOTER.bytes_le)
    image[size - 32 - len(table) : size - 32] = table
    return bytes(image)


def build_sev_firmware(size: int = 8192) -> bytes:
    """Return an image as edk2's AmdSev platform makes it."""
    return build_firmware(sections=AMD_SEV_SECTIONS, hash_table_gpa=0x810400, reset_eip=0x80B004, size=size)
