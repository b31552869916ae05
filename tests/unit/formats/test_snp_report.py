"""SNP reports: what is read is what is written, and every reserved byte counts."""

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krunpy.core.errors import FormatError
from krunpy.core.octets import LaunchDigest
from krunpy.formats.snp_report import REPORT_SIZE, SigningKey, SnpReport, pack_report, parse_report
from krunpy.formats.snp_tcb import Product, Tcb, find_product, pack_tcb, parse_tcb

U64 = st.integers(0, (1 << 64) - 1)
U32 = st.integers(0, (1 << 32) - 1)
U8 = st.integers(0, 255)


def octets(size: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=size, max_size=size)


@st.composite
def reports(draw: st.DrawFn) -> SnpReport:
    version = draw(st.integers(2, 5))
    octet_fields = {
        field.name: type(field.default)(draw(octets(len(field.default))))
        for field in fields(SnpReport)
        if isinstance(field.default, bytes)
    }
    return SnpReport(
        version=version,
        guest_svn=draw(U32),
        policy=draw(st.integers(0, (1 << 26) - 1)) | 1 << 17,
        vmpl=draw(U32),
        platform_info=draw(U64),
        has_author_key=draw(st.booleans()),
        masks_chip_key=draw(st.booleans()),
        signing_key=draw(st.sampled_from(SigningKey)),
        cpuid=draw(st.tuples(U8, U8, U8)) if version > 2 else (0, 0, 0),
        current_firmware=draw(st.tuples(U8, U8, U8)),
        committed_firmware=draw(st.tuples(U8, U8, U8)),
        launch_mit_vector=draw(U64) if version > 4 else 0,
        current_mit_vector=draw(U64) if version > 4 else 0,
        **octet_fields,
    )


@given(reports())
def test_a_report_is_read_as_it_was_written(report: SnpReport) -> None:
    assert parse_report(pack_report(report)) == report


@given(st.binary(max_size=REPORT_SIZE + 8) | octets(REPORT_SIZE))
def test_any_bytes_are_a_report_or_a_format_error(raw: bytes) -> None:
    try:
        report = parse_report(raw)
    except FormatError:
        return
    assert pack_report(report) == raw


OFFSETS = {
    "version": (0, 4, 5), "guest_svn": (4, 4, 7), "policy": (8, 8, 1 << 17 | 5), "vmpl": (0x30, 4, 2),
    "platform_info": (0x40, 8, 9), "launch_mit_vector": (0x1F8, 8, 3), "current_mit_vector": (0x200, 8, 4),
}  # fmt: skip
OCTET_OFFSETS = {
    "family_id": 0x10, "image_id": 0x20, "current_tcb": 0x38, "report_data": 0x50, "measurement": 0x90,
    "host_data": 0xC0, "id_key_digest": 0xE0, "author_key_digest": 0x110, "report_id": 0x140,
    "report_id_ma": 0x160, "reported_tcb": 0x180, "chip_id": 0x1A0, "committed_tcb": 0x1E0,
    "launch_tcb": 0x1F0, "signature_r": 0x2A0, "signature_s": 0x2E8,
}  # fmt: skip


@pytest.mark.parametrize("name", OFFSETS)
def test_an_integer_lies_where_the_specification_says(name: str) -> None:
    offset, size, value = OFFSETS[name]

    raw = pack_report(replace(SnpReport(version=5), **{name: value}))

    assert int.from_bytes(raw[offset : offset + size], "little") == value


@pytest.mark.parametrize("name", OCTET_OFFSETS)
def test_octets_lie_where_the_specification_says(name: str) -> None:
    default = getattr(SnpReport(), name)
    value = type(default)(bytes(range(1, len(default) + 1)))

    raw = pack_report(replace(SnpReport(), **{name: value}))

    assert raw[OCTET_OFFSETS[name] :].startswith(value)
    assert getattr(parse_report(raw), name) == value


def test_firmware_versions_and_the_processor_lie_where_the_specification_says() -> None:
    report = SnpReport(cpuid=(0x19, 2, 3), current_firmware=(1, 55, 21), committed_firmware=(1, 54, 20))

    raw = pack_report(report)

    assert raw[0x188:0x18B] == bytes((0x19, 2, 3))
    assert raw[0x1E8:0x1EB] == bytes((21, 55, 1))
    assert raw[0x1EC:0x1EF] == bytes((20, 54, 1))


RESERVED = [
    *range(0x04C, 0x050),
    *range(0x18B, 0x1A0),
    0x1EB,
    0x1EF,
    *range(0x208, 0x2A0),
    *range(0x330, 0x4A0),
]


