"""Predict MRTD, the build-time measurement of a TD, from its firmware.

The TDX module hashes one record for each page that is added, and one for each 256 bytes whose contents
are measured. The order of the two is the launcher's choice, so there are two right values for one image.

Source: Intel TDX Module Base Architecture Specification, TDH.MEM.PAGE.ADD and TDH.MR.EXTEND; QEMU
target/i386/kvm/tdx.c; agrees with td-shim's tee_info_hash and dstack-mr.
"""

from __future__ import annotations

import struct
from enum import StrEnum
from hashlib import sha384
from typing import TYPE_CHECKING, Protocol

from krunpy.core.octets import Digest48
from krunpy.formats.tdvf import TdvfAttributes, parse_tdvf

if TYPE_CHECKING:
    from krunpy.formats.tdvf import TdvfSection

_PAGE_SIZE = 4096  # bytes
_CHUNK_SIZE = 256  # bytes
_STEP = 16 << 20  # bytes of memory at a time
_RECORD = struct.Struct("<16sQ104x")


class Hash(Protocol):
    """A hash that runs."""

    def update(self, data: bytes, /) -> None:
        """Take in further bytes."""


class PageOrder(StrEnum):
    """How a launcher adds a section; see the module's docstring.

    SINGLE_PASS: each page is added and then measured: upstream KVM, QEMU from 9 on.
    TWO_PASS:    all pages are added, then all are measured: the TDX forks of QEMU 8.
    """

    SINGLE_PASS = "single-pass"  # noqa: S105 - not a password
    TWO_PASS = "two-pass"  # noqa: S105 - not a password


def _add(running: Hash, gpa: int) -> None:
    running.update(_RECORD.pack(b"MEM.PAGE.ADD", gpa))


def _extend(running: Hash, gpa: int, page: bytes) -> None:
    parts: list[bytes] = []
    for at in range(0, _PAGE_SIZE, _CHUNK_SIZE):
        parts += (_RECORD.pack(b"MR.EXTEND", gpa + at), page[at : at + _CHUNK_SIZE])
    running.update(b"".join(parts))


def fold_added(running: Hash, first: int, end: int) -> None:
    """Take in the pages of memory that is added and not measured. first, end: gpas, multiples of 4096."""
    for start in range(first, end, _STEP):
        pages = range(start, min(start + _STEP, end), _PAGE_SIZE)
        running.update(b"".join([_RECORD.pack(b"MEM.PAGE.ADD", gpa) for gpa in pages]))


def fold_section(running: Hash, section: TdvfSection, order: PageOrder) -> None:
    """Take in a section of a firmware as its attributes say."""
    adds = TdvfAttributes.PAGE_AUG not in section.attributes
    extends = TdvfAttributes.MR_EXTEND in section.attributes
    offsets = range(0, section.size, _PAGE_SIZE)
    contents = section.contents.ljust(section.size, b"\0") if extends else b""
    if order is PageOrder.TWO_PASS and adds:
        for at in offsets:
            _add(running, section.gpa + at)
    for at in offsets:
        if order is PageOrder.SINGLE_PASS and adds:
            _add(running, section.gpa + at)
        if extends:
            _extend(running, section.gpa + at, contents[at : at + _PAGE_SIZE])


def predict_mrtd(firmware: bytes, order: PageOrder) -> Digest48:
    """Return the MRTD of a TD that is launched with this TDVF image.

    Raises FormatError if the image has no TDVF metadata or they are broken.
    """
    running = sha384()
    for section in parse_tdvf(firmware):
        fold_section(running, section, order)
    return Digest48(running.digest())
