"""What the AMD Secure Processor says about SEV-SNP on this host.

Source: Linux include/uapi/linux/psp-sev.h (SEV_ISSUE_CMD, SNP_PLATFORM_STATUS); AMD SEV-SNP Firmware ABI
(publication 56860), section 8.3, SNP_PLATFORM_STATUS.
"""

from __future__ import annotations

import array
import fcntl
import os
import struct
from dataclasses import dataclass

from krunpy.core.errors import FormatError, HostError
from krunpy.tee.detect import SEV_DEVICE

STATUS_SIZE = 32  # bytes
_SEV_ISSUE_CMD = 0xC0105300  # _IOWR('S', 0, struct sev_issue_cmd)
_SNP_PLATFORM_STATUS = 9
_COMMAND = struct.Struct("<IQI")  # struct sev_issue_cmd, packed: command, address, error
_STATUS = struct.Struct("<BBBBIIIQQ")
_RMP_INITIALIZED, _MASK_CHIP_ID, _MASK_CHIP_KEY, _VLEK_EN = 1, 1, 2, 4
_STATES = ("uninitialized", "initialized")


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpPlatform:
    """Status of the SNP firmware. The TCB versions are eight bytes each, laid out as the product has it."""

    api: tuple[int, int]
    build: int
    state: str
    is_rmp_initialized: bool
    masks_chip_id: bool
    masks_chip_key: bool
    has_vlek: bool
    guests: int
    current_tcb: bytes
    reported_tcb: bytes


def parse_platform_status(raw: bytes) -> SnpPlatform:
    """Return the status in the firmware's 32 bytes. Raises FormatError on any other length or state."""
    if len(raw) != STATUS_SIZE:
        raise FormatError(
            "cannot read the SNP platform status", why=f"{len(raw)} bytes, wanted {STATUS_SIZE}"
        )
    major, minor, state, rmp, build, bits, guests, current, reported = _STATUS.unpack(raw)
    if state >= len(_STATES):
        raise FormatError("cannot read the SNP platform status", why=f"state {state}, wanted 0 or 1")
    return SnpPlatform(
        api=(major, minor),
        build=build,
        state=_STATES[state],
        is_rmp_initialized=bool(rmp & _RMP_INITIALIZED),
        masks_chip_id=bool(bits & _MASK_CHIP_ID),
        masks_chip_key=bool(bits & _MASK_CHIP_KEY),
        has_vlek=bool(bits & _VLEK_EN),
        guests=guests,
        current_tcb=current.to_bytes(8, "little"),
        reported_tcb=reported.to_bytes(8, "little"),
    )


def ask_platform(device: str = SEV_DEVICE) -> SnpPlatform:
    """Return what the firmware answers to SNP_PLATFORM_STATUS.

    Raises HostError if the device cannot be used, or the firmware was not initialised for SNP.
    """
    try:
        descriptor = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(
            f"cannot ask {device}", why=(error.strerror or "error").lower(), next="run as root"
        ) from error
    answer = array.array("B", bytes(STATUS_SIZE))
    command = bytearray(_COMMAND.pack(_SNP_PLATFORM_STATUS, answer.buffer_info()[0], 0))
    try:
        fcntl.ioctl(descriptor, _SEV_ISSUE_CMD, command, True)
    except OSError as error:
        code = _COMMAND.unpack(command)[2]
        why = f"{(error.strerror or 'error').lower()}, firmware error {code:#x}"
        raise HostError(f"cannot ask {device}", why=why) from error
    finally:
        os.close(descriptor)
    return parse_platform_status(answer.tobytes())
