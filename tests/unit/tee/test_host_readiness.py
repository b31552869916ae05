"""Is a host ready for SNP or TDX guests: on trees of files that look like such hosts, with one thing missing each."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krunpy.core.errors import FormatError, HostError
from krunpy.tee.detect import QUOTE_SOCKET, SEV_DEVICE
from krunpy.tee.host_sev import STATUS_SIZE, SnpPlatform, ask_platform, parse_platform_status
from krunpy.tee.host_snp import find_sev_cpuid, find_snp_findings
from krunpy.tee.host_tdx import find_tdx_findings
from krunpy.tee.host_tree import HostTree, Readiness

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CPUINFO = "processor\t: 0\nvendor_id\t: {}\nflags\t\t: fpu {}\n\nprocessor\t: 1\nvendor_id\t: other\nflags\t\t: none\n"
SNP_FILES = {
    "/proc/cpuinfo": CPUINFO.format("AuthenticAMD", "sev sev_es sev_snp"),
    "/proc/cmdline": "quiet root=/dev/sda1\n",
    "/proc/sys/kernel/osrelease": "6.12.9-amd64\n",
    "/sys/class/iommu/ivhd0/devices": "",
    "/sys/kernel/iommu_groups/0/type": "DMA-FQ\n",
    "/sys/kernel/iommu_groups/1/type": "identity\n",
    "/sys/module/kvm_amd/parameters/sev": "Y\n",
    "/sys/module/kvm_amd/parameters/sev_es": "Y\n",
    "/sys/module/kvm_amd/parameters/sev_snp": "Y\n",
    "/sys/fs/cgroup/misc.capacity": "sev 410\nsev_es 99\n",
    "/dev/sev": "",
}
TDX_FILES = {
    "/proc/cpuinfo": CPUINFO.format("GenuineIntel", "vmx tdx_host_platform"),
    "/proc/cmdline": "quiet kvm_intel.tdx=1 nohibernate\n",
    "/proc/sys/kernel/osrelease": "6.17.0\n",
    "/sys/power/state": "freeze mem\n",
    "/sys/module/kvm_intel/parameters/tdx": "Y\n",
    "/sys/module/kvm_intel/parameters/ept": "Y\n",
    "/sys/module/kvm/parameters/tdp_mmu": "Y\n",
    "/sys/module/kvm/parameters/mmio_caching": "Y\n",
    "/sys/fs/cgroup/misc.capacity": "tdx 31\n",
    "/dev/sgx_enclave": "",
    "/dev/sgx_provision": "",
    "/etc/sgx_default_qcnl.conf": '{"pccs_url": "https://localhost:8081/sgx/certification/v4/"}\n',
}
TDX_MSRS = {0x982: 3, 0x87: 32 << 32 | 31, 0x1401: 1 << 11}
PLATFORM = SnpPlatform(
    api=(1, 55),
    build=21,
    state="initialized",
    is_rmp_initialized=True,
    masks_chip_id=False,
    masks_chip_key=False,
    has_vlek=False,
    guests=3,
    current_tcb=bytes(8),
    reported_tcb=bytes([4, 0, 0, 0, 0, 0, 22, 213]),
)
NOT_ASKED = HostError("cannot ask /dev/sev", why="permission denied")


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeWithRegisters(HostTree):
    """A tree whose registers are not in a file: /dev/cpu/0/msr has 8 bytes at every number."""

    registers: dict[int, int] = field(default_factory=dict)

    def read_msr(self, number: int) -> int | None:
        return self.registers.get(number)


def make_tree(folder: Path, files: dict[str, str], registers: dict[int, int] | None = None) -> HostTree:
    for path, text in files.items():
        (folder / path[1:]).parent.mkdir(parents=True, exist_ok=True)
        (folder / path[1:]).write_text(text)
    return TreeWithRegisters(root=str(folder), registers=registers or {})


def snp(
    tree: HostTree, platform: SnpPlatform | HostError = PLATFORM
) -> dict[str, tuple[Readiness, str, str]]:
    def ask(device: str) -> SnpPlatform:
        assert device == tree.locate(SEV_DEVICE)
        if isinstance(platform, HostError):
            raise platform
        return platform

    return {x.subject: (x.readiness, x.seen, x.fix) for x in find_snp_findings(tree, ask=ask)}


def tdx(tree: HostTree) -> dict[str, tuple[Readiness, str, str]]:
    return {x.subject: (x.readiness, x.seen, x.fix) for x in find_tdx_findings(tree)}


def only_gap(findings: dict[str, tuple[Readiness, str, str]]) -> tuple[str, str, str]:
    """Return subject, what was seen and the fix of the one finding that is not ready."""
    found = [
        (name, seen, fix) for name, (state, seen, fix) in findings.items() if state is not Readiness.READY
    ]
    assert len(found) == 1, found
    assert findings[found[0][0]][0] is Readiness.GAP
    assert found[0][2], "a gap without a fix"
    return found[0]


@pytest.fixture
def quoting(tmp_path: Path) -> Iterator[Path]:
    """A tree in which something listens where QGS does."""
    path = tmp_path / QUOTE_SOCKET[1:]
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        yield tmp_path


# --- SNP


def test_a_host_with_everything_is_ready_for_snp(tmp_path: Path) -> None:
    findings = snp(make_tree(tmp_path, SNP_FILES))

    assert {state for state, _, _ in findings.values()} == {Readiness.READY}
    assert findings["firmware"][1] == "version 1.55.21, 3 guests, reported TCB 04000000000016d5"
    assert findings["asids"][1] == "99 SEV-ES and SNP guests at a time"


SNP_GAPS = {
    "another vendor": (
        "/proc/cpuinfo",
        CPUINFO.format("GenuineIntel", "sev_snp"),
        "cpu",
        "wanted AuthenticAMD",
    ),
    "SNP off in the BIOS": (
        "/proc/cpuinfo",
        CPUINFO.format("AuthenticAMD", "sev sev_es"),
        "cpu",
        "flag sev_snp is",
    ),
    "a guest": (
        "/proc/cpuinfo",
        CPUINFO.format("AuthenticAMD", "hypervisor"),
        "cpu",
        "this is a virtual machine",
    ),
    "an old kernel": ("/proc/sys/kernel/osrelease", "6.1.0-9-amd64", "kernel", "6.1.0-9-amd64, wanted 6.11"),
    "IOMMU passed through": ("/proc/cmdline", "quiet iommu=pt", "cmdline", "iommu=pt"),
    "SNP off by a word": ("/proc/cmdline", "kvm_amd.sev_snp=0", "cmdline", "kvm_amd.sev_snp=0"),
    "SNP off": ("/sys/module/kvm_amd/parameters/sev_snp", "N\n", "kvm", "kvm_amd.sev_snp is N, wanted Y"),
    "SEV-ES off": ("/sys/module/kvm_amd/parameters/sev_es", "N\n", "kvm", "kvm_amd.sev_es is N, wanted Y"),
    "no ASIDs": ("/sys/fs/cgroup/misc.capacity", "sev 509\nsev_es 0\n", "asids", "none for SEV-ES"),
    "all passed through": (
        "/sys/kernel/iommu_groups/0/type",
        "identity\n",
        "iommu",
        "2 groups, all passed through",
    ),
}


@pytest.mark.parametrize("case", SNP_GAPS)
def test_what_keeps_a_host_from_snp_is_named(tmp_path: Path, case: str) -> None:
    path, text, subject, seen = SNP_GAPS[case]

    found = only_gap(snp(make_tree(tmp_path, {**SNP_FILES, path: text})))

    assert found[0] == subject
    assert seen in found[1]


def test_a_host_without_an_iommu_is_not_ready(tmp_path: Path) -> None:
    files = {path: text for path, text in SNP_FILES.items() if "/class/iommu" not in path}

    assert only_gap(snp(make_tree(tmp_path, files)))[0] == "iommu"


FIRMWARES = {
    "old": (replace(PLATFORM, api=(1, 50)), "firmware", "version 1.50.21, wanted 1.51 or newer"),
    "not initialised": (replace(PLATFORM, state="uninitialized"), "firmware", "uninitialized"),
    "without signatures": (replace(PLATFORM, masks_chip_key=True), "firmware", "not signed"),
    "without an RMP": (replace(PLATFORM, is_rmp_initialized=False), "rmp", "not initialised"),
}


@pytest.mark.parametrize("case", FIRMWARES)
def test_a_firmware_that_cannot_is_named(tmp_path: Path, case: str) -> None:
    platform, subject, seen = FIRMWARES[case]

    found = only_gap(snp(make_tree(tmp_path, SNP_FILES), platform))

    assert found[0] == subject
    assert seen in found[1]


def test_a_newer_major_version_of_the_firmware_is_new_enough(tmp_path: Path) -> None:
    findings = snp(
        make_tree(tmp_path, SNP_FILES), replace(PLATFORM, api=(2, 0), has_vlek=True, masks_chip_id=True)
    )

    assert findings["firmware"][0] is Readiness.READY
    assert findings["firmware"][1].endswith("VLEK loaded, chip id masked")


RMPS = {
    "reserved": ({0xC0010132: 0x100000000, 0xC0010133: 0x13FFFFFFF}, Readiness.READY, "1024 MiB reserved"),
    "none": ({0xC0010132: 0, 0xC0010133: 0}, Readiness.GAP, "there is none"),
    "segments": ({0xC0010132: 0x1000, 0xC0010133: 0, 0xC0010136: 1}, Readiness.READY, "in segments"),
    "not readable": ({}, Readiness.UNKNOWN, "nor the MSRs"),
}


@pytest.mark.parametrize("case", RMPS)
def test_without_the_firmware_the_registers_tell_about_the_rmp(tmp_path: Path, case: str) -> None:
    registers, readiness, seen = RMPS[case]

    findings = snp(make_tree(tmp_path, SNP_FILES, registers), NOT_ASKED)

    assert findings["rmp"][0] is readiness
    assert seen in findings["rmp"][1]
    assert findings["firmware"][:2] == (Readiness.UNKNOWN, "cannot ask /dev/sev: permission denied")


def test_an_empty_tree_is_no_host_for_anything(tmp_path: Path) -> None:
    tree = HostTree(root=str(tmp_path))

    for findings in (snp(tree), tdx(tree)):
        assert findings["cpu"][0] is Readiness.GAP
        assert findings["kvm"][0] is Readiness.GAP
        assert findings["kernel"][0] is Readiness.UNKNOWN
        assert all(fix for state, _, fix in findings.values() if state is Readiness.GAP)


def test_cpuid_says_where_the_encryption_bit_is_and_how_many_guests_there_can_be(tmp_path: Path) -> None:
    device = tmp_path / "dev/cpu/0/cpuid"
    device.parent.mkdir(parents=True)
    with device.open("wb") as stream:
        stream.seek(0x8000001F)
        stream.write(struct.pack("<4I", 0x1F, 5 << 6 | 51, 1006, 1007))

    found = find_sev_cpuid(HostTree(root=str(tmp_path)))

    assert found is not None
    assert (found.c_bit, found.reduced_phys_bits, found.es_asids) == (51, 5, 1006)
    assert find_sev_cpuid(HostTree(root=str(tmp_path / "nothing"))) is None


# --- the firmware's answer


def test_the_platform_status_is_read_field_by_field() -> None:
    raw = struct.pack("<BBBBIIIQQ", 1, 55, 1, 1, 21, 1 | 4, 7, 0xD516000000000004, 0xD416000000000004)

    assert parse_platform_status(raw) == SnpPlatform(
        api=(1, 55),
        build=21,
        state="initialized",
        is_rmp_initialized=True,
        masks_chip_id=True,
        masks_chip_key=False,
        has_vlek=True,
        guests=7,
        current_tcb=bytes.fromhex("04000000000016d5"),
        reported_tcb=bytes.fromhex("04000000000016d4"),
    )


@given(st.binary(max_size=2 * STATUS_SIZE))
def test_any_answer_is_a_status_or_refused(raw: bytes) -> None:
    try:
        assert parse_platform_status(raw).state in ("uninitialized", "initialized")
    except FormatError:
        assert len(raw) != STATUS_SIZE or raw[2] > 1


def test_a_device_that_is_none_cannot_be_asked(tmp_path: Path) -> None:
    (tmp_path / "sev").write_bytes(b"")

    with pytest.raises(HostError, match="no such file"):
        ask_platform(str(tmp_path / "missing"))
    with pytest.raises(HostError, match="firmware error 0x0"):
        ask_platform(str(tmp_path / "sev"))


# --- TDX


def test_a_host_with_everything_is_ready_for_tdx(quoting: Path) -> None:
    findings = tdx(make_tree(quoting, TDX_FILES, TDX_MSRS))

    assert {state for state, _, _ in findings.values()} == {Readiness.READY}
    assert findings["seam"][1] == "SEAM range on, 32 key ids for TDX"
    assert findings["keys"][1] == "31 TDX guests at a time"


TDX_GAPS = {
    "another vendor": ("/proc/cpuinfo", SNP_FILES["/proc/cpuinfo"], "cpu", "wanted GenuineIntel"),
    "TDX off in the BIOS": (
        "/proc/cpuinfo",
        CPUINFO.format("GenuineIntel", "vmx"),
        "cpu",
        "tdx_host_platform is",
    ),
    "an old kernel": ("/proc/sys/kernel/osrelease", "6.15.9", "kernel", "wanted 6.16"),
    "TDX off by a word": ("/proc/cmdline", "kvm_intel.tdx=0", "cmdline", "kvm_intel.tdx=0"),
    "TDX off": ("/sys/module/kvm_intel/parameters/tdx", "N\n", "kvm", "kvm_intel.tdx is N"),
    "no EPT": ("/sys/module/kvm_intel/parameters/ept", "0\n", "kvm", "kvm_intel.ept is 0"),
    "no TDP MMU": ("/sys/module/kvm/parameters/tdp_mmu", "N\n", "kvm", "kvm.tdp_mmu is N"),
    "no PCCS": ("/etc/sgx_default_qcnl.conf", "{}", "qgs", "names no pccs_url"),
    "no key ids": ("/sys/fs/cgroup/misc.capacity", "tdx 0\n", "keys", "no key ids"),
}


@pytest.mark.parametrize("case", TDX_GAPS)
def test_what_keeps_a_host_from_tdx_is_named(quoting: Path, case: str) -> None:
    path, text, subject, seen = TDX_GAPS[case]

    found = only_gap(tdx(make_tree(quoting, {**TDX_FILES, path: text}, TDX_MSRS)))

    assert found[0] == subject
    assert seen in found[1]


@pytest.mark.parametrize(
    ("number", "value", "seen"),
    [
        (0x982, 1, "memory encryption is off"),
        (0x1401, 1 << 10, "the SEAM range is off"),
        (0x87, 31, "no key ids are for TDX"),
    ],
)
def test_registers_that_the_bios_left_off_are_named(
    quoting: Path, number: int, value: int, seen: str
) -> None:
    found = only_gap(tdx(make_tree(quoting, TDX_FILES, {**TDX_MSRS, number: value})))

    assert found[:2] == ("seam", seen)


def test_hibernation_is_in_the_way_only_where_tdx_is_off(quoting: Path) -> None:
    files = {**TDX_FILES, "/sys/power/state": "freeze mem disk\n"}
    on = tdx(make_tree(quoting, files, TDX_MSRS))
    off = tdx(make_tree(quoting, {**files, "/sys/module/kvm_intel/parameters/tdx": "N\n"}, TDX_MSRS))

    assert on["sleep"][0] is Readiness.READY
    assert off["sleep"][0] is Readiness.GAP
    assert "nohibernate" in off["sleep"][2]


def test_without_registers_the_bios_is_not_known_and_that_is_no_gap(quoting: Path) -> None:
    findings = tdx(make_tree(quoting, TDX_FILES))

    assert findings["seam"][0] is Readiness.UNKNOWN
    assert findings["keys"][0] is Readiness.READY


@pytest.mark.parametrize("listening", [None, "a file"])
def test_a_host_without_quoting_is_not_ready(tmp_path: Path, listening: str | None) -> None:
    files = {**TDX_FILES, **({} if listening is None else {QUOTE_SOCKET: ""})}

    found = only_gap(tdx(make_tree(tmp_path, files, TDX_MSRS)))

    assert found[0] == "qgs"
    assert ("is no socket" if listening else "does not exist") in found[1]


def test_a_host_without_sgx_has_nobody_to_sign_quotes(quoting: Path) -> None:
    files = {path: text for path, text in TDX_FILES.items() if path != "/dev/sgx_provision"}

    assert only_gap(tdx(make_tree(quoting, files, TDX_MSRS)))[:2] == ("sgx", "/dev/sgx_provision missing")
