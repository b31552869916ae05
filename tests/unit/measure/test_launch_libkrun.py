"""The layout of libkrun's plain machines, which only the software TEE measures."""

from __future__ import annotations

from dataclasses import replace

import pytest

from krunpy.core.errors import FormatError
from krunpy.formats.launch_digest import VMSA_GPA
from krunpy.formats.vmsa_libkrun import VmsaVariant, build_libkrun_vmsa
from krunpy.measure.description import (
    LaunchDescription,
    measure_cmdline,
    measure_file,
    measure_firmware,
    parse_description,
    predict_described,
)
from krunpy.measure.explain import Candidates, find_explanation
from krunpy.measure.kernel_hashes import build_hashes_page, hash_direct_boot
from krunpy.measure.launch import (
    PLAIN_HASHES_GPA,
    LaunchInputs,
    Layout,
    find_layout,
    iter_launch_pages,
    predict_snp_digest,
)
from tests.fakes.firmware import build_sev_firmware

CMDLINE = "root=/dev/vda"
HASHES = hash_direct_boot(b"kernel", b"volume", CMDLINE)
KRUN = LaunchInputs(firmware=b"", layout=Layout.LIBKRUN, kernel_hashes=HASHES, vcpus=2)
DESCRIBED = LaunchDescription(
    layout=Layout.LIBKRUN,
    firmware=measure_firmware("none", b""),
    kernel=measure_file("kernel", b"kernel"),
    initrd=measure_file("volume", b"volume"),
    cmdline=measure_cmdline(CMDLINE),
    vcpus=2,
)


def test_a_machine_without_firmware_has_the_layout_of_libkrun() -> None:
    assert find_layout(b"") is Layout.LIBKRUN
    assert find_layout(bytes(4096)) is Layout.PLAIN


def test_a_launch_has_the_hashes_and_a_save_area_for_each_vcpu() -> None:
    vmsa = build_libkrun_vmsa(VmsaVariant.C, is_boot=True)

    pages = [(page.gpa, page.contents) for page in iter_launch_pages(KRUN)]

    assert pages == [
        (PLAIN_HASHES_GPA, build_hashes_page(HASHES, 0)),
        (VMSA_GPA, vmsa),
        (VMSA_GPA, vmsa),
    ]


@pytest.mark.parametrize(
    "changed",
    [
        {"kernel_hashes": hash_direct_boot(b"Kernel", b"volume", CMDLINE)},
        {"kernel_hashes": hash_direct_boot(b"kernel", b"Volume", CMDLINE)},
        {"kernel_hashes": hash_direct_boot(b"kernel", b"volume", CMDLINE + " ")},
        {"vcpus": 1},
        {"vcpus": 3},
    ],
)
def test_whatever_the_host_chooses_changes_the_digest(changed: dict[str, object]) -> None:
    assert predict_snp_digest(replace(KRUN, **changed)) != predict_snp_digest(KRUN)


def test_the_digest_is_not_that_of_a_machine_of_qemu() -> None:
    plain = replace(KRUN, firmware=bytes(4096), layout=Layout.PLAIN)

    assert predict_snp_digest(plain) != predict_snp_digest(KRUN)


@pytest.mark.parametrize("vcpus", [0, 513])
def test_a_number_of_vcpus_that_no_machine_has_is_refused(vcpus: int) -> None:
    with pytest.raises(FormatError, match=f"seen {vcpus}, wanted 1 to 512"):
        predict_snp_digest(replace(KRUN, vcpus=vcpus))


def test_firmware_for_hardware_is_not_measured_in_it() -> None:
    with pytest.raises(FormatError, match="has SEV metadata"):
        predict_snp_digest(replace(KRUN, firmware=build_sev_firmware()))


def test_a_description_predicts_the_same_before_and_after_it_was_stored() -> None:
    assert predict_described(DESCRIBED) == predict_snp_digest(KRUN)
    assert parse_description(DESCRIBED.to_dict()) == DESCRIBED


def test_another_boot_volume_is_explained_by_its_name() -> None:
    other = measure_file("volume of build 7", b"other")
    seen = predict_described(replace(DESCRIBED, initrd=other))

    found = find_explanation(seen, DESCRIBED, Candidates(initrds=(other,)))

    assert found is not None
    assert "volume of build 7" in repr(found)
