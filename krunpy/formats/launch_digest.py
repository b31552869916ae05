"""The fold by which SEV-SNP firmware turns launched pages into the launch digest.

The firmware hashes one PAGE_INFO record per guest page into a running SHA-384. `measure` predicts with
this fold and the software TEE computes with it; which pages a machine has is not decided here.

Source: AMD SEV-SNP Firmware ABI (publication 56860), section 8.17.2, table PAGE_INFO.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from hashlib import sha384

from krunpy.core.errors import FormatError
from krunpy.core.octets import LaunchDigest

PAGE_SIZE = 4096  # bytes
ZERO_DIGEST = LaunchDigest(bytes(48))
VMSA_GPA = 0xFFFFFFFFF000  # the RMP's entry for a VMSA: all ones, page aligned, bits above 51 cleared

_PAGE_INFO_SIZE = 0x70  # bytes
_NO_CONTENTS = bytes(48)
_EMPTY_PAGE = bytes(PAGE_SIZE)
_EMPTY_BODY = sha384(_EMPTY_PAGE).digest()
_LARGEST_GPA = 1 << 52
# after the digest so far and the digest of the contents: length, type, not an IMI page, VMPL3 to 1, zero, gpa
_TAIL = struct.Struct("<HBBBBBBQ")
_NORMAL = _TAIL.pack(_PAGE_INFO_SIZE, 1, 0, 0, 0, 0, 0, 0)[:8]
_RECORD = struct.Struct("<48s48s8sQ")  # the same for a NORMAL page, whole


class PageType(IntEnum):
    """PAGE_TYPE of SNP_LAUNCH_UPDATE."""

    NORMAL = 1
    VMSA = 2
    ZERO = 3
    UNMEASURED = 4
    SECRETS = 5
    CPUID = 6


def _require(contents: bytes, gpa: int, kind: PageType) -> None:
    if gpa % PAGE_SIZE or not 0 <= gpa < _LARGEST_GPA:
        raise FormatError(
            "cannot measure a page", why=f"seen gpa {gpa:#x}, wanted a multiple of 4096 below 2^52"
        )
    if kind in {PageType.NORMAL, PageType.VMSA}:
        if not contents or len(contents) % PAGE_SIZE:
            raise FormatError(
                "cannot measure a page", why=f"seen {len(contents)} bytes, wanted pages of 4096"
            )
    elif contents:
        raise FormatError("cannot measure a page", why=f"seen contents for {kind.name}, wanted none")
    if kind is PageType.VMSA and gpa != VMSA_GPA:
        raise FormatError("cannot measure a page", why=f"seen VMSA at {gpa:#x}, wanted {VMSA_GPA:#x}")


def fold_page(digest: LaunchDigest, kind: PageType, contents: bytes, gpa: int) -> LaunchDigest:
    """Return the launch digest after one more page, or after a run of NORMAL pages.

    digest:   48 bytes so far; ZERO_DIGEST before the first page.
    contents: whole pages of 4096 bytes for NORMAL, one for VMSA, empty for every other kind.
    gpa:      guest physical address of the first byte, a multiple of 4096.

    Raises FormatError if contents or gpa break those rules.
    """
    _require(contents, gpa, kind)
    if kind is PageType.NORMAL:
        return _fold_run(digest, contents, gpa)
    body = _NO_CONTENTS
    if kind is PageType.VMSA:
        if len(contents) != PAGE_SIZE:
            raise FormatError("cannot measure a page", why=f"seen {len(contents)} bytes of VMSA, wanted 4096")
        body = sha384(contents).digest()
    tail = _TAIL.pack(_PAGE_INFO_SIZE, kind, 0, 0, 0, 0, 0, gpa)
    return LaunchDigest(sha384(digest + body + tail).digest())


def _fold_run(digest: bytes, contents: bytes, gpa: int) -> LaunchDigest:
    # every name is local and every page looked at once: all of it together costs 2 % of the two hashes
    view, hashed, pack, is_empty = memoryview(contents), sha384, _RECORD.pack, contents.startswith
    for at in range(0, len(contents), PAGE_SIZE):
        if contents[at] == 0 and is_empty(_EMPTY_PAGE, at):  # one page of twelve is, in a kernel
            body = _EMPTY_BODY
        else:
            body = hashed(view[at : at + PAGE_SIZE]).digest()
        digest = hashed(pack(digest, body, _NORMAL, gpa + at)).digest()
    return LaunchDigest(digest)
