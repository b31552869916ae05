"""MRTD: which records a launch hashes, in both orders."""

from hashlib import sha384

import pytest

from krunpy.core.errors import FormatError
from krunpy.measure.tdx_mrtd import PageOrder, predict_mrtd
from tests.fakes.firmware import build_sev_firmware
from tests.fakes.tdvf import build_tdvf

ADD, EXTEND = b"MEM.PAGE.ADD", b"MR.EXTEND"


def record(name: bytes, gpa: int) -> bytes:
    return (name.ljust(16, b"\0") + gpa.to_bytes(8, "little")).ljust(128, b"\0")


def extends(gpa: int, page: bytes) -> bytes:
    return b"".join(record(EXTEND, gpa + at) + page[at : at + 256] for at in range(0, 4096, 256))


def test_the_two_orders_differ_where_a_section_has_two_pages() -> None:
    image = build_tdvf([(0, 0x2000, 0x10000, 0x2000, 0, 1)])
    pages = [(0x10000, image[:0x1000]), (0x11000, image[0x1000:])]

    single = b"".join(record(ADD, gpa) + extends(gpa, page) for gpa, page in pages)
    double = b"".join(record(ADD, gpa) for gpa, _ in pages) + b"".join(extends(*page) for page in pages)

    assert predict_mrtd(image, PageOrder.SINGLE_PASS) == sha384(single).digest()
    assert predict_mrtd(image, PageOrder.TWO_PASS) == sha384(double).digest()


@pytest.mark.parametrize("order", PageOrder)
def test_pages_that_are_not_measured_are_added_by_address_alone(order: PageOrder) -> None:
    image = build_tdvf([(0, 0, 0x809000, 0x2000, 2, 0), (0, 0, 0x900000, 0x1000, 4, 2)])

    assert predict_mrtd(image, order) == sha384(record(ADD, 0x809000) + record(ADD, 0x80A000)).digest()


@pytest.mark.parametrize("order", PageOrder)
def test_what_the_image_does_not_fill_is_zero(order: PageOrder) -> None:
    image = build_tdvf([(0, 0x100, 0x10000, 0x1000, 0, 1)])

    wanted = record(ADD, 0x10000) + extends(0x10000, image[:0x100].ljust(4096, b"\0"))

    assert predict_mrtd(image, order) == sha384(wanted).digest()


@pytest.mark.parametrize("order", PageOrder)
def test_firmware_that_tdx_cannot_boot_is_refused(order: PageOrder) -> None:
    with pytest.raises(FormatError, match="no TDVF metadata") as refused:
        predict_mrtd(build_sev_firmware(), order)

    assert "ovmf-inteltdx" in refused.value.next
