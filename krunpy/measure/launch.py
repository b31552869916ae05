"""Predict the SEV-SNP launch digest of a QEMU direct boot, and of libkrun's plain machines in the software TEE.

`iter_launch_pages` says which guest pages are measured and in which order; folding them gives the
digest. The launcher hands the same pages, made from the bytes it loads, to the software TEE. No file is
read and nothing is launched here.

Three layouts, never chosen silently:

- SEV_METADATA, what SNP hardware and firmware do: the image as normal pages below 4 GiB, then the
  sections of its SEV metadata in file order, the kernel-hashes page among them, then one VMSA per vCPU.
- PLAIN, for firmware without SEV metadata (SeaBIOS, or OVMF built without it), which SNP cannot boot and
  only the software TEE measures: the image as normal pages below 4 GiB, then the kernel-hashes page at
  0x810000 (absent without a kernel), then one VMSA per vCPU; every vCPU starts at the reset vector.
- LIBKRUN, for machines of libkrun that have no firmware, which only the software TEE measures: as PLAIN with an empty
  image and the VMSAs of `formats.vmsa_libkrun`. What libkrun launches in SNP is in `measure.libkrun`.

Source: QEMU target/i386/sev.c; agrees with sev-snp-measure byte for byte (tests/conformance).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from typing import TYPE_CHECKING

from krunpy.core.errors import FormatError
from krunpy.formats.launch_digest import PAGE_SIZE, VMSA_GPA, ZERO_DIGEST, PageType, fold_page
from krunpy.formats.ovmf import FOUR_GIB, FirmwareTable, SectionType, SevSection, parse_firmware_table
from krunpy.formats.vmsa import (
    BSP_RESET_EIP,
    FEATURE_DEBUG_SWAP,
    FEATURE_SNP_ACTIVE,
    Vmm,
    build_vmsa,
    find_signature,
)
from krunpy.formats.vmsa_libkrun import VmsaVariant, build_libkrun_vmsa
from krunpy.measure.kernel_hashes import build_hashes_page

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from krunpy.core.octets import LaunchDigest
    from krunpy.measure.kernel_hashes import KernelHashes

PLAIN_HASHES_GPA = 0x810000  # where OVMF for SEV keeps its hash table too
DEFAULT_VCPU_TYPE = "EPYC-v4"
# SEV_FEATURES of an SNP guest: the host's kernel decides whether debug-swap is on
SNP_FEATURES = (FEATURE_SNP_ACTIVE, FEATURE_SNP_ACTIVE | FEATURE_DEBUG_SWAP)
MOST_VCPUS = 512


class Layout(StrEnum):
    """Which pages follow the firmware; see the module's docstring."""

    SEV_METADATA = "sev-metadata"
    PLAIN = "plain"
    LIBKRUN = "libkrun"


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Everything that a launch digest depends on, but the firmware.

    kernel_hashes:  None for a boot without -kernel.
    vcpus:          1 to 512.
    vcpu_type:      QEMU's CPU model.
    guest_features: SEV_FEATURES of the VMSA: 0x1, or 0x21 where the host turns on debug-swap.
    """

    layout: Layout
    kernel_hashes: KernelHashes | None
    vcpus: int
    vcpu_type: str = DEFAULT_VCPU_TYPE
    guest_features: int = FEATURE_SNP_ACTIVE
    vmm: Vmm = Vmm.QEMU


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchInputs(Machine):
    """Everything that a launch digest depends on; firmware: the image's bytes, whole pages."""

    firmware: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchPage:
    """One guest page, or a run of NORMAL pages, in the order of launch.

    contents: whole pages of 4096 bytes for NORMAL, one for VMSA; empty for every other kind: one page.
    """

    kind: PageType
    gpa: int
    contents: bytes


def find_layout(firmware: bytes) -> Layout:
    """Return the layout that this firmware can be measured in. Raises FormatError if its table is broken.

    For the software TEE only: a launch on SNP hardware always names SEV_METADATA.
    """
    if not firmware:
        return Layout.LIBKRUN
    return Layout.PLAIN if read_table(firmware).sections is None else Layout.SEV_METADATA


def read_table(firmware: bytes) -> FirmwareTable:
    """Return the table of a firmware, an empty one where there is no firmware. Raises FormatError if it is broken."""
    if not firmware:
        return FirmwareTable(sections=None, hash_table_gpa=None, ap_reset_eip=None)
    return parse_firmware_table(firmware)


def _empty_pages(kind: PageType, section: SevSection) -> Iterator[LaunchPage]:
    for gpa in range(section.gpa, section.gpa + section.size, PAGE_SIZE):
        yield LaunchPage(kind=kind, gpa=gpa, contents=b"")


def _hashes_section(
    table: FirmwareTable, section: SevSection, hashes: KernelHashes | None
) -> Iterator[LaunchPage]:
    if hashes is None:
        yield from _empty_pages(PageType.ZERO, section)
        return
    gpa = table.hash_table_gpa
    if gpa is None or section.size != PAGE_SIZE or not section.gpa <= gpa < section.gpa + PAGE_SIZE:
        raise FormatError(
            "cannot measure kernel hashes",
            why=f"seen a section of {section.size} bytes at {section.gpa:#x} and a table at {gpa or 0:#x}, "
            "wanted one page that holds the table",
        )
    yield LaunchPage(
        kind=PageType.NORMAL, gpa=section.gpa, contents=build_hashes_page(hashes, gpa - section.gpa)
    )


