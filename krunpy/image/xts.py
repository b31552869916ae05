"""AES-256-XTS over many blocks of 4096 bytes at once, each one sector or eight.

The sector that starts n bytes into the volume has the tweak n / 512, little-endian: what dm-crypt does for
`sector_size:4096` without `iv_large_sectors`, and what `cryptsetup --sector-size 4096` expects of LUKS2. LUKS1 has
only sectors of 512 bytes.
The cipher comes from `cryptography`, which has no call for many sectors; so the tweaks are computed here with
numpy and the blocks go through AES in one call. This module does not decrypt. Source: IEEE 1619-2018, 5.3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from krunpy.core.octets import Secret

SECTOR_SIZE = 4096  # bytes
SMALL_SECTOR_SIZE = 512  # bytes
_GROUPS = 8  # a block is 8 groups of 32 AES blocks of 16 bytes; a group is as long as a small sector
_GROUP = 32
_U64 = np.uint64
_SHIFTS = np.arange(1, _GROUP, dtype=_U64)
_BACK_SHIFTS = _U64(64) - _SHIFTS
_POLYNOMIAL = (1, 2, 7)  # x^128 = x^7 + x^2 + x + 1: what overflows comes back at these shifts and at 0


class SectorCipher:
    """Encrypts blocks. Holds its scratch memory, so it belongs to one thread at a time."""

    def __init__(self, key: Secret, capacity: int, *, sector_size: int = SECTOR_SIZE) -> None:
        """Make a cipher. key: 64 bytes, data key then tweak key. capacity: bytes, whole blocks of 4096.

        sector_size: SECTOR_SIZE or SMALL_SECTOR_SIZE.
        """
        value = key.reveal()
        if len(value) != 64:  # noqa: PLR2004 - AES-256-XTS
            msg = f"a key of 64 bytes is wanted, seen {len(value)}"
            raise ValueError(msg)
        sectors = capacity // SECTOR_SIZE
        self._sector_size = sector_size
        self._data_cipher = Cipher(algorithms.AES(value[:32]), modes.ECB())  # noqa: S305 - the inside of XTS
        self._tweak_cipher = Cipher(algorithms.AES(value[32:]), modes.ECB())  # noqa: S305 - the inside of XTS
        self._tweaks = np.empty((sectors, _GROUPS, _GROUP, 2), dtype="<u8")
        self._scratch = np.empty((3, sectors, _GROUPS, _GROUP - 1), dtype="<u8")
        self._mixed = np.empty(capacity // 8, dtype="<u8")
        self._out = np.empty(capacity + 16, dtype=np.uint8)

    def encrypt(self, data: bytes | bytearray | memoryview, position: int) -> memoryview:
        """Return the ciphertext of contiguous blocks; it is valid until the next call.

        data:     whole blocks, at most the capacity.
        position: where data starts in the volume, in bytes, a multiple of 4096.
        """
        if position % SECTOR_SIZE:
            msg = f"whole sectors are wanted, seen byte {position}"
            raise ValueError(msg)
        first = position // SECTOR_SIZE
        return self.encrypt_blocks(data, range(first, first + len(data) // SECTOR_SIZE))

    def encrypt_blocks(self, data: bytes | bytearray | memoryview, numbers: Sequence[int]) -> memoryview:
        """Return the ciphertext of blocks that lie apart; it is valid until the next call.

        data:    whole blocks, at most the capacity.
        numbers: of each, counted in blocks from the start of the volume.
        """
        size = len(data)
        if size != len(numbers) * SECTOR_SIZE:
            msg = f"whole sectors are wanted, seen {size} bytes for {len(numbers)}"
            raise ValueError(msg)
        tweaks = self._fill_tweaks(np.asarray(numbers, dtype=_U64))
        mixed = self._mixed[: size // 8]
        np.bitwise_xor(np.frombuffer(data, dtype="<u8"), tweaks, out=mixed)
        self._data_cipher.encryptor().update_into(mixed.data.cast("B"), self._out.data[: size + 15])
        result = self._out[:size].view("<u8")
        result ^= tweaks
        return result.data.cast("B")

    def _fill_tweaks(
        self, blocks: np.ndarray[tuple[int], np.dtype[np.uint64]]
    ) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
        sectors = len(blocks)
        tweaks = self._tweaks[:sectors]
        encrypted = _GROUPS if self._sector_size == SMALL_SECTOR_SIZE else 1
        numbers = np.zeros((sectors, encrypted, 2), dtype="<u8")
        numbers[:, :, 0] = (_U64(_GROUPS) * blocks)[:, None] + np.arange(encrypted, dtype=_U64)
        start = self._tweak_cipher.encryptor().update(numbers.tobytes())
        tweaks[:, :encrypted, 0] = np.frombuffer(start, dtype="<u8").reshape(sectors, encrypted, 2)
        for group in range(encrypted, _GROUPS):  # each group starts 32 doublings after the last
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
