"""Launch digests of libkrun: those of libkrunfw's own tool, and what they depend on."""

import struct
from dataclasses import replace

import pytest

from krunpy.core.errors import FormatError
from krunpy.formats.krun_bundle import pad
from krunpy.formats.krun_kernel import PAGE_SIZE
from krunpy.formats.vmsa_libkrun import VmsaVariant, build_libkrun_vmsa
from krunpy.measure.libkrun import (
    LibkrunLaunch,
    build_zero_page,
    fold_payload,
    iter_machine_pages,
    iter_payload_pages,
    predict_folded_digest,
    predict_libkrun_digest,
)


def pattern(step: int, size: int) -> bytes:
    return bytes((at * step + (at >> 8)) & 0xFF for at in range(size))


LAUNCH = LibkrunLaunch(
    qboot=pattern(7, 0x10000),
    kernel=pattern(5, 0x20000),
    initrd=pattern(3, 0x3000),
    vcpus=1,
    memory_mib=2048,
    variant=VmsaVariant.A,
)
# what libkrunfw's utils/krunfw_measurement (95c9c42) prints for a bundle of these three
PRINTED = {
    (
        1,
        2048,
    ): "e51303d86ca283265cc168a542c420fb806f8d39b2a2401c1722d6f82f7a6bb5858e789ad7054af7a592a474c6a54f36",
    (
        1,
        4096,
    ): "b74ab057833a5dd46e832e173f05cda1c1482322d396fad7d332b35c6d3c37b9d4599cabfbdb2063cc50191393eb90fe",
    (
        2,
        2048,
    ): "dcc1c21b91adce293ea80b539127d407f2c1dbdb4e6a3858acf0398718316b00a1957a52ee9f20c82354c8806745126b",
    (
        3,
        4096,
    ): "5535babda0ebfa26b6781f86f93713c2c4270c4d54e0b18f9c8d24eadcebb206d83911e67b5722c8114516b8a68cefda",
}


@pytest.mark.parametrize(("vcpus", "memory_mib"), PRINTED)
def test_variant_a_agrees_with_libkrunfw(vcpus: int, memory_mib: int) -> None:
    launch = replace(LAUNCH, vcpus=vcpus, memory_mib=memory_mib)

    assert predict_libkrun_digest(launch).hex() == PRINTED[vcpus, memory_mib]


def test_pages_come_in_the_order_of_launch() -> None:
    pages = [
        (page.kind.name, page.gpa) for page in (*iter_payload_pages(LAUNCH), *iter_machine_pages(LAUNCH))
    ]

    assert pages == [
        ("NORMAL", 0xFFFF0000),
        ("NORMAL", 0x1000000),
        ("NORMAL", 0xA00000),
        ("NORMAL", 0x7000),
        ("ZERO", 0),
        ("SECRETS", 0x5000),
        ("CPUID", 0x6000),
        *(("ZERO", gpa) for gpa in range(0x8000, 0xF000, 0x1000)),
        ("VMSA", 0xFFFFFFFFF000),
    ]


def test_every_input_changes_the_digest() -> None:
    changes = [
        {},
        {"qboot": bytes(0x10000)},
        {"kernel": bytes(0x20000)},
        {"kernel_gpa": 0x2000000},
        {"initrd": bytes(0x3000)},
        {"vcpus": 2},
        {"memory_mib": 2049},
        {"variant": VmsaVariant.B},
        {"variant": VmsaVariant.C},
    ]

    assert len({predict_libkrun_digest(replace(LAUNCH, **change)) for change in changes}) == len(changes)


@pytest.mark.parametrize("variant", VmsaVariant)
def test_a_folded_payload_serves_every_machine(variant: VmsaVariant) -> None:
    launch = replace(LAUNCH, vcpus=5, memory_mib=4096, variant=variant)

    digest = predict_folded_digest(
        fold_payload(LAUNCH), vcpus=5, memory_mib=4096, initrd_size=len(LAUNCH.initrd), variant=variant
    )

    assert digest == predict_libkrun_digest(launch)


def test_variants_differ_in_what_libkrun_and_the_host_set() -> None:
    a, b, c = (build_libkrun_vmsa(variant, is_boot=False) for variant in VmsaVariant)

    def differ(one: bytes, other: bytes) -> set[int]:
        return {at for at in range(4096) if one[at] != other[at]}

    assert differ(a, b) == {0x408, 0x409, 0x410, 0x411}  # mxcsr, fcw
    assert differ(b, c) == {0x02, 0x32, 0x42, 0x52, 0x178, 0x311}  # es, ds, fs, gs, rip, rdx
    assert build_libkrun_vmsa(VmsaVariant.C, is_boot=True) == c


@pytest.mark.parametrize(
    ("memory_mib", "ram"),
    [
        (2048, [(0, 0x9FC00), (0x100000, 0x7FF00001)]),
        (3328, [(0, 0x9FC00), (0x100000, 0xCFF00000)]),
        (4096, [(0, 0x9FC00), (0x100000, 0xCFF00000), (1 << 32, 0x30000001)]),
    ],
)
def test_the_zero_page_lists_ram_as_libkrun_does(memory_mib: int, ram: list[tuple[int, int]]) -> None:
    page = build_zero_page(vcpus=3, memory_mib=memory_mib, initrd_size=0x3000)

    assert page[0x1E8] == len(ram)
    for index, (gpa, size) in enumerate(ram):
        assert struct.unpack_from("<QQI", page, 0x2D0 + 20 * index) == (gpa, size, 1)
    assert struct.unpack_from("<I", page, 0x1F4) == (3,)
    assert struct.unpack_from("<II", page, 0x218) == (0xA00000, 0x3000)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"qboot": bytes(0xF000)}, "qboot of 61440 bytes"),
        ({"kernel": b""}, "0 bytes of kernel"),
        ({"initrd": bytes(4097)}, "4097 bytes of initrd"),
        ({"initrd": bytes(0x601000)}, "there are 6291456 below the kernel"),
        ({"kernel_gpa": 0x1000001}, "multiple of 4096"),
        ({"kernel_gpa": 0xD0000000}, "in low memory"),
        ({"vcpus": 0}, "wanted 1 to 255"),
        ({"vcpus": 256}, "wanted 1 to 255"),
        ({"memory_mib": 16}, "room for kernel and initrd"),
        ({"memory_mib": (1 << 22) + 1}, "at most 4 TiB"),
    ],
)
def test_a_launch_that_libkrun_would_not_do_is_refused(change: dict, why: str) -> None:
    with pytest.raises(FormatError, match=why):
        predict_libkrun_digest(replace(LAUNCH, **change))


def test_padding_reaches_the_next_page_and_no_further() -> None:
    assert [len(pad(bytes(size), PAGE_SIZE)) for size in (0, 1, 4096, 4097)] == [0, 4096, 4096, 8192]
