"""The firmware of each TEE: where distributions put it, and whether it can start such a machine.

SEV-SNP needs an OVMF with SEV metadata and a place for the hashes of kernel, initrd and command line; TDX needs a TDVF.
The software TEE takes the firmware of any machine.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from krunpy.core.errors import FormatError, HostError
from krunpy.core.files import load_bounded
from krunpy.formats.ovmf import SectionType, parse_firmware_table
from krunpy.formats.tdvf import parse_tdvf
from krunpy.guest.kernel import MAX_FIRMWARE
from krunpy.tee.detect import TeeKind

if TYPE_CHECKING:
    from collections.abc import Callable

HARDWARE = (TeeKind.SNP, TeeKind.TDX)
# those with Secure Boot (OVMF.inteltdx.ms.fd) are not among them: they boot only what Microsoft's keys have signed
PATHS = {
    TeeKind.SNP: (
        "/usr/share/ovmf/OVMF.amdsev.fd",
        "/usr/share/edk2/ovmf/OVMF.amdsev.fd",
        "/usr/share/edk2/x64/OVMF.amdsev.fd",
    ),
    TeeKind.TDX: (
        "/usr/share/ovmf/OVMF.inteltdx.fd",
        "/usr/share/edk2/ovmf/OVMF.inteltdx.fd",
        "/usr/share/ovmf/OVMF.fd",
    ),
}


def require_fit(kind: TeeKind, firmware: bytes) -> None:
    """Raise FormatError if a firmware image cannot start a measured machine in this hardware TEE."""
    if kind is TeeKind.TDX:
        parse_tdvf(firmware)
        return
    table = parse_firmware_table(firmware)
    what, fix = "cannot use the firmware for SEV-SNP", "take OVMF.amdsev.fd of edk2"
    if table.sections is None:
        raise FormatError(what, why="it has no SEV metadata", next=fix)
    kinds = {section.kind for section in table.sections}
    if SectionType.KERNEL_HASHES not in kinds or table.hash_table_gpa is None:
        raise FormatError(
            what, why="it has no place for kernel hashes: what it boots would not be measured", next=fix
        )


def load_firmware(kind: TeeKind, path: str) -> bytes:
    """Return a firmware image that fits. Raises HostError if it cannot be read, FormatError if it does not fit."""
    firmware = load_bounded(path, MAX_FIRMWARE)
    try:
        require_fit(kind, firmware)
    except FormatError as error:
        raise FormatError(f"cannot use {path} for {kind}", why=error.why, next=error.next) from error
    return firmware


def find_firmware(kind: TeeKind, *, note: Callable[[str], None], root: str = "") -> tuple[str, bytes] | None:
    """Return path and contents of the first installed firmware that fits, None if there is none.

    note: told why one was passed over. root: a folder in place of "/".
    """
    for path in PATHS[kind]:
        if not os.path.exists(root + path):
            continue
        try:
            return path, load_firmware(kind, root + path)
        except (FormatError, HostError) as error:
            note(f"{error.what}: {error.why}")
    return None
