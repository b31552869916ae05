"""A shared object that libkrun takes for libkrunfw-sev: kernel, firmware, initrd, and the functions that return them.

Made by Python alone. Everything in it is what an SEV-SNP machine of libkrun boots and its launch digest measures; the
object itself is not measured. File offsets are addresses, and nothing has to be relocated.

Source: libkrunfw bin2cbundle.py (names and prototypes); libkrun src/libkrun/src/lib.rs (how they are called);
ELF-64 Object File Format 1.5; System V ABI, AMD64 supplement, 3.2.3 (registers).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from krunpy.core.errors import FormatError
from krunpy.formats.krun_kernel import LARGEST_KERNEL, PAGE_SIZE, KrunKernel

QBOOT_SIZE = 0x10000  # bytes
INITRD_GPA = 0xA00000  # where libkrun puts the initrd; the kernel is loaded above it
KERNEL_STEP = 0x10000  # bytes; upstream's kernels are padded so
LARGEST_INITRD = 256 << 20  # bytes
ABI_VERSION = 5
SONAMES = ("libkrunfw-sev.so.5", "libkrunfw-sev.so.4")

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_DYNAMIC = struct.Struct("<qQ")
_SHARED, _X86_64 = 3, 62
_LOAD, _DYNAMIC_SEGMENT, _STACK = 1, 2, 0x6474E551
_R, _W, _X = 4, 2, 1
_PROGBITS, _STRTAB, _HASH, _DYNAMIC_SECTION, _DYNSYM = 1, 3, 5, 6, 11
_FUNCTION, _OBJECT = 0x12, 0x11  # global
_DT_HASH, _DT_STRTAB, _DT_SYMTAB, _DT_STRSZ, _DT_SYMENT, _DT_SONAME = 4, 5, 6, 10, 11, 14
_TABLES_AT, _TEXT_AT, _DYNAMIC_AT, _DATA_AT = 0x200, 0x1000, 0x2000, 0x10000
_TEXT_SECTION, _DATA_SECTION = 4, 6  # indices in the section table


@dataclass(frozen=True, slots=True, kw_only=True)
class KrunBundle:
    """What a bundle holds. qboot: 64 KiB. kernel: as it lies in memory; kernel and initrd are whole pages."""

    kernel: KrunKernel
    qboot: bytes
    initrd: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Symbol:
    name: str
    address: int
    size: int
    kind: int
    section: int


def pad(contents: bytes, step: int) -> bytes:
    """Return contents with zero bytes up to the next multiple of `step` bytes."""
    return contents + bytes(-len(contents) % step)


def require_bootable(bundle: KrunBundle) -> None:
    """Raise FormatError if libkrun would refuse a part, or let initrd and kernel overlap."""
    kernel = bundle.kernel
    what = "cannot use the bundle"
    if len(bundle.qboot) != QBOOT_SIZE:
        raise FormatError(what, why=f"qboot has {len(bundle.qboot)} bytes, wanted {QBOOT_SIZE}")
    for name, contents, largest in (
        ("kernel", kernel.image, LARGEST_KERNEL),
        ("initrd", bundle.initrd, LARGEST_INITRD),
    ):
        if not 0 < len(contents) <= largest or len(contents) % PAGE_SIZE:
            raise FormatError(
                what, why=f"{name} has {len(contents)} bytes, wanted pages of {PAGE_SIZE}, at most {largest}"
            )
    if kernel.load_gpa % PAGE_SIZE or not kernel.load_gpa <= kernel.entry_gpa < kernel.load_gpa + len(
        kernel.image
    ):
        raise FormatError(
            what, why=f"the kernel's entry {kernel.entry_gpa:#x} is not in its image at {kernel.load_gpa:#x}"
        )
    room = kernel.load_gpa - INITRD_GPA
    if len(bundle.initrd) > room:
        raise FormatError(
            what,
            why=f"the initrd has {len(bundle.initrd)} bytes, and there are {max(room, 0)} between "
            f"{INITRD_GPA:#x} and the kernel",
            next="use a smaller initrd, or a kernel that is loaded higher",
        )


def pack_bundle(bundle: KrunBundle, soname: str) -> bytes:
    """Return the shared object as `pack_parts` does, in one piece."""
    return b"".join(pack_parts(bundle, soname))


def pack_parts(bundle: KrunBundle, soname: str) -> tuple[bytes, ...]:
    """Return the shared object in pieces, its large parts uncopied. soname: what the libkrun at hand asks for.

    Equal inputs give equal bytes. Raises FormatError as `require_bootable` does.
    """
    require_bootable(bundle)
    parts = {
        "KERNEL_BUNDLE": bundle.kernel.image,
        "QBOOT_BUNDLE": bundle.qboot,
        "INITRD_BUNDLE": bundle.initrd,
    }
    places, end = _place(parts)
    text, functions = _assemble(bundle, places)
    symbols = [
        *functions,
        *(
            _Symbol(name=name, address=places[name], size=len(data), kind=_OBJECT, section=_DATA_SECTION)
            for name, data in parts.items()
        ),
    ]
    names = _StringTable([soname, *(symbol.name for symbol in symbols)])
    tables = _Tables(symbols, names)
    head = bytearray(_DATA_AT)
    head[_TABLES_AT : _TABLES_AT + len(tables.contents)] = tables.contents
    head[_TEXT_AT : _TEXT_AT + len(text)] = text
    dynamic = tables.pack_dynamic(names.find(soname))
    head[_DYNAMIC_AT : _DYNAMIC_AT + len(dynamic)] = dynamic
    sections = _pack_sections(tables, text, dynamic, end)
    head[: _HEADER.size] = _pack_header(end, len(sections) // _SECTION.size)
    segments = _pack_segments(len(text), len(dynamic), end)
    head[_HEADER.size : _HEADER.size + len(segments)] = segments
    return (bytes(head), *parts.values(), sections, _SECTION_NAMES.contents)


def _place(parts: dict[str, bytes]) -> tuple[dict[str, int], int]:
    """Return the address of each part, and where the last ends."""
    places: dict[str, int] = {}
    at = _DATA_AT
    for name, data in parts.items():
        places[name] = at
        at += len(data)
    return places, at


def _assemble(bundle: KrunBundle, places: dict[str, int]) -> tuple[bytes, list[_Symbol]]:
    """Return the code: each function stores its numbers through its arguments and returns an address."""
    kernel = bundle.kernel
    wanted = {
        "krunfw_get_kernel": (
            [(_RDI, kernel.load_gpa), (_RSI, kernel.entry_gpa), (_RDX, len(kernel.image))],
            places["KERNEL_BUNDLE"],
        ),
        "krunfw_get_initrd": ([(_RDI, len(bundle.initrd))], places["INITRD_BUNDLE"]),
        "krunfw_get_qboot": ([(_RDI, len(bundle.qboot))], places["QBOOT_BUNDLE"]),
    }
    text = bytearray()
    symbols: list[_Symbol] = []

    def add(name: str, code: bytes) -> None:
        symbols.append(
            _Symbol(
                name=name, address=_TEXT_AT + len(text), size=len(code), kind=_FUNCTION, section=_TEXT_SECTION
            )
        )
        text.extend(pad(code, 16))

    for name, (stores, address) in wanted.items():
        code = _ENDBR64 + b"".join(_MOV_RAX + struct.pack("<Q", value) + into for into, value in stores)
        code += _LEA_RAX
        after = _TEXT_AT + len(text) + len(code) + 4
        add(name, code + struct.pack("<i", address - after) + _RET)
    add("krunfw_get_version", _ENDBR64 + _MOV_EAX + struct.pack("<I", ABI_VERSION) + _RET)
    return bytes(text), symbols


_ENDBR64, _RET = b"\xf3\x0f\x1e\xfa", b"\xc3"
_MOV_RAX, _MOV_EAX, _LEA_RAX = b"\x48\xb8", b"\xb8", b"\x48\x8d\x05"  # mov imm64, mov imm32, lea disp32(%rip)
_RDI, _RSI, _RDX = b"\x48\x89\x07", b"\x48\x89\x06", b"\x48\x89\x02"  # mov %rax, (register)


class _StringTable:
    """Names, each ended by a zero byte; the first is empty."""

    def __init__(self, names: list[str]) -> None:
        self.contents = b"\0" + b"".join(name.encode() + b"\0" for name in names)

    def find(self, name: str) -> int:
        """Return where a name begins."""
        return self.contents.index(b"\0" + name.encode() + b"\0") + 1


class _Tables:
    """Hash table, symbols and their names, as they lie from _TABLES_AT on."""

    def __init__(self, symbols: list[_Symbol], names: _StringTable) -> None:
        count = len(symbols) + 1
        # one bucket: a chain through all symbols, whatever their names' hash
        self.hash = struct.pack(f"<{3 + count}I", 1, count, 1, *(0, *range(2, count), 0))
        self.symbols = bytes(_SYMBOL.size) + b"".join(
            _SYMBOL.pack(names.find(item.name), item.kind, 0, item.section, item.address, item.size)
            for item in symbols
        )
        self.names = names.contents
        self.hash_at = _TABLES_AT
        self.symbols_at = self.hash_at + len(pad(self.hash, 8))
        self.names_at = self.symbols_at + len(self.symbols)
        self.contents = pad(self.hash, 8) + self.symbols + self.names

    def pack_dynamic(self, soname_at: int) -> bytes:
        """Return the dynamic section."""
        entries = (
            (_DT_SONAME, soname_at), (_DT_HASH, self.hash_at), (_DT_STRTAB, self.names_at),
            (_DT_SYMTAB, self.symbols_at), (_DT_STRSZ, len(self.names)), (_DT_SYMENT, _SYMBOL.size), (0, 0),
        )  # fmt: skip
        return b"".join(_DYNAMIC.pack(tag, value) for tag, value in entries)


_SECTION_NAMES = _StringTable([".hash", ".dynsym", ".dynstr", ".text", ".dynamic", ".rodata", ".shstrtab"])


def _pack_header(end: int, sections: int) -> bytes:
    return _HEADER.pack(
        b"\x7fELF\2\1\1", _SHARED, _X86_64, 1, 0, _HEADER.size, end, 0,
        _HEADER.size, _SEGMENT.size, 6, _SECTION.size, sections, sections - 1,
    )  # fmt: skip


def _pack_segments(text: int, dynamic: int, end: int) -> bytes:
    segments = (
        (_LOAD, _R, 0, _TEXT_AT),
        (_LOAD, _R | _X, _TEXT_AT, text),
        (_LOAD, _R | _W, _DYNAMIC_AT, dynamic),  # the loader writes into it
        (_LOAD, _R, _DATA_AT, end - _DATA_AT),
        (_DYNAMIC_SEGMENT, _R | _W, _DYNAMIC_AT, dynamic),
        (_STACK, _R | _W, 0, 0),
    )
    return b"".join(
        _SEGMENT.pack(kind, rights, at, at, at, size, size, PAGE_SIZE if kind == _LOAD else 8)
        for kind, rights, at, size in segments
    )


def _pack_sections(tables: _Tables, text: bytes, dynamic: bytes, end: int) -> bytes:
    alloc, write, execute = 2, 1, 4
    sections = (
        ("", 0, 0, 0, 0, 0, 0, 0, 0),
        (".hash", _HASH, alloc, tables.hash_at, len(tables.hash), 2, 0, 8, 4),
        (".dynsym", _DYNSYM, alloc, tables.symbols_at, len(tables.symbols), 3, 1, 8, _SYMBOL.size),
        (".dynstr", _STRTAB, alloc, tables.names_at, len(tables.names), 0, 0, 1, 0),
        (".text", _PROGBITS, alloc | execute, _TEXT_AT, len(text), 0, 0, 16, 0),
        (".dynamic", _DYNAMIC_SECTION, alloc | write, _DYNAMIC_AT, len(dynamic), 3, 0, 8, _DYNAMIC.size),
        (".rodata", _PROGBITS, alloc, _DATA_AT, end - _DATA_AT, 0, 0, PAGE_SIZE, 0),
    )
    packed = [
        _SECTION.pack(
            _SECTION_NAMES.find(name) if name else 0, kind, flags, at, at, size, link, info, align, entry
        )
        for name, kind, flags, at, size, link, info, align, entry in sections
    ]
    names_at = end + (len(sections) + 1) * _SECTION.size
    names = _SECTION_NAMES.find(".shstrtab")
    packed.append(_SECTION.pack(names, _STRTAB, 0, 0, names_at, len(_SECTION_NAMES.contents), 0, 0, 1, 0))
    return b"".join(packed)
