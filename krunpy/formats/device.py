"""Device numbers as file systems store them. Source: Linux 6.12, include/linux/kdev_t.h (new_encode_dev)."""

from __future__ import annotations

import os

from krunpy.core.errors import FormatError


def encode_device(device: int) -> int:
    """Return a device number (os.makedev) in the kernel's 32-bit form: minor 20 bits, major 12 bits.

    With major and minor below 256 it is the old form of 16 bits, too.
    Raises FormatError if major or minor are larger.
    """
    major, minor = os.major(device), os.minor(device)
    if major >= 1 << 12 or minor >= 1 << 20:
        raise FormatError("cannot store a device", why=f"device {major}:{minor} is over 4095:1048575")
    return (minor & 0xFF) | (major << 8) | ((minor & ~0xFF) << 12)
