"""Is this host ready for SEV-SNP guests: one finding a subject, each gap with what closes it.

Source: Linux Documentation/virt/kvm/x86/amd-memory-encryption.rst; arch/x86/virt/svm/sev.c and
drivers/iommu/amd/init.c (iommu_snp_enable) of 6.11; AMD APM volume 3, CPUID leaf 8000_001Fh; AMD PPR, MSR C001_0132h.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from krunpy.core.errors import KrunpyError
from krunpy.tee.detect import SEV_DEVICE, SNP_PARAMETER
from krunpy.tee.host_sev import ask_platform
from krunpy.tee.host_tree import Finding, HostTree, gap, ready, unknown

if TYPE_CHECKING:
    from collections.abc import Callable

    from krunpy.tee.host_sev import SnpPlatform

VENDOR = "AuthenticAMD"
_FLAGS = ("sev", "sev_es", "sev_snp")
_PARAMETERS = {
    "kvm_amd.sev": "/sys/module/kvm_amd/parameters/sev",
    "kvm_amd.sev_es": "/sys/module/kvm_amd/parameters/sev_es",
    "kvm_amd.sev_snp": SNP_PARAMETER,
}
_OLDEST_KERNEL = (6, 11)
_OLDEST_API = (1, 51)  # Linux drivers/crypto/ccp/sev-dev.c, SNP_MIN_API_MAJOR and _MINOR
_NO_IOMMU = frozenset({"iommu=off", "amd_iommu=off", "iommu=pt", "iommu.passthrough=1", "amd_iommu=pgtbl_v2"})
_NO_SNP = frozenset({"sev=nosnp", "kvm_amd.sev=0", "kvm_amd.sev_es=0", "kvm_amd.sev_snp=0"})
_CPUID = "/dev/cpu/0/cpuid"
_LEAF = 0x8000001F
_RMP_BASE, _RMP_END, _RMP_CONFIG = 0xC0010132, 0xC0010133, 0xC0010136
_SEGMENTED = 1  # in _RMP_CONFIG, from Turin on: the base is that of a table of segments
_BIOS = "enable SMEE, SEV-ES ASID space and SEV-SNP support (with the RMP table) in the BIOS"


@dataclass(frozen=True, slots=True, kw_only=True)
class SevCpuid:
    """What CPUID says about memory encryption: what QEMU must be told, and how many guests there can be.

    es_asids: of SEV-ES and SNP guests together.
    """

    c_bit: int
    reduced_phys_bits: int
    es_asids: int


def find_sev_cpuid(tree: HostTree) -> SevCpuid | None:
    """Return CPUID's words, None where the kernel has no /dev/cpu/0/cpuid that we may read."""
    raw = tree.read_at(_CPUID, _LEAF, 16)
    if raw is None:
        return None
    _, ebx, _, edx = struct.unpack("<4I", raw)
    return SevCpuid(c_bit=ebx & 0x3F, reduced_phys_bits=ebx >> 6 & 0x3F, es_asids=max(edx - 1, 0))


def find_snp_findings(
    tree: HostTree, *, ask: Callable[[str], SnpPlatform] = ask_platform
) -> tuple[Finding, ...]:
    """Return the findings in the order in which gaps are best closed. ask: the firmware's status by device."""
    platform, why = _ask(tree, ask)
    return (
        _check_cpu(tree),
        tree.check_kernel(_OLDEST_KERNEL, "install a kernel of 6.11 or newer with CONFIG_KVM_AMD_SEV"),
        tree.check_command_line(_NO_SNP | _NO_IOMMU, why="the kernel leaves SNP off"),
        _check_iommu(tree),
        tree.check_parameters(
            _PARAMETERS,
            fix='load kvm_amd with sev=1 sev_es=1 sev_snp=1; if it stays N, see "cpu", "iommu" and "rmp"',
        ),
        _check_rmp(tree, platform),
        _check_firmware(tree, platform, why),
        _check_asids(tree),
    )


def _ask(tree: HostTree, ask: Callable[[str], SnpPlatform]) -> tuple[SnpPlatform | None, str]:
    if not tree.exists(SEV_DEVICE):
        return None, f"{SEV_DEVICE} does not exist"
    try:
        return ask(tree.locate(SEV_DEVICE)), ""
    except KrunpyError as error:
        return None, f"{error.what}: {error.why}"