def _section_pages(table: FirmwareTable, section: SevSection, machine: Machine) -> Iterator[LaunchPage]:
    match section.kind:
        case SectionType.SEC_MEM:
            kind = PageType.UNMEASURED if machine.vmm is Vmm.GCE else PageType.ZERO
            yield from _empty_pages(kind, section)
        case SectionType.SVSM_CAA:
            yield from _empty_pages(PageType.ZERO, section)
        case SectionType.SECRETS:
            yield LaunchPage(kind=PageType.SECRETS, gpa=section.gpa, contents=b"")
        case SectionType.CPUID:
            yield LaunchPage(kind=PageType.CPUID, gpa=section.gpa, contents=b"")
        case SectionType.KERNEL_HASHES:
            yield from _hashes_section(table, section, machine.kernel_hashes)


def _metadata_pages(table: FirmwareTable, machine: Machine) -> Iterator[LaunchPage]:
    if table.sections is None:
        raise FormatError(
            "cannot measure the firmware",
            why="it has no SEV metadata, so SEV-SNP cannot boot it",
            next="use an OVMF image built for AMD SEV (Debian: package ovmf-amdsev)",
        )
    kinds = [section.kind for section in table.sections]
    if machine.kernel_hashes is not None and SectionType.KERNEL_HASHES not in kinds:
        raise FormatError(
            "cannot measure the kernel",
            why="the firmware has no kernel-hashes section, so it would boot any kernel",
            next="use an OVMF image built for AMD SEV (Debian: package ovmf-amdsev)",
        )
    sections = list(table.sections)
    if machine.vmm is Vmm.EC2:  # EC2 adds the CPUID pages after all others
        sections.sort(key=lambda section: section.kind is SectionType.CPUID)
    for section in sections:
        yield from _section_pages(table, section, machine)


def _plain_pages(table: FirmwareTable, machine: Machine) -> Iterator[LaunchPage]:
    if table.sections is not None:
        raise FormatError("cannot measure the firmware", why="it has SEV metadata, wanted plain firmware")
    if machine.kernel_hashes is not None:
        page = build_hashes_page(machine.kernel_hashes, 0)
        yield LaunchPage(kind=PageType.NORMAL, gpa=PLAIN_HASHES_GPA, contents=page)


def _require_vcpus(machine: Machine) -> None:
    if not 1 <= machine.vcpus <= MOST_VCPUS:
        raise FormatError("cannot measure the vCPUs", why=f"seen {machine.vcpus}, wanted 1 to {MOST_VCPUS}")


def _vmsa_pages(ap_reset_eip: int | None, machine: Machine) -> Iterator[LaunchPage]:
    _require_vcpus(machine)
    signature = find_signature(machine.vcpu_type)

    def vmsa(eip: int) -> LaunchPage:
        page = build_vmsa(eip=eip, signature=signature, features=machine.guest_features, vmm=machine.vmm)
        return LaunchPage(kind=PageType.VMSA, gpa=VMSA_GPA, contents=page)

    yield vmsa(BSP_RESET_EIP)
    if machine.vcpus == 1:
        return
    if ap_reset_eip is None:
        raise FormatError(
            "cannot measure the vCPUs",
            why=f"seen {machine.vcpus} vCPUs and a firmware without an AP reset vector",
        )
    other = vmsa(ap_reset_eip)
    for _ in range(1, machine.vcpus):
        yield other


def _krun_vmsa_pages(machine: Machine) -> Iterator[LaunchPage]:
    _require_vcpus(machine)
    for _ in range(machine.vcpus):
        page = build_libkrun_vmsa(VmsaVariant.C, is_boot=True)
        yield LaunchPage(kind=PageType.VMSA, gpa=VMSA_GPA, contents=page)


def iter_pages_after_firmware(table: FirmwareTable, machine: Machine) -> Iterator[LaunchPage]:
    """Yield the pages that follow the firmware's own, VMSAs last.

    Raises FormatError while it yields, where firmware and machine do not go together.
    """
    if machine.layout is Layout.LIBKRUN:
        return chain(_plain_pages(table, machine), _krun_vmsa_pages(machine))
    if machine.layout is Layout.PLAIN:
        return chain(_plain_pages(table, machine), _vmsa_pages(BSP_RESET_EIP, machine))
    return chain(_metadata_pages(table, machine), _vmsa_pages(table.ap_reset_eip, machine))


def make_firmware_pages(firmware: bytes) -> tuple[LaunchPage, ...]:
    """Return the run of normal pages that ends at 4 GiB and holds the firmware; none without one."""
    if not firmware:
        return ()
    return (LaunchPage(kind=PageType.NORMAL, gpa=FOUR_GIB - len(firmware), contents=firmware),)


def iter_launch_pages(inputs: LaunchInputs) -> Iterator[LaunchPage]:
    """Yield every measured page in the order of launch.

    Raises FormatError, at the latest while it yields, where the firmware cannot boot the machine measured:
    no SEV metadata or no kernel-hashes section in layout SEV_METADATA, SEV metadata in layout PLAIN.
    """
    table = read_table(inputs.firmware)
    return chain(make_firmware_pages(inputs.firmware), iter_pages_after_firmware(table, inputs))


def fold_pages(pages: Iterable[LaunchPage], digest: LaunchDigest = ZERO_DIGEST) -> LaunchDigest:
    """Return the launch digest after `pages`; digest: of the pages before them."""
    for page in pages:
        digest = fold_page(digest, page.kind, page.contents, page.gpa)
    return digest


def predict_snp_digest(inputs: LaunchInputs) -> LaunchDigest:
    """Return the MEASUREMENT that a launch with these inputs will have. Raises as `iter_launch_pages`."""
    return fold_pages(iter_launch_pages(inputs))
