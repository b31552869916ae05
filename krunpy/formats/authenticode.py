"""Which bytes of a PE image its Authenticode digest covers. No signature is read.

UEFI firmware measures an application so, whatever the hash: without checksum, certificate entry and
certificates.

Source: Microsoft, Windows Authenticode Portable Executable Signature Format, "Calculating the PE Image
Hash"; edk2 OvmfPkg/Tcg/TdTcg2Dxe/MeasureBootPeCoff.c, whose order and refusals are followed.
"""

from __future__ import annotations

import struct
from hashlib import sha384

from krunpy.core.errors import FormatError
from krunpy.core.octets import Digest48

_DOS_HEADER = struct.Struct("<H58xI")  # magic, offset of the PE header
_COFF_HEADER = struct.Struct("<I2xH12xH2x")  # signature, number of sections, size of the optional header
_SECTION = struct.Struct("<16xII16x")  # size and offset of the raw data
_DIRECTORY = struct.Struct("<II")
_U16, _U32 = struct.Struct("<H"), struct.Struct("<I")
_DOS_MAGIC = int.from_bytes(b"MZ", "little")
_PE_SIGNATURE = int.from_bytes(b"PE\0\0", "little")
_DIRECTORIES = {0x10B: 96, 0x20B: 112}  # offset in the optional header, by its magic: PE32, PE32+
_SIZE_OF_HEADERS = 60  # offset in the optional header
_CHECKSUM = 64
_CERTIFICATES = 4  # index of the directory of certificates


def _refuse(why: str) -> FormatError:
    return FormatError("cannot hash the PE image", why=why)


def _unpack(kind: struct.Struct, image: bytes, at: int) -> tuple[int, ...]:
    if at + kind.size > len(image):
        raise _refuse(f"seen {len(image)} bytes, its headers reach to {at + kind.size}")
    return kind.unpack_from(image, at)


def _list_sections(image: bytes, at: int, count: int) -> list[tuple[int, int]]:
    """Return (offset, size) of each section's raw data in the order of the file."""
    found = []
    for index in range(count):
        size, offset = _unpack(_SECTION, image, at + index * _SECTION.size)
        if size:
            found.append((offset, size))
        if offset + size > len(image):
            raise _refuse(f"seen a section of {size} bytes at {offset} in {len(image)}")
    return sorted(found, key=lambda item: item[0])


def list_hashed_parts(image: bytes) -> list[memoryview]:
    """Return the runs of bytes that the Authenticode digest covers, in its order.

    Raises FormatError if the bytes are no PE image, or its sections overlap so far that they exceed it.
    """
    magic, pe = _unpack(_DOS_HEADER, image, 0)
    if magic != _DOS_MAGIC:
        raise _refuse("it does not begin with MZ")
    signature, count, optional_size = _unpack(_COFF_HEADER, image, pe)
    optional = pe + _COFF_HEADER.size
    (kind,) = _unpack(_U16, image, optional)
    if signature != _PE_SIGNATURE or kind not in _DIRECTORIES:
        raise _refuse(f"seen signature {signature:#x} and magic {kind:#x}, wanted a PE32 or PE32+ image")
    directories = optional + _DIRECTORIES[kind]
    (headers_size,) = _unpack(_U32, image, optional + _SIZE_OF_HEADERS)
    (directory_count,) = _unpack(_U32, image, directories - _U32.size)
    entry = directories + _CERTIFICATES * _DIRECTORY.size
    has_entry = directory_count > _CERTIFICATES
    after_checksum = optional + _CHECKSUM + _U32.size
    if not (entry + _DIRECTORY.size if has_entry else after_checksum) <= headers_size <= len(image):
        raise _refuse(f"seen headers of {headers_size} bytes in {len(image)}")
    view = memoryview(image)
    parts = [view[: after_checksum - _U32.size]]
    certificates_size = 0
    if has_entry:
        _offset, certificates_size = _unpack(_DIRECTORY, image, entry)
        parts += [view[after_checksum:entry], view[entry + _DIRECTORY.size : headers_size]]
    else:
        parts.append(view[after_checksum:headers_size])
    sections = _list_sections(image, optional + optional_size, count)
    parts += [view[offset : offset + size] for offset, size in sections]
    hashed = headers_size + sum(size for _offset, size in sections)
    if hashed + certificates_size > len(image):
        raise _refuse(
            f"seen {hashed} bytes of sections and {certificates_size} of certificates in {len(image)}"
        )
    return [*parts, view[hashed : len(image) - certificates_size]]


def hash_authenticode(image: bytes) -> Digest48:
    """Return the Authenticode SHA-384 of a PE image. Raises FormatError if it is not one."""
    running = sha384()
    for part in list_hashed_parts(image):
        running.update(part)
    return Digest48(running.digest())
