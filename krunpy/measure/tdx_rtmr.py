"""Predict RTMR0 to RTMR3 of a TD that QEMU boots directly: OVMF for TDX, then the kernel's EFI stub.

RTMR1 and RTMR2 depend on the kernel, the initrd and the command line, and on which edk2 the firmware was
built from; the two changes of edk2 are told apart here, so that a workload has a small set of right values.
RTMR0 depends on the machine's shape (memory, devices, QEMU's ACPI tables): it is folded from parts that
somebody pins, none of them is made here. The first releases of OVMF for TDX extend the separator of RTMR1
into RTMR0 instead (trustee's sample log shows it); they are not predicted. RTMR3 is the workload's, zero
until it extends it.

Source: edk2 OvmfPkg (TdxMeasurementLib, QemuKernelLoaderFsDxe, X86QemuLoadImageLib; commit a2ac0fea49);
Linux drivers/firmware/efi/libstub; the order agrees with real logs (tests/unit/measure/test_replay.py).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha384
from typing import TYPE_CHECKING

from krunpy.core.octets import Digest48
from krunpy.formats.authenticode import hash_authenticode
from krunpy.formats.bzimage import patch_as_qemu

if TYPE_CHECKING:
    from collections.abc import Iterable
    from uuid import UUID

ZERO_REGISTER = Digest48(bytes(48))
SEPARATOR = bytes(4)

_INITRD_WORD = "initrd=initrd"
_BOOT_ACTION = b"Calling EFI Application from Boot Option"
_EXIT_ACTIONS = (b"Exit Boot Services Invocation", b"Exit Boot Services Returned with Success")
_VARIABLE = struct.Struct("<16sQQ")  # vendor GUID, characters of the name, bytes of data


class LoadOptionsForm(StrEnum):
    """Where OVMF puts "initrd=initrd" in the kernel's load options."""

    INITRD_LAST = "initrd-last"  # before edk2-stable202508
    INITRD_FIRST = "initrd-first"  # since then


class KernelForm(StrEnum):
    """Which kernel image OVMF measures."""

    PATCHED = "patched"  # with QEMU's setup header: up to edk2-stable202505
    RAW = "raw"  # as the file is: the legacy loader is off in confidential machines


@dataclass(frozen=True, slots=True, kw_only=True)
class EfiVariable:
    """A UEFI variable as firmware measures it."""

    vendor: UUID
    name: str
    value: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class PinnedShape:
    """What OVMF measures into RTMR0, in bytes, of one pinned machine.

    td_hob:         the hand-off blocks that QEMU made, from the firmware's TD_HOB section.
    configuration:  the CFV of the firmware image.
    secure_boot:    SecureBoot, PK, KEK, db and dbx, in this order.
    acpi:           table-loader, RSDP and tables, as fw_cfg has them, in this order.
    boot_variables: the values of BootOrder and each Boot####, as they are extended.
    """

    td_hob: bytes
    configuration: bytes
    secure_boot: tuple[EfiVariable, ...]
    acpi: tuple[bytes, ...]
    boot_variables: tuple[bytes, ...]


def extend(register: Digest48, digest: bytes) -> Digest48:
    """Return a register after a digest of 48 bytes was extended into it."""
    return Digest48(sha384(register + Digest48(digest)).digest())


def fold_digests(digests: Iterable[bytes]) -> Digest48:
    """Return a register, zero at the start, after these digests."""
    register = ZERO_REGISTER
    for digest in digests:
        register = extend(register, digest)
    return register


def _hash(data: bytes) -> bytes:
    return sha384(data).digest()


def pack_variable(variable: EfiVariable) -> bytes:
    """Return the UEFI_VARIABLE_DATA of a variable."""
    name = variable.name.encode("utf-16-le")
    header = _VARIABLE.pack(variable.vendor.bytes_le, len(name) // 2, len(variable.value))
    return header + name + variable.value


def predict_rtmr0(shape: PinnedShape) -> Digest48:
    """Return RTMR0 of a machine of this shape."""
    return fold_digests(
        [
            _hash(shape.td_hob),
            _hash(shape.configuration),
            *(_hash(pack_variable(variable)) for variable in shape.secure_boot),
            _hash(SEPARATOR),
            *(_hash(table) for table in shape.acpi),
            *(_hash(value) for value in shape.boot_variables),
        ]
    )


def make_measured_kernel(kernel: bytes, form: KernelForm, *, initrd_size: int, memory_size: int) -> bytes:
    """Return the kernel image that OVMF measures. Sizes in bytes. Raises FormatError as `patch_as_qemu`."""
    if form is KernelForm.RAW:
        return kernel
    return patch_as_qemu(kernel, initrd_size=initrd_size, memory_size=memory_size)


def predict_rtmr1(measured_kernel: bytes) -> Digest48:
    """Return RTMR1 for a kernel as `make_measured_kernel` returns it. Raises FormatError if it is no PE image."""
    actions = [_hash(_BOOT_ACTION), _hash(SEPARATOR), *(_hash(action) for action in _EXIT_ACTIONS)]
    return fold_digests([hash_authenticode(measured_kernel), *actions])


def make_load_options(cmdline: str, form: LoadOptionsForm, *, has_initrd: bool) -> str:
    """Return the load options that OVMF gives the kernel for a command line."""
    words = [cmdline, _INITRD_WORD] if form is LoadOptionsForm.INITRD_LAST else [_INITRD_WORD, cmdline]
    return " ".join(words) if has_initrd else cmdline


def predict_rtmr2(load_options: str, initrd: bytes | None) -> Digest48:
    """Return RTMR2 for load options without their NUL, and the initrd's file, None if there is none."""
    digests = [_hash((load_options + "\0").encode("utf-16-le"))]
    return fold_digests(digests if initrd is None else [*digests, _hash(initrd)])
