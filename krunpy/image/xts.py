"""AES-256-XTS over many sectors of 4096 bytes at once.

The sector that starts n bytes into the volume has the tweak n / 512, little-endian: what dm-crypt does for
`sector_size:4096` without `iv_large_sectors`, and what `cryptsetup --sector-size 4096` expects of LUKS2.
The cipher comes from `cryptography`, which has no call for many sectors; so the tweaks are computed here with
numpy and the blocks go through AES in one call. This module does not decrypt. Source: IEEE 1619-2018, 5.3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

if TYPE_CHECKING:
    from krunpy.core.octets import Secret

SECTOR_SIZE = 4096  # bytes
_GROUPS = 8  # a sector is 8 groups of 32 blocks of 16 bytes
_GROUP = 32
_U64 = np.uint64
_SHIFTS = np.arange(1, _GROUP, dtype=_U64)
_BACK_SHIFTS = _U64(64) - _SHIFTS
_POLYNOMIAL = (1, 2, 7)  # x^128 = x^7 + x^2 + x + 1: what overflows comes back at these shifts and at 0


class SectorCipher:
    """Encrypts runs of sectors. Holds its scratch memory, so it belongs to one thread at a time."""

    def __init__(self, key: Secret, capacity: int) -> None:
        """Make a cipher. key: 64 bytes, data key then tweak key. capacity: bytes, whole sectors."""
        value = key.reveal()
        if len(value) != 64:  # noqa: PLR2004 - AES-256-XTS
            msg = f"a key of 64 bytes is wanted, seen {len(value)}"
            raise ValueError(msg)
        sectors = capacity // SECTOR_SIZE
        self._data_cipher = Cipher(algorithms.AES(value[:32]), modes.ECB())  # noqa: S305 - the inside of XTS
        self._tweak_cipher = Cipher(algorithms.AES(value[32:]), modes.ECB())  # noqa: S305 - the inside of XTS
        self._tweaks = np.empty((sectors, _GROUPS, _GROUP, 2), dtype="<u8")
        self._scratch = np.empty((3, sectors, _GROUPS, _GROUP - 1), dtype="<u8")
        self._mixed = np.empty(capacity // 8, dtype="<u8")
        self._out = np.empty(capacity + 16, dtype=np.uint8)

    def encrypt(self, data: bytes | bytearray | memoryview, position: int) -> memoryview:
        """Return the ciphertext; it is valid until the next call.

        data:     whole sectors, at most the capacity.
        position: where data starts in the volume, in bytes, a multiple of 4096.
        """
        size = len(data)
        if size % SECTOR_SIZE or position % SECTOR_SIZE:
            msg = f"whole sectors are wanted, seen {size} bytes at {position}"
            raise ValueError(msg)
        tweaks = self._fill_tweaks(size // SECTOR_SIZE, position // 512)
        mixed = self._mixed[: size // 8]
        np.bitwise_xor(np.frombuffer(data, dtype="<u8"), tweaks, out=mixed)
        self._data_cipher.encryptor().update_into(mixed.data.cast("B"), self._out.data[: size + 15])
        result = self._out[:size].view("<u8")
        result ^= tweaks
        return result.data.cast("B")

    def _fill_tweaks(self, sectors: int, first: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
        numbers = np.zeros((sectors, 2), dtype="<u8")
        numbers[:, 0] = _U64(first) + _U64(SECTOR_SIZE // 512) * np.arange(sectors, dtype=_U64)
        start = self._tweak_cipher.encryptor().update(numbers.tobytes())
        tweaks = self._tweaks[:sectors]
        tweaks[:, 0, 0] = np.frombuffer(start, dtype="<u8").reshape(sectors, 2)
        for group in range(1, _GROUPS):  # each group starts 32 doublings after the last
            low, high = tweaks[:, group - 1, 0, 0], tweaks[:, group - 1, 0, 1]
            over = high >> _U64(_GROUP)
            tweaks[:, group, 0, 1] = (high << _U64(_GROUP)) | (low >> _U64(_GROUP))
            low = (low << _U64(_GROUP)) ^ over
            for shift in _POLYNOMIAL:
                low ^= over << _U64(shift)
            tweaks[:, group, 0, 0] = low
        over, moved, low = self._scratch[:, :sectors]
        low_start, high_start = tweaks[:, :, 0, 0, None], tweaks[:, :, 0, 1, None]
        np.left_shift(high_start, _SHIFTS, out=over)
        np.right_shift(low_start, _BACK_SHIFTS, out=moved)
        np.bitwise_or(over, moved, out=tweaks[:, :, 1:, 1])
        np.right_shift(high_start, _BACK_SHIFTS, out=over)
        np.left_shift(low_start, _SHIFTS, out=low)
        low ^= over
        for shift in _POLYNOMIAL:
            np.left_shift(over, _U64(shift), out=moved)
            low ^= moved
        tweaks[:, :, 1:, 0] = low
        return tweaks.reshape(-1)
