"""Predict the SEV-SNP launch digest of a machine that libkrun starts from a libkrunfw bundle.

Everything the guest runs is measured: qboot, kernel, initrd, and the zero page with vCPUs and RAM. The
command line is part of the kernel. The disk, the TEE's JSON and the CPU's generation are not measured.

TDX is not predicted: libkrun measures its 64 KiB of firmware there, and not what it boots.

Source: libkrun src/vmm/src/builder.rs, src/vmm/src/linux/tee/amdsnp/mod.rs, src/arch/src/x86_64/mod.rs.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from krunpy.core.errors import FormatError
from krunpy.formats.krun_bundle import INITRD_GPA, QBOOT_SIZE
from krunpy.formats.launch_digest import PAGE_SIZE, VMSA_GPA, PageType
from krunpy.formats.vmsa_libkrun import VmsaVariant, build_libkrun_vmsa
from krunpy.measure.launch import LaunchPage, fold_pages

if TYPE_CHECKING:
    from collections.abc import Iterator

    from krunpy.core.octets import LaunchDigest

DEFAULT_KERNEL_GPA = 0x1000000
MOST_VCPUS = 255
MOST_MEMORY_MIB = 1 << 22

_QBOOT_GPA, _ZERO_PAGE_GPA = 0xFFFF0000, 0x7000
_SECRETS_GPA, _CPUID_GPA = 0x5000, 0x6000
_TABLE_GPAS = range(0x8000, 0xF000, PAGE_SIZE)
_CMDLINE_GPA, _CMDLINE_SIZE = 0x20000, 0x200
_KERNEL_ALIGNMENT = 0x01000000
_MIB = 1 << 20
_HIGH_MEMORY, _LOW_MEMORY_END, _EBDA = _MIB, 0xD0000000, 0x9FC00
_FOUR_GIB = 1 << 32
_ENTRY = struct.Struct("<QQI")
_RAM = 1  # E820 type


@dataclass(frozen=True, slots=True, kw_only=True)
class LibkrunLaunch:
    """The inputs of one launch digest.

    qboot:      64 KiB; kernel: as it lies in memory; initrd: padded; kernel and initrd are whole pages.
    kernel_gpa: where the bundle loads the kernel, a multiple of 4096.
    """

    qboot: bytes
    kernel: bytes
    initrd: bytes
    vcpus: int
    memory_mib: int
    kernel_gpa: int = DEFAULT_KERNEL_GPA
    variant: VmsaVariant = VmsaVariant.C


def _refuse(why: str) -> FormatError:
    return FormatError("cannot measure the libkrun launch", why=why)


def _require(launch: LibkrunLaunch) -> None:
    if len(launch.qboot) != QBOOT_SIZE:
        raise _refuse(f"seen a qboot of {len(launch.qboot)} bytes, wanted {QBOOT_SIZE}")
    for name, contents in (("kernel", launch.kernel), ("initrd", launch.initrd)):
        if not contents or len(contents) % PAGE_SIZE:
            raise _refuse(f"seen {len(contents)} bytes of {name}, wanted pages of 4096")
    if launch.kernel_gpa % PAGE_SIZE or not 0 <= launch.kernel_gpa < _LOW_MEMORY_END:
        raise _refuse(f"seen kernel at {launch.kernel_gpa:#x}, wanted a multiple of 4096 in low memory")
    end = INITRD_GPA + len(launch.initrd)
    if launch.kernel_gpa < end and launch.kernel_gpa + len(launch.kernel) > INITRD_GPA:
        room = max(launch.kernel_gpa - INITRD_GPA, 0)
        raise _refuse(f"seen an initrd of {len(launch.initrd)} bytes, there are {room} below the kernel")
    _require_machine(launch.vcpus, launch.memory_mib, max(end, launch.kernel_gpa + len(launch.kernel)))


def _require_machine(vcpus: int, memory_mib: int, end: int) -> None:
    """end: of what is loaded, a gpa."""
    if not 1 <= vcpus <= MOST_VCPUS:
        raise _refuse(f"seen {vcpus} vCPUs, wanted 1 to {MOST_VCPUS}")
    if end > memory_mib * _MIB or memory_mib > MOST_MEMORY_MIB:
        raise _refuse(f"seen {memory_mib} MiB of memory, wanted room for kernel and initrd, at most 4 TiB")


def _list_ram(memory: int) -> list[tuple[int, int]]:
    """Return the RAM runs (gpa, size) of the E820 map; libkrun counts one byte too many in the last."""
    low = (0, _EBDA)
    if memory < _LOW_MEMORY_END:
        return [low, (_HIGH_MEMORY, memory - _HIGH_MEMORY + 1)]
    below = (_HIGH_MEMORY, _LOW_MEMORY_END - _HIGH_MEMORY)
    if memory == _LOW_MEMORY_END:
        return [low, below]
    return [low, below, (_FOUR_GIB, memory - _LOW_MEMORY_END + 1)]


def build_zero_page(*, vcpus: int, memory_mib: int, initrd_size: int) -> bytes:
    """Return the 4096 bytes of boot parameters that libkrun writes."""
    page = bytearray(PAGE_SIZE)
    ram = _list_ram(memory_mib * _MIB)
    page[0x1E8] = len(ram)
    struct.pack_into("<I", page, 0x1F4, vcpus)  # syssize: qboot reads it as the number of vCPUs
    struct.pack_into("<H", page, 0x1FE, 0xAA55)
    struct.pack_into("<4s", page, 0x202, b"HdrS")
    page[0x210] = 0xFF  # type_of_loader
    struct.pack_into("<II", page, 0x218, INITRD_GPA, initrd_size)
    struct.pack_into("<I", page, 0x228, _CMDLINE_GPA)
    struct.pack_into("<I", page, 0x230, _KERNEL_ALIGNMENT)
    struct.pack_into("<I", page, 0x238, _CMDLINE_SIZE)
    for index, (gpa, size) in enumerate(ram):
        _ENTRY.pack_into(page, 0x2D0 + index * _ENTRY.size, gpa, size, _RAM)
    return bytes(page)


def iter_payload_pages(launch: LibkrunLaunch) -> Iterator[LaunchPage]:
    """Yield the pages that do not depend on vCPUs and memory: qboot, kernel, initrd.

    Raises FormatError if a part has a size that libkrun refuses, or initrd and kernel overlap.
    """
    _require(launch)
    yield from _iter_system_pages(launch.qboot, launch.kernel, launch.kernel_gpa)
    yield _make_initrd_page(launch.initrd)


def _iter_system_pages(qboot: bytes, kernel: bytes, kernel_gpa: int) -> Iterator[LaunchPage]:
    yield LaunchPage(kind=PageType.NORMAL, gpa=_QBOOT_GPA, contents=qboot)
    yield LaunchPage(kind=PageType.NORMAL, gpa=kernel_gpa, contents=kernel)


def _make_initrd_page(initrd: bytes) -> LaunchPage:
    return LaunchPage(kind=PageType.NORMAL, gpa=INITRD_GPA, contents=initrd)


def iter_machine_pages(launch: LibkrunLaunch) -> Iterator[LaunchPage]:
    """Yield the pages that follow the payload's, VMSAs last. Raises as `iter_payload_pages`."""
    _require(launch)
    yield from _iter_pages_after(
        vcpus=launch.vcpus,
        memory_mib=launch.memory_mib,
        initrd_size=len(launch.initrd),
        variant=launch.variant,
    )


