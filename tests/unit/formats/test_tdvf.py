"""TDVF metadata: sections are read as declared, and nothing that contradicts itself or the image is taken."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krunpy.core.errors import FormatError
from krunpy.formats.tdvf import TdvfAttributes, TdvfType, find_configuration, parse_tdvf
from tests.fakes.firmware import build_sev_firmware
from tests.fakes.tdvf import METADATA_AT, SECTIONS, build_tdvf

BFV = SECTIONS[0]


def test_sections_are_read_in_file_order() -> None:
    image = build_tdvf()

    sections = parse_tdvf(image)

    assert [section.kind for section in sections] == [
        TdvfType.BFV,
        TdvfType.CFV,
        TdvfType.TD_HOB,
        TdvfType.TEMP_MEM,
        TdvfType.PERM_MEM,
    ]
    assert sections[0].contents == image[0x1000:]
    assert sections[0].attributes == TdvfAttributes.MR_EXTEND
    assert (sections[2].gpa, sections[2].size, sections[2].contents) == (0x809000, 0x2000, b"")


def test_the_configuration_volume_is_found_or_not() -> None:
    assert find_configuration(parse_tdvf(build_tdvf())) == build_tdvf()[:0x1000]
    assert find_configuration(parse_tdvf(build_tdvf([BFV]))) is None


@pytest.mark.parametrize(
    ("image", "why"),
    [
        (build_sev_firmware(), "no TDVF metadata"),
        (bytes(4096), "no TDVF metadata"),
        (b"", "0 bytes"),
        (bytes(4097), "4097 bytes"),
        (build_tdvf(signature=b"TDVX"), "wanted TDVF version 1"),
        (build_tdvf(version=2), "wanted TDVF version 1"),
        (build_tdvf(count=0), "0 sections"),
        (build_tdvf(count=65, length=1 << 16), "65 sections"),
        (build_tdvf(length=16), "sections in 16 bytes"),
        (build_tdvf(from_end=8193), "before the end"),
        (build_tdvf(from_end=8), "before the end"),
        (build_tdvf([(*BFV[:4], 8, 0)]), "section type 0x8"),
        (build_tdvf([(*BFV[:5], 4)]), "attributes 0x4"),
        (build_tdvf([(0, 0, 0x1001, 0x1000, 3, 0)]), "wanted whole pages"),
        (build_tdvf([(0, 0, 0x1000, 0x1001, 3, 0)]), "wanted whole pages"),
        (build_tdvf([(0, 0, 0x1000, 0, 3, 0)]), "wanted whole pages"),
        (build_tdvf([(0, 0, (1 << 52) - 0x1000, 0x2000, 3, 0)]), "wanted whole pages"),
        (build_tdvf([(0, 0x2000, 0x1000, 0x1000, 0, 0)]), "for a section of"),
        (build_tdvf([(0x1001, 0x1000, 0x1000, 0x1000, 0, 0)]), "for a section of"),
        (build_tdvf([(0, 0, 0, 0x10001000, 3, 0)]), "wanted at most"),
    ],
)
def test_metadata_that_contradict_themselves_are_refused(image: bytes, why: str) -> None:
    with pytest.raises(FormatError, match=why):
        parse_tdvf(image)


def test_memory_that_the_guest_accepts_itself_is_not_bounded() -> None:
    assert parse_tdvf(build_tdvf([(0, 0, 0, 1 << 33, 4, 2)]))[0].size == 1 << 33


@given(st.integers(min_value=0, max_value=8191), st.binary(min_size=1, max_size=64))
def test_any_damage_gives_sections_or_a_format_error(at: int, junk: bytes) -> None:
    image = bytearray(build_tdvf())
    image[at : at + len(junk)] = junk

    with contextlib.suppress(FormatError):
        parse_tdvf(bytes(image[:8192]))


@given(st.binary(min_size=16, max_size=16 + 5 * 32))
def test_any_metadata_give_sections_or_a_format_error(junk: bytes) -> None:
    image = bytearray(build_tdvf())
    image[METADATA_AT : METADATA_AT + len(junk)] = b"TDVF" + junk[4:]

    with contextlib.suppress(FormatError):
        parse_tdvf(bytes(image))
