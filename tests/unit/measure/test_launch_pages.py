"""Which pages a launch has, in which order, and which launches are refused."""

from dataclasses import replace

import pytest

from krunpy.core.errors import FormatError
from krunpy.formats.launch_digest import VMSA_GPA, ZERO_DIGEST, PageType, fold_page
from krunpy.formats.vmsa import Vmm
from krunpy.measure.kernel_hashes import KernelHashes, build_hashes_page, hash_cmdline, hash_direct_boot
from krunpy.measure.launch import (
    PLAIN_HASHES_GPA,
    LaunchInputs,
    Layout,
    find_layout,
    iter_launch_pages,
    predict_snp_digest,
)
from tests.fakes.firmware import AMD_SEV_SECTIONS, build_firmware, build_sev_firmware

HASHES = hash_direct_boot(b"kernel", b"initrd", "console=ttyS0")
SEV = LaunchInputs(firmware=build_sev_firmware(), layout=Layout.SEV_METADATA, kernel_hashes=HASHES, vcpus=2)
PLAIN = LaunchInputs(firmware=bytes(8192), layout=Layout.PLAIN, kernel_hashes=HASHES, vcpus=2)


def shape(inputs: LaunchInputs) -> list[tuple[str, int]]:
    return [(page.kind.name, page.gpa) for page in iter_launch_pages(inputs)]


def test_a_sev_launch_has_firmware_sections_and_vmsas_in_order() -> None:
    assert shape(SEV) == [
        ("NORMAL", 0xFFFFE000),
        *(("ZERO", gpa) for gpa in range(0x800000, 0x809000, 0x1000)),
        ("SECRETS", 0x80D000),
        ("CPUID", 0x80E000),
        ("NORMAL", 0x810000),
        *(("ZERO", gpa) for gpa in range(0x811000, 0x820000, 0x1000)),
        ("VMSA", VMSA_GPA),
        ("VMSA", VMSA_GPA),
    ]


def test_without_a_kernel_the_hashes_page_is_zero() -> None:
    assert ("ZERO", 0x810000) in shape(replace(SEV, kernel_hashes=None))


def test_a_plain_launch_has_firmware_hashes_and_vmsas_in_order() -> None:
    assert shape(PLAIN) == [
        ("NORMAL", 0xFFFFE000),
        ("NORMAL", PLAIN_HASHES_GPA),
        ("VMSA", VMSA_GPA),
        ("VMSA", VMSA_GPA),
    ]


def test_a_plain_launch_without_a_kernel_has_no_hashes_page() -> None:
    assert ("NORMAL", PLAIN_HASHES_GPA) not in shape(replace(PLAIN, kernel_hashes=None))


def test_ec2_adds_the_cpuid_page_last_and_gce_leaves_memory_unmeasured() -> None:
    ec2, gce = shape(replace(SEV, vmm=Vmm.EC2)), shape(replace(SEV, vmm=Vmm.GCE))

    assert ec2[-3] == ("CPUID", 0x80E000)
    assert ("UNMEASURED", 0x800000) in gce


@pytest.mark.parametrize("inputs", [SEV, PLAIN], ids=["sev", "plain"])
def test_the_digest_is_the_fold_of_the_pages(inputs: LaunchInputs) -> None:
    digest = ZERO_DIGEST
    for page in iter_launch_pages(inputs):
        digest = fold_page(digest, page.kind, page.contents, page.gpa)

    assert predict_snp_digest(inputs) == digest


CHANGES = {
    "firmware": {"firmware": b"\1" + SEV.firmware[1:]},
    "kernel": {"kernel_hashes": hash_direct_boot(b"kernel.", b"initrd", "console=ttyS0")},
    "initrd": {"kernel_hashes": hash_direct_boot(b"kernel", b"initrd.", "console=ttyS0")},
    "cmdline": {"kernel_hashes": hash_direct_boot(b"kernel", b"initrd", "console=ttyS0 ")},
    "no kernel": {"kernel_hashes": None},
    "vcpus": {"vcpus": 3},
    "vcpu_type": {"vcpu_type": "EPYC-Milan"},
    "guest_features": {"guest_features": 0x21},
    "vmm": {"vmm": Vmm.EC2},
}


