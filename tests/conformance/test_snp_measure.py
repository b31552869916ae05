"""Launch digests agree byte for byte with sev-snp-measure, on made-up and on installed firmware."""

from pathlib import Path

import pytest
from sevsnpmeasure import guest, vcpu_types, vmm_types, vmsa

from krunpy.core.errors import FormatError
from krunpy.formats.vmsa import VCPU_SIGNATURES, Vmm, build_vmsa
from krunpy.measure.kernel_hashes import hash_direct_boot
from krunpy.measure.launch import LaunchInputs, Layout, predict_snp_digest
from tests.fakes.firmware import AMD_SEV_SECTIONS, build_firmware, build_sev_firmware

OVMF = Path("/usr/share/ovmf/OVMF.fd")
VMMS = {
    Vmm.QEMU: vmm_types.VMMType.QEMU,
    Vmm.EC2: vmm_types.VMMType.ec2,
    Vmm.GCE: vmm_types.VMMType.gce,
}
KERNEL, INITRD, CMDLINE = b"a kernel", b"an initrd", "console=ttyS0 quiet"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    (folder / "firmware").write_bytes(build_sev_firmware(65536))
    (folder / "no-hashes").write_bytes(
        build_firmware(sections=AMD_SEV_SECTIONS[:3], hash_table_gpa=0x810400, reset_eip=0x80B004)
    )
    (folder / "kernel").write_bytes(KERNEL)
    (folder / "initrd").write_bytes(INITRD)
    return folder


def theirs(firmware: Path, kernel: str, initrd: str, cmdline: str, machine: dict) -> str:
    return guest.snp_calc_launch_digest(
        machine["vcpus"],
        vcpu_types.CPU_SIGS[machine.get("vcpu_type", "EPYC-v4")],
        str(firmware),
        kernel,
        initrd,
        cmdline,
        machine.get("guest_features", 1),
        "",
        vmm_type=VMMS[machine.get("vmm", Vmm.QEMU)],
    ).hex()


def assert_same(firmware: Path, *, files: Path | None = None, with_initrd: bool = True, **machine) -> None:
    hashes = None
    kernel, initrd, cmdline = "", "", ""
    if files is not None:
        kernel, cmdline = str(files / "kernel"), CMDLINE
        initrd = str(files / "initrd") if with_initrd else ""
        hashes = hash_direct_boot(KERNEL, INITRD if with_initrd else b"", CMDLINE)
    inputs = LaunchInputs(
        firmware=firmware.read_bytes(), layout=Layout.SEV_METADATA, kernel_hashes=hashes, **machine
    )

    assert predict_snp_digest(inputs).hex() == theirs(firmware, kernel, initrd, cmdline, machine)


@pytest.mark.parametrize("vcpus", range(1, 17))
@pytest.mark.parametrize("guest_features", [0x1, 0x21])
def test_every_vcpu_count_and_feature_agrees(files: Path, vcpus: int, guest_features: int) -> None:
    assert_same(files / "firmware", files=files, vcpus=vcpus, guest_features=guest_features)


@pytest.mark.parametrize("vcpu_type", vcpu_types.CPU_SIGS)
@pytest.mark.parametrize("guest_features", [0x1, 0x21])
@pytest.mark.parametrize("vcpus", [1, 2, 16])
def test_every_vcpu_type_agrees(files: Path, vcpu_type: str, guest_features: int, vcpus: int) -> None:
    machine = {"vcpu_type": vcpu_type, "guest_features": guest_features, "vcpus": vcpus}

    assert_same(files / "firmware", files=files, **machine)


def test_the_same_vcpu_types_are_known() -> None:
    assert VCPU_SIGNATURES == vcpu_types.CPU_SIGS


@pytest.mark.parametrize("vmm", VMMS)
@pytest.mark.parametrize("guest_features", [0x1, 0x21])
@pytest.mark.parametrize("vcpus", [1, 2, 7])
def test_every_vmm_agrees(files: Path, vmm: Vmm, guest_features: int, vcpus: int) -> None:
    assert_same(files / "firmware", vcpus=vcpus, vmm=vmm, guest_features=guest_features)


@pytest.mark.parametrize("vcpu_type", vcpu_types.CPU_SIGS)
def test_a_save_area_agrees_byte_for_byte(vcpu_type: str) -> None:
    signature = vcpu_types.CPU_SIGS[vcpu_type]
    for vmm, other in VMMS.items():
        for eip in (0xFFFFFFF0, 0x80B004):
            wanted = bytes(vmsa.VMSA.build_save_area(eip, 0x21, signature, other))

            assert build_vmsa(eip=eip, signature=signature, features=0x21, vmm=vmm) == wanted, (vmm, eip)


def test_an_old_host_differs_in_the_state_of_the_fpu_alone() -> None:
    new, old = (
        build_vmsa(eip=0xFFFFFFF0, signature=0x800F12, features=1, vmm=vmm)
        for vmm in (Vmm.QEMU, Vmm.QEMU_OLD_HOST)
    )

    assert {at for at in range(4096) if new[at] != old[at]} == {0x408, 0x409, 0x410, 0x411}


def test_a_boot_without_initrd_agrees(files: Path) -> None:
    assert_same(files / "firmware", files=files, with_initrd=False, vcpus=1)


def test_both_refuse_a_kernel_that_the_firmware_would_not_check(files: Path) -> None:
    with pytest.raises(RuntimeError, match="SNP_KERNEL_HASHES"):
        theirs(files / "no-hashes", str(files / "kernel"), "", "", {"vcpus": 1})
    with pytest.raises(FormatError, match="no kernel-hashes section"):
        assert_same(files / "no-hashes", files=files, vcpus=1)


@pytest.mark.skipif(not OVMF.exists(), reason="no OVMF.fd: install the package ovmf")
@pytest.mark.parametrize("vcpus", [1, 2, 16])
@pytest.mark.parametrize("vcpu_type", ["EPYC-v4", "EPYC-Milan", "EPYC-Genoa", "EPYC-Turin"])
@pytest.mark.parametrize("guest_features", [0x1, 0x21])
def test_installed_firmware_agrees(vcpus: int, vcpu_type: str, guest_features: int) -> None:
    assert_same(OVMF, vcpus=vcpus, vcpu_type=vcpu_type, guest_features=guest_features)
