"""Read a LUKS volume that was opened: any bytes of the payload, decrypted in memory as they are asked for.

Nothing decrypted is kept or written. The cipher comes from `cryptography`; as in `krunpy.image.xts`, the tweaks
of many sectors are computed with numpy, here for sectors of 512 to 4096 bytes. Source: IEEE 1619-2018, 5.4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from krunpy.core.errors import FormatError

if TYPE_CHECKING:
    from krunpy.core.octets import Secret
    from krunpy.formats.luks_open_slots import Volume
    from krunpy.image.blob import Region

_BLOCK = 16  # bytes of AES
_GROUP = 32  # blocks whose tweaks are made at once from the first: 512 bytes
_STEP = 1024 * 1024  # bytes decrypted at once
_U64 = np.uint64
_SHIFTS = np.arange(1, _GROUP, dtype=_U64)
_POLYNOMIAL = (1, 2, 7)  # x^128 = x^7 + x^2 + x + 1: what overflows comes back at these shifts and at 0


class LuksReader:
    """The payload of an open volume. size: its bytes, whole sectors."""

    def __init__(self, region: Region, volume: Volume, key: Secret) -> None:
        """Make a reader. region: the device; key: the volume key.

        Raises FormatError if the payload does not lie in the device.
        """
        end = volume.offset + volume.size if volume.size else region.size
        size = (end - volume.offset) // volume.sector_size * volume.sector_size
        if size <= 0 or end > region.size:
            raise FormatError(
                f"cannot read {region.name}",
                why=f"its LUKS payload reaches from {volume.offset} to {end}, the disk has {region.size} bytes",
            )
        value = key.reveal()
        half = len(value) // 2
        self.size = size
        self._region = region
        self._volume = volume
        self._data_cipher = Cipher(algorithms.AES(value[:half]), modes.ECB())  # noqa: S305 - the inside of XTS
        self._tweak_cipher = Cipher(algorithms.AES(value[half:]), modes.ECB())  # noqa: S305 - the inside of XTS

    def read(self, offset: int, size: int) -> bytes:
        """Return decrypted bytes, fewer at the end. Raises BundleError if the device became shorter."""
        sector = self._volume.sector_size
        end = min(offset + size, self.size)
        start = offset // sector * sector
        parts = []
        for position in range(start, end, _STEP):
            length = min(_STEP, -(-(end - position) // sector) * sector)
            parts.append(self._decrypt(self._region.read(self._volume.offset + position, length), position))
        return b"".join(parts)[offset - start : end - start] if parts else b""

    def _decrypt(self, data: bytes, position: int) -> bytes:
        sectors = len(data) // self._volume.sector_size
        tweaks = self._make_tweaks(sectors, self._volume.first_sector + position // 512)
        mixed = np.frombuffer(data, dtype="<u8") ^ tweaks
        clear = self._data_cipher.decryptor().update(mixed.tobytes())
        return (np.frombuffer(clear, dtype="<u8") ^ tweaks).tobytes()

    def _make_tweaks(self, sectors: int, first: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
        size = self._volume.sector_size
        numbers = np.zeros((sectors, 2), dtype="<u8")
        numbers[:, 0] = _U64(first) + _U64(size // 512) * np.arange(sectors, dtype=_U64)
        start = np.frombuffer(self._tweak_cipher.encryptor().update(numbers.tobytes()), dtype="<u8")
        groups = size // (_GROUP * _BLOCK)
        tweaks = np.empty((sectors, groups, _GROUP, 2), dtype="<u8")
        tweaks[:, 0, 0] = start.reshape(sectors, 2)
        for group in range(1, groups):
            tweaks[:, group, 0] = _double(tweaks[:, group - 1, 0], _U64(_GROUP))
        tweaks[:, :, 1:] = _double(tweaks[:, :, 0, None, :], _SHIFTS)
        return tweaks.reshape(-1)


def _double(
    values: np.ndarray[tuple[int, ...], np.dtype[np.uint64]],
    times: np.ndarray[tuple[int], np.dtype[np.uint64]] | np.uint64,
) -> np.ndarray[tuple[int, ...], np.dtype[np.uint64]]:
    """Return tweaks multiplied by x `times` times, 1 to 32. values: their low and high halves in the last axis."""
    low, high = values[..., 0], values[..., 1]
    over = high >> (_U64(64) - times)
    doubled_high = (high << times) | (low >> (_U64(64) - times))
    doubled_low = (low << times) ^ over
    for shift in _POLYNOMIAL:
        doubled_low = doubled_low ^ (over << _U64(shift))
    return np.stack((doubled_low, doubled_high), axis=-1)
