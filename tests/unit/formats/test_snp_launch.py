"""The launch-digest fold, the firmware table and the VMSA page."""

import struct
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krunpy.core.errors import FormatError
from krunpy.formats.launch_digest import VMSA_GPA, ZERO_DIGEST, PageType, fold_page
from krunpy.formats.ovmf import SectionType, SevSection, parse_firmware_table
from krunpy.formats.vmsa import BSP_RESET_EIP, Vmm, build_vmsa, find_signature, make_signature
from tests.fakes.firmware import build_firmware, entry


def test_a_run_of_pages_folds_as_its_pages_do() -> None:
    contents = bytes(4096) + b"\1" * 4096 + b"\2" * 4096
    one_by_one = ZERO_DIGEST
    for index in range(3):
        page = contents[index * 4096 : (index + 1) * 4096]
        one_by_one = fold_page(one_by_one, PageType.NORMAL, page, 0x1000 * (index + 1))

    assert fold_page(ZERO_DIGEST, PageType.NORMAL, contents, 0x1000) == one_by_one


def test_every_input_of_a_page_changes_the_digest() -> None:
    page = bytes(4096)
    digests = {
        fold_page(ZERO_DIGEST, PageType.NORMAL, page, 0x1000),
        fold_page(ZERO_DIGEST, PageType.NORMAL, page, 0x2000),
        fold_page(ZERO_DIGEST, PageType.NORMAL, b"\1" + page[1:], 0x1000),
        fold_page(ZERO_DIGEST, PageType.VMSA, page, VMSA_GPA),
        *(fold_page(ZERO_DIGEST, PageType(kind), b"", 0x1000) for kind in (3, 4, 5, 6)),
    }

    assert len(digests) == 8
    assert ZERO_DIGEST not in digests


@pytest.mark.parametrize(
    ("kind", "contents", "gpa"),
    [
        (PageType.NORMAL, b"", 0x1000),
        (PageType.NORMAL, bytes(4095), 0x1000),
        (PageType.NORMAL, bytes(4096), 0x1001),
        (PageType.NORMAL, bytes(4096), -0x1000),
        (PageType.NORMAL, bytes(4096), 1 << 52),
        (PageType.VMSA, bytes(4096), 0x1000),
        (PageType.VMSA, bytes(8192), VMSA_GPA),
        (PageType.ZERO, bytes(4096), 0x1000),
        (PageType.SECRETS, b"x", 0x1000),
        (PageType.CPUID, b"", 0x10),
    ],
)
def test_a_page_that_cannot_be_is_refused(kind: PageType, contents: bytes, gpa: int) -> None:
    with pytest.raises(FormatError):
        fold_page(ZERO_DIGEST, kind, contents, gpa)


def test_the_firmware_table_is_read() -> None:
    sections = [(1, 0x800000, 0x9000), (2, 0x80D000, 0x1000), (3, 0x80E000, 0x1000), (0x10, 0x810000, 0x1000)]

    table = parse_firmware_table(
        build_firmware(sections=sections, hash_table_gpa=0x810400, reset_eip=0x80B004)
    )

    assert table.ap_reset_eip == 0x80B004
    assert table.hash_table_gpa == 0x810400
    assert table.sections == tuple(SevSection(kind=SectionType(k), gpa=g, size=s) for k, g, s in sections)


def test_firmware_without_a_table_has_no_entries() -> None:
    table = parse_firmware_table(bytes(8192))

    assert (table.sections, table.hash_table_gpa, table.ap_reset_eip) == (None, None, None)


BROKEN = {
    "no firmware": b"",
    "half a page": bytes(6144),
    "an unknown section": build_firmware(sections=[(7, 0, 0x1000)]),
    "a section off its page": build_firmware(sections=[(1, 0x10, 0x1000)]),
    "an empty section": build_firmware(sections=[(1, 0, 0)]),
    "a huge section": build_firmware(sections=[(1, 0, 0xFFFFF000)]),
    "more sections than bytes": build_firmware(sections=[(1, 0, 0x1000)], count=60),
    "a million sections": build_firmware(sections=[(1, 0, 0x1000)], count=1_000_000),
    "metadata of another version": build_firmware(sections=[(1, 0, 0x1000)], version=2),
    "metadata with another signature": build_firmware(sections=[(1, 0, 0x1000)], signature=b"ASEW"),
    "metadata longer than the image": build_firmware(sections=[(1, 0, 0x1000)], metadata_size=0x10000),
    "metadata shorter than its sections": build_firmware(sections=[(1, 0, 0x1000)], metadata_size=16),
    "a section of half a page": build_firmware(sections=[(1, 0, 0x800)]),
    "over 64 MiB": bytes((64 << 20) + 4096),
    "metadata outside the image": build_firmware(sections=[(1, 0, 0x1000)], from_end=0xFFFFFFFF),
    "metadata in the last bytes": build_firmware(sections=[(1, 0, 0x1000)], from_end=8),
    "an entry twice": build_firmware(more=entry(UUID(int=7), b"") * 2),
    "an entry that is too short": build_firmware(more=struct.pack("<H16s", 3, UUID(int=7).bytes_le)),
    "a short reset block": build_firmware(more=entry(UUID("00f771de-1a7e-4fcb-890e-68c77e2fb44e"), b"\1\2")),
    "a table larger than the image": build_firmware(table_size=0xFFFF),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_firmware_is_refused(case: str) -> None:
    with pytest.raises(FormatError):
        parse_firmware_table(BROKEN[case])


@given(st.binary(min_size=1, max_size=200), st.integers(0, 200))
def test_any_end_of_firmware_is_a_table_or_a_format_error(noise: bytes, at: int) -> None:
    good = bytearray(build_firmware(sections=[(1, 0x800000, 0x1000)], hash_table_gpa=0x810400, reset_eip=1))
    end = len(good) - at
    good[end - len(noise) : end] = noise
    try:
        parse_firmware_table(bytes(good))
    except FormatError:
        pass


def test_a_vmsa_is_a_page_with_the_reset_vector() -> None:
    page = build_vmsa(eip=BSP_RESET_EIP, signature=find_signature("EPYC-v4"), features=0x21, vmm=Vmm.QEMU)

    assert len(page) == 4096
    assert struct.unpack_from("<Q", page, 0x178) == (0xFFF0,)
    assert struct.unpack_from("<Q", page, 0x18) == (0xFFFF0000,)
    assert struct.unpack_from("<Q", page, 0x310) == (0x800F12,)
    assert struct.unpack_from("<Q", page, 0x3B0) == (0x21,)


def test_a_signature_has_extended_family_and_model() -> None:
    assert make_signature(25, 17, 0) == 0xA10F10
    assert make_signature(6, 0x1A, 3) == 0x106A3


def test_an_unknown_vcpu_type_is_refused_with_those_known() -> None:
    with pytest.raises(FormatError, match="wanted one of EPYC"):
        find_signature("Skylake")
