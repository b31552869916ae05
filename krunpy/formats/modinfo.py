"""What a Linux kernel module says of itself in its .modinfo section.

Source: ELF-64 object file format (System V ABI); Linux include/linux/moduleparam.h, module.h,
module_signature.h.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from krunpy.core.errors import FormatError

_ELF_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_MAX_SECTIONS = 4096
# include/linux/module_signature.h: the signature, these 12 bytes, the magic
_SIGNATURE_MAGIC = b"~Module signature appended~\n"
_SIGNATURE_TRAILER = struct.Struct(">8xI")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleInfo:
    """A module's name (underscores), what it needs first, and the kernel it was built for."""

    name: str
    depends: tuple[str, ...]
    soft_before: tuple[str, ...]
    vermagic: str


def module_name(text: str) -> str:
    """Return the one spelling of a module's name: dashes are underscores."""
    return text.replace("-", "_")


def parse_modinfo(data: bytes) -> ModuleInfo:
    """Return what an uncompressed .ko file says of itself. Raises FormatError on any other bytes."""
    values: dict[str, list[str]] = {}
    for item in _find_section(data, b".modinfo").split(b"\0"):
        key, equals, value = item.partition(b"=")
        if equals:
            values.setdefault(key.decode("ascii", "replace"), []).append(value.decode("utf-8", "replace"))
    if "name" not in values:
        raise FormatError("cannot read the kernel module", why="its .modinfo holds no name")
    soft = [word for text in values.get("softdep", []) for word in _before(text)]
    depends = values.get("depends", [""])[0]
    return ModuleInfo(
        name=module_name(values["name"][0]),
        depends=tuple(module_name(word) for word in depends.split(",") if word),
        soft_before=tuple(module_name(word) for word in soft),
        vermagic=values.get("vermagic", [""])[0],
    )


def cut_signature(data: bytes) -> bytes:
    """Return a module without the signature behind its ELF file, if it has one; otherwise as it is."""
    end = len(data) - len(_SIGNATURE_MAGIC) - _SIGNATURE_TRAILER.size
    if end < 0 or not data.endswith(_SIGNATURE_MAGIC):
        return data
    (size,) = _SIGNATURE_TRAILER.unpack_from(data, end)
    if size > end:
        raise FormatError("cannot read the kernel module", why=f"its signature of {size} bytes is cut off")
    return data[: end - size]


def _before(text: str) -> list[str]:
    words: list[str] = []
    before = False
    for word in text.split():
        if word.endswith(":"):
            before = word == "pre:"
        elif before:
            words.append(word)
    return words


def _find_section(data: bytes, wanted: bytes) -> bytes:
    what = "cannot read the kernel module"
    if len(data) < _ELF_HEADER.size or data[:6] != b"\x7fELF\x02\x01":
        raise FormatError(what, why="it is not a little-endian ELF-64 file")
    header = _ELF_HEADER.unpack_from(data)
    table, entry_size, count, names_index = header[6], header[11], header[12], header[13]
    if entry_size != _SECTION.size or not 0 < count <= _MAX_SECTIONS or names_index >= count:
        raise FormatError(what, why="its section table is broken")
    if table + count * entry_size > len(data):
        raise FormatError(what, why="its section table is cut off")
    sections = [_SECTION.unpack_from(data, table + index * entry_size) for index in range(count)]
    names = _contents(data, sections[names_index])
    for section in sections:
        name = names[section[0] :].split(b"\0", 1)[0]
        if name == wanted:
            return _contents(data, section)
    raise FormatError(what, why=f"it has no section {wanted.decode()}")


def _contents(data: bytes, section: tuple[int, ...]) -> bytes:
    offset, size = section[4], section[5]
    if offset + size > len(data):
        raise FormatError("cannot read the kernel module", why="a section reaches past the end of the file")
    return data[offset : offset + size]