def _check_cpu(tree: HostTree) -> Finding:
    vendor, flags = tree.cpu()
    if vendor != VENDOR:
        return gap("cpu", f"vendor {vendor}, wanted {VENDOR}", "use a host with an AMD EPYC 7003 or newer")
    missing = [flag for flag in _FLAGS if flag not in flags]
    if not missing:
        return ready("cpu", f"flags {', '.join(_FLAGS)}")
    seen = f"flags {', '.join(missing)} are missing" if len(missing) > 1 else f"flag {missing[0]} is missing"
    if "hypervisor" in flags:
        return gap("cpu", f"{seen}, and this is a virtual machine", "use a physical AMD EPYC 7003 or newer")
    return gap("cpu", seen, f"use an AMD EPYC 7003 or newer, and {_BIOS}")


def _check_iommu(tree: HostTree) -> Finding:
    units = [name for name in tree.list_names("/sys/class/iommu") if name.startswith("ivhd")]
    if not units:
        return gap(
            "iommu", "the kernel uses no AMD IOMMU", "enable the IOMMU in the BIOS, and remove amd_iommu=off"
        )
    groups = tree.list_names("/sys/kernel/iommu_groups")
    kinds = {(tree.read(f"/sys/kernel/iommu_groups/{name}/type") or "").strip() for name in groups}
    if kinds == {"identity"}:
        fix = "boot with iommu=nopt: the kernel passes devices through by default"
        return gap("iommu", f"{len(groups)} groups, all passed through", fix)
    return ready("iommu", f"{len(units)} units, {len(groups)} groups")


def _check_rmp(tree: HostTree, platform: SnpPlatform | None) -> Finding:
    fix = "let the BIOS reserve an RMP table that covers all memory (SNP Memory Coverage), and reboot"
    if platform is not None:
        if platform.is_rmp_initialized:
            return ready("rmp", "initialised")
        return gap("rmp", "the firmware says that the RMP is not initialised", fix)
    base, end, config = (tree.read_msr(number) for number in (_RMP_BASE, _RMP_END, _RMP_CONFIG))
    if base is None or end is None:
        return unknown("rmp", f"neither {SEV_DEVICE} nor the MSRs say it", "modprobe msr, and run as root")
    if base and config is not None and config & _SEGMENTED:
        return ready("rmp", f"in segments, their table is at {base:#x}")
    if not base or end <= base:
        return gap("rmp", f"from {base:#x} to {end:#x}: there is none", fix)
    return ready("rmp", f"{(end - base + 1) >> 20} MiB reserved")


def _check_firmware(tree: HostTree, platform: SnpPlatform | None, why: str) -> Finding:
    if platform is None:
        if not tree.exists(SEV_DEVICE):
            return gap("firmware", why, "load the module ccp; without a device see `dmesg | grep -i ccp`")
        return unknown("firmware", why, "run as root; if SNP was not initialised, close the other gaps first")
    api = f"{platform.api[0]}.{platform.api[1]}.{platform.build}"
    if platform.api < _OLDEST_API:
        return gap(
            "firmware",
            f"version {api}, wanted {_OLDEST_API[0]}.{_OLDEST_API[1]} or newer",
            "update the BIOS (AGESA), or put a newer firmware under /lib/firmware/amd",
        )
    if platform.masks_chip_key:
        fix = "clear MASK_CHIP_KEY with SNP_CONFIG (`snphost config set`)"
        return gap("firmware", f"version {api}, and reports are not signed (MASK_CHIP_KEY)", fix)
    if platform.state != "initialized":
        return gap("firmware", f"version {api}, {platform.state}", "reload ccp and kvm_amd, or reboot")
    words = [f"version {api}, {platform.guests} guests", f"reported TCB {platform.reported_tcb.hex()}"]
    words += ["VLEK loaded"] if platform.has_vlek else []
    words += ["chip id masked"] if platform.masks_chip_id else []
    return ready("firmware", ", ".join(words))


def _check_asids(tree: HostTree) -> Finding:
    count = tree.misc_capacity("sev_es")
    if count is None:
        found = find_sev_cpuid(tree)
        count = found.es_asids if found is not None else None
    if count is None:
        fix = "modprobe cpuid, and run as root; or mount cgroup v2 with the misc controller"
        return unknown("asids", "neither cgroup misc nor CPUID says how many guests there can be", fix)
    if count == 0:
        return gap("asids", "none for SEV-ES and SNP guests", 'raise "SEV-ES ASID Space Limit" in the BIOS')
    return ready("asids", f"{count} SEV-ES and SNP guests at a time")