def _iter_pages_after(
    *, vcpus: int, memory_mib: int, initrd_size: int, variant: VmsaVariant
) -> Iterator[LaunchPage]:
    zero_page = build_zero_page(vcpus=vcpus, memory_mib=memory_mib, initrd_size=initrd_size)
    yield LaunchPage(kind=PageType.NORMAL, gpa=_ZERO_PAGE_GPA, contents=zero_page)
    yield LaunchPage(kind=PageType.ZERO, gpa=0, contents=b"")
    yield LaunchPage(kind=PageType.SECRETS, gpa=_SECRETS_GPA, contents=b"")
    yield LaunchPage(kind=PageType.CPUID, gpa=_CPUID_GPA, contents=b"")
    for gpa in _TABLE_GPAS:
        yield LaunchPage(kind=PageType.ZERO, gpa=gpa, contents=b"")
    for index in range(vcpus):
        vmsa = build_libkrun_vmsa(variant, is_boot=index == 0)
        yield LaunchPage(kind=PageType.VMSA, gpa=VMSA_GPA, contents=vmsa)


def fold_system(qboot: bytes, kernel: bytes, kernel_gpa: int) -> LaunchDigest:
    """Return the launch digest after qboot and kernel, the same for every workload. They are as in LibkrunLaunch."""
    return fold_pages(_iter_system_pages(qboot, kernel, kernel_gpa))


def fold_payload(launch: LibkrunLaunch, system: LaunchDigest | None = None) -> LaunchDigest:
    """Return the launch digest after the payload, the same for every number of vCPUs, memory and variant.

    system: what `fold_system` returned for this qboot and kernel; without it they are hashed here.

    Raises as `iter_payload_pages`.
    """
    if system is None:
        return fold_pages(iter_payload_pages(launch))
    _require(launch)
    return fold_pages([_make_initrd_page(launch.initrd)], system)


def predict_libkrun_digest(launch: LibkrunLaunch) -> LaunchDigest:
    """Return the MEASUREMENT of this launch. Raises as `iter_payload_pages`."""
    return fold_pages(iter_machine_pages(launch), fold_payload(launch))


def predict_folded_digest(
    folded: LaunchDigest, *, vcpus: int, memory_mib: int, initrd_size: int, variant: VmsaVariant
) -> LaunchDigest:
    """Return the MEASUREMENT of a launch whose payload is folded already, see `fold_payload`.

    initrd_size: bytes, with the padding. Raises FormatError if libkrun has no such machine.
    """
    _require_machine(vcpus, memory_mib, INITRD_GPA + initrd_size)
    pages = _iter_pages_after(vcpus=vcpus, memory_mib=memory_mib, initrd_size=initrd_size, variant=variant)
    return fold_pages(pages, folded)
