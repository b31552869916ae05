"""What a TDX virtual firmware (TDVF) image says about itself: the sections that its launcher loads.

It reads; what the sections measure to is for `measure`. OVMF and TD-Shim have the same metadata in different places.

Source: Intel TDX Virtual Firmware Design Guide, section 11 (metadata); edk2
OvmfPkg/ResetVector/X64/IntelTdxMetadata.asm; confidential-containers td-shim, doc/tdshim_spec.md, part I.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from uuid import UUID

from krunpy.core.errors import FormatError
from krunpy.formats.ovmf import read_table_entries

MOST_ADDED_MEMORY = 256 << 20  # bytes that a launch adds page by page; firmware asks for some MiB

_METADATA_OFFSET = UUID("e47a6535-984a-4798-865e-4685a7bf8ec2")
_SHIM_METADATA = UUID("e9eaf9f3-168e-44d5-a8eb-7f4d8738f6ae")  # before TD-Shim's
_SHIM_OFFSET_AT = 0x20  # bytes before its end: where the metadata are, from its beginning
_U32 = struct.Struct("<I")
_HEADER = struct.Struct("<4sIII")  # signature, length, version, number of sections
_SECTION = struct.Struct("<IIQQII")  # offset and size in the image, gpa, size in memory, type, attributes
_VERSION = 1
_MOST_SECTIONS = 64
_PAGE_MASK = 0xFFF
_LARGEST_GPA = 1 << 52


class TdvfType(IntEnum):
    """What a section holds."""

    BFV = 0
    CFV = 1
    TD_HOB = 2
    TEMP_MEM = 3
    PERM_MEM = 4
    PAYLOAD = 5
    PAYLOAD_PARAM = 6
    TD_INFO = 7


class TdvfAttributes(IntFlag):
    """How a section reaches memory: its contents are measured; its pages are accepted by the guest, not added."""

    MR_EXTEND = 1
    PAGE_AUG = 2


_KNOWN_ATTRIBUTES = int(TdvfAttributes.MR_EXTEND | TdvfAttributes.PAGE_AUG)  # ~ of a flag forgets other bits


@dataclass(frozen=True, slots=True, kw_only=True)
class TdvfSection:
    """One run of guest pages; gpa and size are multiples of 4096 bytes.

    contents: from the image, at most `size` bytes; the rest of the section is zero.
    """

    kind: TdvfType
    attributes: TdvfAttributes
    gpa: int
    size: int
    contents: bytes


def _refuse(why: str, next_step: str = "") -> FormatError:
    return FormatError("cannot read the TDX firmware", why=why, next=next_step)


def _find_metadata(firmware: bytes) -> int:
    entry = read_table_entries(firmware).get(_METADATA_OFFSET)
    if entry is None:
        if (at := _find_shim_metadata(firmware)) is not None:
            return at
        raise _refuse(
            "it has no TDVF metadata, so TDX cannot boot it",
            "use an OVMF image built for Intel TDX (Debian: package ovmf-inteltdx)",
        )
    if len(entry) != _U32.size:
        raise _refuse(f"seen {len(entry)} bytes of metadata offset, wanted 4")
    (from_end,) = _U32.unpack(entry)
    if not _HEADER.size <= from_end <= len(firmware):
        raise _refuse(f"seen TDVF metadata at {from_end} bytes before the end of {len(firmware)}")
    return len(firmware) - int(from_end)


def _find_shim_metadata(firmware: bytes) -> int | None:
    """Return where TD-Shim's metadata are, None if this is another firmware."""
    (at,) = _U32.unpack_from(firmware, len(firmware) - _SHIM_OFFSET_AT)
    guid = _SHIM_METADATA.bytes_le
    is_there = len(guid) <= at <= len(firmware) - _HEADER.size and firmware[at - len(guid) : at] == guid
    return int(at) if is_there else None


def _parse_section(firmware: bytes, at: int) -> TdvfSection | None:
    """Return a section, None for one that stays where it is: TD_INFO, which is part of another."""
    offset, raw_size, gpa, size, kind, attributes = _SECTION.unpack_from(firmware, at)
    if kind not in TdvfType.__members__.values():
        raise _refuse(f"seen section type {kind:#x}, wanted 0 to 7")
    if kind == TdvfType.TD_INFO and not gpa and not size:
        return None
    if attributes & ~_KNOWN_ATTRIBUTES:
        raise _refuse(f"seen section attributes {attributes:#x}, wanted bits 0 and 1 at most")
    if gpa & _PAGE_MASK or size & _PAGE_MASK or not size or gpa + size > _LARGEST_GPA:
        raise _refuse(f"seen a section of {size:#x} bytes at {gpa:#x}, wanted whole pages")
    if raw_size > size or offset + raw_size > len(firmware):
        raise _refuse(f"seen {raw_size:#x} bytes at {offset:#x} of the image for a section of {size:#x}")
    return TdvfSection(
        kind=TdvfType(kind),
        attributes=TdvfAttributes(attributes),
        gpa=gpa,
        size=size,
        contents=firmware[offset : offset + raw_size],
    )


def parse_tdvf(firmware: bytes) -> tuple[TdvfSection, ...]:
    """Return the sections of a TDVF image, in file order.

    firmware: a whole number of pages, at most 64 MiB.

    Raises FormatError if it has no TDVF metadata, or the metadata contradicts itself or the image.
    """
    at = _find_metadata(firmware)
    signature, length, version, count = _HEADER.unpack_from(firmware, at)
    if signature != b"TDVF" or version != _VERSION:
        raise _refuse(f"seen {signature!r} version {version}, wanted TDVF version 1")
    end = _HEADER.size + count * _SECTION.size
    if not 0 < count <= _MOST_SECTIONS or length < end or at + end > len(firmware):
        raise _refuse(f"seen {count} sections in {length} bytes of metadata")
    found = (_parse_section(firmware, at + _HEADER.size + index * _SECTION.size) for index in range(count))
    sections = tuple(section for section in found if section is not None)
    added = sum(item.size for item in sections if TdvfAttributes.PAGE_AUG not in item.attributes)
    if added > MOST_ADDED_MEMORY or sum(len(item.contents) for item in sections) > MOST_ADDED_MEMORY:
        raise _refuse(f"seen sections of {added} bytes to add, wanted at most {MOST_ADDED_MEMORY}")
    return sections


def find_configuration(sections: tuple[TdvfSection, ...]) -> bytes | None:
    """Return the configuration volume (CFV) that the firmware measures into RTMR0, None if there is none."""
    return next((item.contents for item in sections if item.kind is TdvfType.CFV), None)