def test_every_reserved_byte_must_be_zero() -> None:
    raw = pack_report(SnpReport(version=5))
    accepted = []
    for index in RESERVED:
        try:
            parse_report(raw[:index] + b"\x80" + raw[index + 1 :])
        except FormatError:
            continue
        accepted.append(index)

    assert accepted == []


@pytest.mark.parametrize(("version", "offset"), [(2, 0x188), (2, 0x18A), (3, 0x1F8), (4, 0x1FF), (4, 0x207)])
def test_what_an_older_version_does_not_have_must_be_zero(version: int, offset: int) -> None:
    raw = pack_report(SnpReport(version=version))

    with pytest.raises(FormatError, match=f"of version {version}"):
        parse_report(raw[:offset] + b"\1" + raw[offset + 1 :])


@pytest.mark.parametrize(
    ("offset", "value"),
    [
        (0, (0).to_bytes(4, "little")),
        (0, (1).to_bytes(4, "little")),
        (0, (6).to_bytes(4, "little")),
        (0x34, b"\2\0\0\0"),
        (0x08, bytes(8)),
        (0x08, (1 << 17 | 1 << 26).to_bytes(8, "little")),
        (0x08, (1 << 17 | 1 << 63).to_bytes(8, "little")),
        (0x48, (2 << 2).to_bytes(4, "little")),
        (0x48, (6 << 2).to_bytes(4, "little")),
        (0x48, (1 << 5).to_bytes(4, "little")),
    ],
)
def test_an_unknown_value_is_refused(offset: int, value: bytes) -> None:
    raw = pack_report(SnpReport())

    with pytest.raises(FormatError):
        parse_report(raw[:offset] + value + raw[offset + len(value) :])


@pytest.mark.parametrize("size", [0, 1000, 1183, 1185, 2600])
def test_another_length_is_refused(size: int) -> None:
    with pytest.raises(FormatError, match="wanted 1184"):
        parse_report(pack_report(SnpReport()).ljust(size, b"\0")[:size])


def test_octets_of_another_length_are_not_written() -> None:
    with pytest.raises(ValueError, match="report_id is 32 bytes"):
        pack_report(SnpReport(report_id=b"short"))
    with pytest.raises(ValueError, match="48 bytes"):
        LaunchDigest(b"short")


@given(octets(8), st.sampled_from(Product))
def test_a_tcb_is_read_as_it_was_written(raw: bytes, product: Product) -> None:
    reserved = raw[4:7] if product is Product.TURIN else raw[2:6]
    if any(reserved):
        with pytest.raises(FormatError, match="reserved"):
            parse_tcb(raw, product)
    else:
        assert pack_tcb(parse_tcb(raw, product), product) == raw


def test_the_layout_of_a_tcb_depends_on_the_product() -> None:
    assert parse_tcb(b"\1\2\0\0\0\0\3\4", Product.MILAN) == Tcb(bootloader=1, tee=2, snp=3, microcode=4)
    assert parse_tcb(b"\1\2\3\4\0\0\0\5", Product.TURIN) == Tcb(
        fmc=1, bootloader=2, tee=3, snp=4, microcode=5
    )


@pytest.mark.parametrize("component", ["bootloader", "tee", "snp", "microcode", "fmc"])
def test_a_tcb_is_compared_by_component(component: str) -> None:
    floor = Tcb(bootloader=5, tee=5, snp=5, microcode=5, fmc=5)
    high = Tcb(bootloader=9, tee=9, snp=9, microcode=9, fmc=9)

    assert high.is_at_least(floor)
    assert floor.is_at_least(floor)
    assert not replace(high, **{component: 4}).is_at_least(floor)


@pytest.mark.parametrize(
    ("family", "model", "product"),
    [
        (0x19, 0x00, Product.MILAN), (0x19, 0x0F, Product.MILAN), (0x19, 0x10, Product.GENOA),
        (0x19, 0x1F, Product.GENOA), (0x19, 0xA0, Product.GENOA), (0x19, 0xAF, Product.GENOA),
        (0x1A, 0x00, Product.TURIN), (0x1A, 0x11, Product.TURIN), (0x19, 0x20, None), (0x19, 0x9F, None),
        (0x1A, 0x12, None), (0x1A, 0x50, None), (0x17, 0x31, None), (0, 0, None),
    ],
)  # fmt: skip
def test_a_processor_is_the_product_of_its_family_and_model(
    family: int, model: int, product: Product | None
) -> None:
    assert find_product(family, model) is product
