"""Predict MRTD of a TD that libkrun starts with TD-Shim as its firmware.

libkrun adds all memory first, contents and all, and measures none of it: neither its kernel nor its initrd. After that
come the sections of TD-Shim that lie above the memory. Below it a section is memory like any other, whatever its
attributes say. Kernel and initrd are TD-Shim's to measure, into RTMR1, which is not predicted here; it does so if its
metadata have a Payload without MR.EXTEND, over the addresses that its build gave that name.

Source: libkrun src/vmm/src/builder.rs, measure_tdshim_regions, and src/arch/src/x86_64/mod.rs, arch_memory_regions,
after pull requests 694 and 853; Linux arch/x86/kvm/vmx/tdx.c, tdx_gmem_post_populate (each page is added, then
measured); td-shim src/bin/td-shim, main.rs (boot_linux_kernel) and shim_info.rs (payload_extend_rtmr).
"""

from __future__ import annotations

from hashlib import sha384
from typing import TYPE_CHECKING

from krunpy.core.errors import FormatError
from krunpy.core.octets import Digest48
from krunpy.formats.krun_bundle import INITRD_GPA
from krunpy.formats.tdvf import TdvfAttributes, TdvfType, parse_tdvf
from krunpy.measure.libkrun import DEFAULT_KERNEL_GPA, MOST_MEMORY_MIB
from krunpy.measure.tdx_mrtd import PageOrder, fold_added, fold_section

if TYPE_CHECKING:
    from krunpy.formats.tdvf import TdvfSection

_LOW_END, _HIGH = 0xD0000000, 1 << 32  # where memory ends for devices, and where it goes on
_MIB = 1 << 20
_QEMU = "launch with QEMU and a TDVF firmware: --vmm qemu"


def predict_shim_mrtd(firmware: bytes, *, memory_mib: int) -> Digest48:
    """Return the MRTD of a TD with this TD-Shim. memory_mib: of the machine; each of its pages is part of MRTD.

    Raises FormatError if it is no TD-Shim that libkrun starts, or what it boots would be measured nowhere.
    """
    sections = parse_tdvf(firmware)
    memory = memory_mib * _MIB
    if not 0 < memory_mib <= MOST_MEMORY_MIB:
        raise _refuse(f"seen {memory_mib} MiB of memory, wanted at most 4 TiB")
    _require_startable(sections, memory)
    _require_measured_payload(sections)
    running = sha384()
    fold_added(running, 0, min(memory, _LOW_END))
    if memory > _LOW_END:
        fold_added(running, _HIGH, _HIGH + memory - _LOW_END)
    for section in sections:
        if section.gpa >= _LOW_END:
            fold_section(running, section, PageOrder.SINGLE_PASS)
    return Digest48(running.digest())


def _refuse(why: str, next_step: str = _QEMU) -> FormatError:
    return FormatError("cannot predict MRTD under libkrun", why=why, next=next_step)


def _require_startable(sections: tuple[TdvfSection, ...], memory: int) -> None:
    """Raise FormatError if libkrun refuses the firmware, or does with a section what it does not say."""
    kinds = [section.kind for section in sections]
    for kind in (TdvfType.BFV, TdvfType.TD_HOB):
        if kind not in kinds:
            raise _refuse(f"the firmware has no section {kind.name}, and libkrun wants one")
    for section in sections:
        where = f"section {section.kind.name} at {section.gpa:#x}"
        is_high = section.gpa >= _LOW_END
        if is_high and TdvfAttributes.PAGE_AUG in section.attributes:
            raise _refuse(f"{where} is not to be added, and libkrun adds every section there")
        if is_high and section.gpa + section.size > _HIGH:
            raise _refuse(f"{where} ends above 4 GiB, in the machine's memory")
        if not is_high and TdvfAttributes.MR_EXTEND in section.attributes:
            raise _refuse(f"{where} is to be measured, and libkrun measures nothing below {_LOW_END:#x}")
        if not is_high and section.gpa + section.size > min(memory, _LOW_END):
            raise _refuse(f"{where} is outside the machine's {memory // _MIB} MiB of memory", "--memory MIB")
        if section.kind is TdvfType.BFV and TdvfAttributes.MR_EXTEND not in section.attributes:
            raise _refuse(f"{where} is not measured: the firmware could be anybody's")


def _require_measured_payload(sections: tuple[TdvfSection, ...]) -> None:
    """Raise FormatError if TD-Shim would boot libkrun's kernel and initrd without measuring them."""
    payload = next((section for section in sections if section.kind is TdvfType.PAYLOAD), None)
    what = "kernel and initrd could be anybody's"
    if payload is None:
        raise _refuse(f"the firmware has no section PAYLOAD, so TD-Shim measures none: {what}")
    if payload.attributes:
        raise _refuse(
            f"its section PAYLOAD is for MRTD, so TD-Shim measures none itself, and libkrun boots another: {what}"
        )
    if payload.gpa > INITRD_GPA or payload.gpa + payload.size <= DEFAULT_KERNEL_GPA:
        raise _refuse(
            f"its section PAYLOAD is {payload.size:#x} bytes at {payload.gpa:#x}, and libkrun has the initrd at "
            f"{INITRD_GPA:#x} and the kernel at {DEFAULT_KERNEL_GPA:#x}: {what}"
        )
