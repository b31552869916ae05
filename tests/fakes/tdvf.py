"""TDX firmware images with the metadata that TDVF has, each member as a test wants it."""

from __future__ import annotations

import struct
from uuid import UUID

from tests.fakes.firmware import FOOTER, entry

METADATA_OFFSET = UUID("e47a6535-984a-4798-865e-4685a7bf8ec2")
METADATA_AT = 256
SECTIONS = [
    (0x1000, 0x1000, 0xFFFFF000, 0x1000, 0, 1),
    (0, 0x1000, 0xFFFFE000, 0x1000, 1, 0),
    (0, 0, 0x809000, 0x2000, 2, 0),
    (0, 0, 0x810000, 0x2000, 3, 0),
    (0, 0, 0x900000, 0x2000, 4, 2),
]


def build_tdvf(
    sections: list[tuple[int, int, int, int, int, int]] = SECTIONS,
    *,
    size: int = 8192,
    signature: bytes = b"TDVF",
    version: int = 1,
    count: int | None = None,
    length: int | None = None,
    from_end: int | None = None,
) -> bytes:
    """Return an image of `size` bytes; sections are (offset, raw size, gpa, size, type, attributes)."""
    image = bytearray(index * 31 % 251 for index in range(size))
    body = b"".join(struct.pack("<IIQQII", *section) for section in sections)
    stated = 16 + len(body) if length is None else length
    header = struct.pack("<4sIII", signature, stated, version, len(sections) if count is None else count)
    image[METADATA_AT : METADATA_AT + 16 + len(body)] = header + body
    table = entry(METADATA_OFFSET, struct.pack("<I", size - METADATA_AT if from_end is None else from_end))
    table += struct.pack("<H16s", len(table) + 18, FOOTER.bytes_le)
    image[size - 32 - len(table) : size - 32] = table
    return bytes(image)


_SHIM_METADATA = UUID("e9eaf9f3-168e-44d5-a8eb-7f4d8738f6ae")
# as td-shim's default metadata for Linux have them, small: offset, raw size, gpa, size, type, attributes
SHIM_SECTIONS = [
    (0x1000, 0x1000, 0xFFFFF000, 0x1000, 0, 1),
    (0, 0x1000, 0xFF000000, 0x1000, 1, 0),
    (0, 0, 0xFF042000, 0x2000, 3, 0),
    (0, 0, 0x800000, 0x2000, 2, 0),
    (0, 0, 0x861000, 0x2000000, 5, 0),
    (0, 0, 0x860000, 0x1000, 6, 0),
    (0x1800, 0x100, 0, 0, 7, 0),
]


def build_td_shim(
    sections: list[tuple[int, int, int, int, int, int]] = SHIM_SECTIONS, *, guid: UUID = _SHIM_METADATA
) -> bytes:
    """Return an image of two pages whose metadata are where TD-Shim has them."""
    image = bytearray(index * 37 % 241 for index in range(8192))
    body = b"".join(struct.pack("<IIQQII", *section) for section in sections)
    metadata = guid.bytes_le + struct.pack("<4sIII", b"TDVF", 16 + len(body), 1, len(sections)) + body
    image[METADATA_AT : METADATA_AT + len(metadata)] = metadata
    struct.pack_into("<I", image, len(image) - 0x20, METADATA_AT + 16)
    return bytes(image)
