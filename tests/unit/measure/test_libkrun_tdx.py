"""MRTD of a TD-Shim under libkrun, recomputed from the records that a launch hashes."""

from hashlib import sha384
from uuid import uuid4

import pytest

from krunpy.core.errors import FormatError
from krunpy.formats.tdvf import TdvfType, parse_tdvf
from krunpy.measure.libkrun_tdx import predict_shim_mrtd
from tests.fakes.tdvf import SHIM_SECTIONS, build_td_shim, build_tdvf

BFV, CFV, TEMP, HOB, PAYLOAD = range(5)  # in SHIM_SECTIONS
LOW_END = 0xD0000000


def record(name: bytes, gpa: int) -> bytes:
    return (name.ljust(16, b"\0") + gpa.to_bytes(8, "little")).ljust(128, b"\0")


def add(first: int, end: int) -> bytes:
    return b"".join(record(b"MEM.PAGE.ADD", gpa) for gpa in range(first, end, 4096))


def extend(gpa: int, page: bytes) -> bytes:
    return b"".join(record(b"MR.EXTEND", gpa + at) + page[at : at + 256] for at in range(0, 4096, 256))


def changed(index: int, **members: int) -> bytes:
    """Return an image one of whose sections is another."""
    names = ("offset", "raw", "gpa", "size", "kind", "attributes")
    sections = list(SHIM_SECTIONS)
    sections[index] = tuple(members.get(name, old) for name, old in zip(names, sections[index], strict=True))
    return build_td_shim(sections)


def test_memory_is_added_first_and_the_firmware_measured_last_in_the_order_of_its_sections() -> None:
    image = build_td_shim()

    running = sha384(add(0, 64 << 20))
    running.update(add(0xFFFFF000, 1 << 32) + extend(0xFFFFF000, image[0x1000:]))
    running.update(add(0xFF000000, 0xFF001000) + add(0xFF042000, 0xFF044000))

    assert predict_shim_mrtd(image, memory_mib=64) == running.digest()


def test_memory_above_the_devices_goes_on_at_4_gib() -> None:
    image = build_td_shim()

    running = sha384()
    for first, end in ((0, LOW_END), (1 << 32, (1 << 32) + (2 << 20))):
        for start in range(first, end, 256 << 20):
            running.update(add(start, min(start + (256 << 20), end)))
    running.update(add(0xFFFFF000, 1 << 32) + extend(0xFFFFF000, image[0x1000:]))
    running.update(add(0xFF000000, 0xFF001000) + add(0xFF042000, 0xFF044000))

    assert predict_shim_mrtd(image, memory_mib=(LOW_END >> 20) + 2) == running.digest()


def test_memory_and_firmware_change_it() -> None:
    images = [build_td_shim(), changed(CFV, gpa=0xFF001000), build_td_shim()[:-1] + b"x"]

    digests = {predict_shim_mrtd(image, memory_mib=size) for image in images for size in (64, 65)}

    assert len(digests) == 6


@pytest.mark.parametrize(
    ("image", "why"),
    [
        (changed(PAYLOAD, attributes=1), "libkrun measures nothing below"),
        (changed(PAYLOAD, attributes=1, gpa=0xFE000000, size=0x100000), "TD-Shim measures none itself"),
        (changed(PAYLOAD, gpa=0x861000, size=0x100000), "libkrun has the initrd at 0xa00000"),
        (changed(PAYLOAD, gpa=0x1200000), "libkrun has the initrd at 0xa00000"),
        (build_td_shim([each for each in SHIM_SECTIONS if each[4] != 5]), "no section PAYLOAD"),
        (changed(BFV, attributes=0), "the firmware could be anybody's"),
        (changed(BFV, gpa=0x600000), "libkrun measures nothing below"),
        (changed(TEMP, attributes=2), "libkrun adds every section"),
        (changed(TEMP, gpa=0xFFFFF000, size=0x2000), "ends above 4 GiB"),
        (changed(HOB, gpa=0x5000000), "outside the machine's 64 MiB"),
        (build_td_shim([each for each in SHIM_SECTIONS if each[4] != 2]), "no section TD_HOB"),
        (build_td_shim([each for each in SHIM_SECTIONS if each[4] != 0]), "no section BFV"),
        (build_td_shim(guid=uuid4()), "no TDVF metadata"),
    ],
)
def test_what_would_be_measured_nowhere_or_not_start_is_refused_with_its_reason(
    image: bytes, why: str
) -> None:
    with pytest.raises(FormatError, match=why):
        predict_shim_mrtd(image, memory_mib=64)


def test_an_ordinary_tdvf_is_no_td_shim() -> None:
    with pytest.raises(FormatError, match="measures none"):
        predict_shim_mrtd(
            build_tdvf([(0, 0x2000, 0xFFFFE000, 0x2000, 0, 1), (0, 0, 0, 4096, 2, 0)]), memory_mib=64
        )


@pytest.mark.parametrize("memory_mib", [0, (1 << 22) + 1])
def test_a_machine_that_cannot_be_is_refused(memory_mib: int) -> None:
    with pytest.raises(FormatError, match="MiB of memory"):
        predict_shim_mrtd(build_td_shim(), memory_mib=memory_mib)


def test_the_sections_of_td_shim_are_read_where_it_has_them() -> None:
    kinds = [section.kind for section in parse_tdvf(build_td_shim())]

    assert kinds == [
        TdvfType.BFV,
        TdvfType.CFV,
        TdvfType.TEMP_MEM,
        TdvfType.TD_HOB,
        TdvfType.PAYLOAD,
        TdvfType.PAYLOAD_PARAM,
    ]
