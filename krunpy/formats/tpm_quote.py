"""A TPM 2.0 quote: what a TPM signs about its platform configuration registers. No signature is checked here.

Source: TCG TPM 2.0 Library, part 2, sections 10.12 (TPMS_ATTEST) and 10.6.2 (TPMS_PCR_SELECTION); integers
are big-endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from krunpy.core.errors import FormatError

ALGORITHM_SHA256 = 0x000B  # TPM_ALG_SHA256
LARGEST_MESSAGE = 4096  # bytes

_MAGIC = 0xFF544347  # TPM_GENERATED_VALUE: made inside a TPM
_TYPE_QUOTE = 0x8018  # TPM_ST_ATTEST_QUOTE
_HEAD = struct.Struct(">IH")
_CLOCK = struct.Struct(">QIIB")  # milliseconds, resets, restarts, safe
_FIRMWARE = struct.Struct(">Q")
_COUNT = struct.Struct(">I")
_SELECTION = struct.Struct(">HB")  # hash, size of the bitmap
_SIZE = struct.Struct(">H")
_MOST_SELECTIONS = 16  # banks
_LARGEST_BITMAP = 4  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PcrSelection:
    """The registers of one bank: its hash (TPM_ALG_ID), and the indices in rising order."""

    algorithm: int
    indices: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TpmQuote:
    """What the message says.

    extra_data:  what the asker gave, the nonce; at most 64 bytes.
    clock_ms:    since the TPM was made; is_clock_safe: whether it never went back.
    pcr_digest:  over the selected registers' values, in the order of the selections.
    """

    signer: bytes
    extra_data: bytes
    clock_ms: int
    resets: int
    restarts: int
    is_clock_safe: bool
    firmware_version: int
    selections: tuple[PcrSelection, ...]
    pcr_digest: bytes


def _refuse(why: str) -> FormatError:
    return FormatError("cannot read the TPM quote", why=why)


class _Cursor:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        if size > len(self._data) - self._at:
            raise _refuse(f"seen {len(self._data) - self._at} bytes at {self._at}, wanted {size}")
        self._at += size
        return self._data[self._at - size : self._at]

    def unpack(self, layout: struct.Struct) -> tuple[int, ...]:
        return layout.unpack(self.take(layout.size))

    def take_sized(self, limit: int) -> bytes:
        (size,) = self.unpack(_SIZE)
        if size > limit:
            raise _refuse(f"seen a part of {size} bytes, wanted at most {limit}")
        return self.take(size)

    def require_end(self) -> None:
        if self._at != len(self._data):
            raise _refuse(f"seen {len(self._data) - self._at} bytes after its end")


def _read_selection(cursor: _Cursor) -> PcrSelection:
    algorithm, size = cursor.unpack(_SELECTION)
    if size > _LARGEST_BITMAP:
        raise _refuse(f"seen a bitmap of {size} bytes, wanted at most {_LARGEST_BITMAP}")
    bitmap = int.from_bytes(cursor.take(size), "little")
    indices = tuple(index for index in range(size * 8) if bitmap >> index & 1)
    return PcrSelection(algorithm=algorithm, indices=indices)


def parse_tpm_quote(message: bytes) -> TpmQuote:
    """Return what a TPMS_ATTEST of type quote says.

    message: at most 4 KiB.

    Raises FormatError if it is anything else, or if its parts do not fill it exactly.
    """
    if len(message) > LARGEST_MESSAGE:
        raise _refuse(f"seen {len(message)} bytes, wanted at most {LARGEST_MESSAGE}")
    cursor = _Cursor(message)
    magic, kind = cursor.unpack(_HEAD)
    if (magic, kind) != (_MAGIC, _TYPE_QUOTE):
        raise _refuse(f"seen magic {magic:#x} and type {kind:#x}, wanted {_MAGIC:#x} and {_TYPE_QUOTE:#x}")
    signer = cursor.take_sized(limit=66)  # a digest and its algorithm
    extra_data = cursor.take_sized(limit=64)
    clock_ms, resets, restarts, safe = cursor.unpack(_CLOCK)
    (firmware,) = cursor.unpack(_FIRMWARE)
    (count,) = cursor.unpack(_COUNT)
    if count > _MOST_SELECTIONS:
        raise _refuse(f"seen {count} banks, wanted at most {_MOST_SELECTIONS}")
    selections = tuple(_read_selection(cursor) for _ in range(count))
    digest = cursor.take_sized(limit=64)
    cursor.require_end()
    return TpmQuote(
        signer=signer,
        extra_data=extra_data,
        clock_ms=clock_ms,
        resets=resets,
        restarts=restarts,
        is_clock_safe=safe == 1,
        firmware_version=firmware,
        selections=selections,
        pcr_digest=digest,
    )


def pack_tpm_quote(quote: TpmQuote) -> bytes:
    """Return the message of a quote; the inverse of `parse_tpm_quote` with bitmaps of three bytes."""
    message = _HEAD.pack(_MAGIC, _TYPE_QUOTE)
    for part in (quote.signer, quote.extra_data):
        message += _SIZE.pack(len(part)) + part
    message += _CLOCK.pack(quote.clock_ms, quote.resets, quote.restarts, quote.is_clock_safe)
    message += _FIRMWARE.pack(quote.firmware_version) + _COUNT.pack(len(quote.selections))
    for selection in quote.selections:
        bitmap = sum(1 << index for index in selection.indices)
        message += _SELECTION.pack(selection.algorithm, 3) + bitmap.to_bytes(3, "little")
    return message + _SIZE.pack(len(quote.pcr_digest)) + quote.pcr_digest
