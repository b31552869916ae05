"""What an OVMF firmware image says about itself: the GUIDed table and the SEV metadata.

It reads; which pages follow from the metadata is for `measure`.

Source: edk2 OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.asm and OvmfPkg/ResetVector/X64/OvmfSevMetadata.asm.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from uuid import UUID

from krunpy.core.errors import FormatError

FOUR_GIB = 1 << 32
LARGEST_FIRMWARE = 64 << 20  # bytes

_FOOTER = UUID("96b582de-1fb2-45f7-baea-a366c55a082d")
_SEV_METADATA = UUID("dc886566-984a-4798-a75e-5585a7bf67cc")
_SEV_HASH_TABLE = UUID("7255371f-3a3b-4b04-927b-1da6efa8d454")
_SEV_ES_RESET_BLOCK = UUID("00f771de-1a7e-4fcb-890e-68c77e2fb44e")

_AFTER_TABLE = 32  # bytes between the table's end and the image's end
_ENTRY_TAIL = struct.Struct("<H16s")  # an entry ends with its length and GUID, as the table itself does
_METADATA_HEADER = struct.Struct("<4sIII")
_METADATA_SECTION = struct.Struct("<III")
_METADATA_VERSION = 1
_U32 = struct.Struct("<I")
_MOST_SECTIONS = 64
_LARGEST_SECTION = 16 << 20  # bytes; firmware asks for some hundred KiB
_PAGE_MASK = 0xFFF


class SectionType(IntEnum):
    """What the launcher does with a section of the SEV metadata."""

    SEC_MEM = 1
    SECRETS = 2
    CPUID = 3
    SVSM_CAA = 4
    KERNEL_HASHES = 0x10


@dataclass(frozen=True, slots=True, kw_only=True)
class SevSection:
    """One run of guest pages that the firmware wants; gpa and size are multiples of 4096 bytes."""

    kind: SectionType
    gpa: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FirmwareTable:
    """What the table at the end of a firmware image says; None where it has no such entry.

    sections: None if the image has no SEV metadata, else its sections in file order.
    """

    sections: tuple[SevSection, ...] | None
    hash_table_gpa: int | None
    ap_reset_eip: int | None


def _refuse(why: str) -> FormatError:
    return FormatError("cannot read the firmware's table", why=why)


def read_table_entries(firmware: bytes) -> dict[UUID, bytes]:
    """Return the entries of the GUIDed table at a firmware image's end, none if it has no table.

    Raises FormatError if the image is no whole number of pages, over 64 MiB, or the table contradicts itself.
    """
    if not firmware or len(firmware) & _PAGE_MASK or len(firmware) > LARGEST_FIRMWARE:
        raise _refuse(f"seen a firmware of {len(firmware)} bytes, wanted pages of 4096, at most 64 MiB")
    end = len(firmware) - _AFTER_TABLE
    if end < _ENTRY_TAIL.size:
        return {}
    length, guid = _ENTRY_TAIL.unpack_from(firmware, end - _ENTRY_TAIL.size)
    if guid != _FOOTER.bytes_le:
        return {}
    start = end - length
    if length < _ENTRY_TAIL.size or start < 0:
        raise _refuse(f"seen a table of {length} bytes in {len(firmware)}")
    at = end - _ENTRY_TAIL.size
    entries: dict[UUID, bytes] = {}
    while at - start >= _ENTRY_TAIL.size:
        length, guid = _ENTRY_TAIL.unpack_from(firmware, at - _ENTRY_TAIL.size)
        if length < _ENTRY_TAIL.size or length > at - start:
            raise _refuse(f"seen an entry of {length} bytes, wanted {_ENTRY_TAIL.size} to {at - start}")
        name = UUID(bytes_le=guid)
        if name in entries:
            raise _refuse(f"seen {name} twice")
        entries[name] = firmware[at - length : at - _ENTRY_TAIL.size]
        at -= length
    return entries


def _read_u32(entry: bytes, what: str) -> int:
    if len(entry) < _U32.size:
        raise _refuse(f"seen {len(entry)} bytes of {what}, wanted at least 4")
    (value,) = _U32.unpack_from(entry)
    return int(value)


def _read_sections(firmware: bytes, from_end: int) -> tuple[SevSection, ...]:
    start = len(firmware) - from_end
    if start < 0 or from_end < _METADATA_HEADER.size:
        raise _refuse(f"seen SEV metadata at {from_end} bytes before the end of {len(firmware)}")
    signature, size, version, count = _METADATA_HEADER.unpack_from(firmware, start)
    if signature != b"ASEV" or version != _METADATA_VERSION:
        raise _refuse(f"seen SEV metadata {signature!r} version {version}, wanted ASEV version 1")
    wanted = _METADATA_HEADER.size + count * _METADATA_SECTION.size
    if count > _MOST_SECTIONS or size < wanted or size > from_end:
        raise _refuse(f"seen {count} SEV sections in {size} bytes")
    sections = []
    for index in range(count):
        offset = start + _METADATA_HEADER.size + index * _METADATA_SECTION.size
        gpa, length, kind = _METADATA_SECTION.unpack_from(firmware, offset)
        if kind not in SectionType.__members__.values():
            raise _refuse(f"seen SEV section type {kind:#x}, wanted 1 to 4 or 0x10")
        if gpa & _PAGE_MASK or length & _PAGE_MASK or not 0 < length <= _LARGEST_SECTION:
            raise _refuse(f"seen a SEV section of {length:#x} bytes at {gpa:#x}, wanted whole pages")
        sections.append(SevSection(kind=SectionType(kind), gpa=gpa, size=length))
    return tuple(sections)


def parse_firmware_table(firmware: bytes) -> FirmwareTable:
    """Return what the GUIDed table of a firmware image says.

    firmware: a whole number of pages, at most 64 MiB; an image without a table has no entries.

    Raises FormatError if the image has another size or the table contradicts itself.
    """
    entries = read_table_entries(firmware)
    sections = None
    if (entry := entries.get(_SEV_METADATA)) is not None:
        sections = _read_sections(firmware, _read_u32(entry, "SEV metadata"))
    hash_table = entries.get(_SEV_HASH_TABLE)
    reset = entries.get(_SEV_ES_RESET_BLOCK)
    return FirmwareTable(
        sections=sections,
        # edk2 fills in 0 where the firmware was built without the hash table
        hash_table_gpa=(_read_u32(hash_table, "hash table") or None) if hash_table is not None else None,
        ap_reset_eip=_read_u32(reset, "reset block") if reset is not None else None,
    )