def test_every_input_changes_the_digest_of_a_sev_launch() -> None:
    digests = {predict_snp_digest(replace(SEV, **change)) for change in CHANGES.values()}

    assert len(digests | {predict_snp_digest(SEV)}) == len(CHANGES) + 1


def test_every_input_changes_the_digest_of_a_plain_launch() -> None:
    changes = CHANGES | {"firmware": {"firmware": b"\1" + PLAIN.firmware[1:]}}
    digests = {predict_snp_digest(replace(PLAIN, **change)) for change in changes.values()}

    assert len(digests | {predict_snp_digest(PLAIN)}) == len(changes) + 1


REFUSED = {
    "no SEV metadata": replace(SEV, firmware=bytes(8192)),
    "no kernel-hashes section": replace(
        SEV, firmware=build_firmware(sections=AMD_SEV_SECTIONS[:3], hash_table_gpa=0x810400, reset_eip=1)
    ),
    "no hash table": replace(SEV, firmware=build_firmware(sections=AMD_SEV_SECTIONS, reset_eip=1)),
    "a hash table of zero": replace(
        SEV, firmware=build_firmware(sections=AMD_SEV_SECTIONS, hash_table_gpa=0, reset_eip=1)
    ),
    "a hash table elsewhere": replace(
        SEV, firmware=build_firmware(sections=AMD_SEV_SECTIONS, hash_table_gpa=0x820400, reset_eip=1)
    ),
    "a hash table over the page's end": replace(
        SEV, firmware=build_firmware(sections=AMD_SEV_SECTIONS, hash_table_gpa=0x810FF0, reset_eip=1)
    ),
    "a hashes section of two pages": replace(
        SEV,
        firmware=build_firmware(sections=[(0x10, 0x810000, 0x2000)], hash_table_gpa=0x810400, reset_eip=1),
    ),
    "no AP reset vector": replace(
        SEV, firmware=build_firmware(sections=AMD_SEV_SECTIONS, hash_table_gpa=0x810400)
    ),
    "SEV metadata in the plain layout": replace(SEV, layout=Layout.PLAIN),
    "no vCPU": replace(SEV, vcpus=0),
    "too many vCPUs": replace(SEV, vcpus=513),
    "an unknown vCPU type": replace(SEV, vcpu_type="Skylake"),
    "half a page of firmware": replace(PLAIN, firmware=bytes(6144)),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_launch_is_refused_for(case: str) -> None:
    with pytest.raises(FormatError):
        predict_snp_digest(REFUSED[case])


def test_the_layout_of_firmware_is_found_by_its_metadata() -> None:
    assert find_layout(SEV.firmware) is Layout.SEV_METADATA
    assert find_layout(PLAIN.firmware) is Layout.PLAIN


def test_the_hashes_page_holds_the_three_digests_at_its_offset() -> None:
    page = build_hashes_page(HASHES, 0x400)

    assert len(page) == 4096
    assert not any(page[:0x400])
    for digest in (HASHES.kernel, HASHES.initrd, HASHES.cmdline):
        assert digest in page


def test_an_absent_initrd_and_command_line_are_hashed_as_qemu_does() -> None:
    hashes = hash_direct_boot(b"kernel", b"", "")

    assert hashes.initrd.hex().startswith("e3b0c44298fc1c14")
    assert hashes.cmdline == hash_cmdline("")
    assert hashes == KernelHashes(kernel=HASHES.kernel, initrd=hashes.initrd, cmdline=hashes.cmdline)


def test_pages_are_those_that_the_firmware_would_be_handed() -> None:
    page = next(iter(iter_launch_pages(PLAIN)))

    assert (page.kind, page.contents) == (PageType.NORMAL, PLAIN.firmware)
