"""TDX quotes: every part is where it is declared, and lengths fill each other exactly."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krunpy.core.errors import FormatError
from krunpy.formats.tdx_quote import BodyType, TdxQuote, parse_tdx_quote

SIZES = {BodyType.TD_1_0: 584, BodyType.TD_1_5: 648, BodyType.TD_1_5_EXTENDED: 885}
CHAIN = b"-----BEGIN CERTIFICATE-----\0"


def build(
    *,
    version: int = 4,
    key_type: int = 2,
    tee_type: int = 0x81,
    kind: int = BodyType.TD_1_0,
    size: int | None = None,
    body: bytes | None = None,
    outer_type: int = 6,
    inner_type: int = 5,
    after_chain: bytes = b"",
    after_certification: bytes = b"",
    grow: int = 0,
    padding: bytes = b"",
) -> bytes:
    """Return a quote; `grow` is added to the declared length of the signature data."""
    header = struct.pack("<HHIHH16s20s", version, key_type, tee_type, 1, 2, b"vendor", b"user")
    body = body if body is not None else bytes(index % 251 for index in range(SIZES.get(kind, 584)))
    if version == 5:
        header += struct.pack("<HI", kind, len(body) if size is None else size)
    certification = b"R" * 384 + b"S" * 64 + struct.pack("<H", 3) + b"aut"
    certification += struct.pack("<HI", inner_type, len(CHAIN)) + CHAIN + after_chain
    data = b"r" * 32 + b"s" * 32 + b"K" * 64
    data += struct.pack("<HI", outer_type, len(certification)) + certification + after_certification
    return header + body + struct.pack("<I", len(data) + grow) + data + padding


@pytest.mark.parametrize(("version", "kind"), [(4, BodyType.TD_1_0), *((5, kind) for kind in BodyType)])
def test_every_body_is_read(version: int, kind: BodyType) -> None:
    raw = build(version=version, kind=kind)

    quote = parse_tdx_quote(raw)

    start = 54 if version == 5 else 48
    body = raw[start : start + SIZES[kind]]
    assert quote.body_type is kind
    assert quote.signed == raw[: start + SIZES[kind]]
    assert quote.td.mrtd == body[0x88:0xB8]
    assert quote.td.rtmrs[3] == body[0x1D8:0x208]
    assert quote.td.report_data == body[0x208:0x248]
    assert quote.td.td_attributes == int.from_bytes(body[0x78:0x80], "little")
    assert quote.td.mrservicetd == (None if kind is BodyType.TD_1_0 else body[0x258:0x288])
    assert (quote.td.extended is not None) is (kind is BodyType.TD_1_5_EXTENDED)
    assert (quote.qe_report, quote.qe_auth_data, quote.pck_chain) == (b"R" * 384, b"aut", CHAIN)
    assert (quote.signature, quote.attestation_key) == (b"r" * 32 + b"s" * 32, b"K" * 64)


def test_the_last_field_of_the_extended_body_ends_it() -> None:
    body = bytes(877) + b"\x09" * 8
    quote = parse_tdx_quote(build(version=5, kind=BodyType.TD_1_5_EXTENDED, body=body))

    assert quote.td.extended is not None
    assert quote.td.extended.current_servtd_attributes == b"\x09" * 8
    assert quote.td.extended.current_servtd_hash == bytes(48)


def test_zero_padding_is_no_part_of_the_quote() -> None:
    assert parse_tdx_quote(build(padding=bytes(3065))) == parse_tdx_quote(build())


BROKEN = {
    "nothing": b"",
    "version 3": build(version=3),
    "version 6": build(version=6),
    "another key type": build(key_type=3),
    "an SGX quote": build(tee_type=0),
    "an SGX body": build(version=5, kind=1),
    "an unknown body": build(version=5, kind=5),
    "a body of another size": build(version=5, kind=BodyType.TD_1_5, size=584),
    "a short body": build()[:600],
    "another certification": build(outer_type=5),
    "no PCK chain": build(inner_type=3),
    "bytes after the PCK chain": build(after_chain=b"x"),
    "bytes after the certification": build(after_certification=b"x"),
    "a signature length too long": build(grow=1),
    "a signature length too short": build(grow=-1),
    "a huge signature length": build(grow=0xFFFF0000),
    "padding that is not zero": build(padding=b"\0\1"),
    "over 64 KiB": build(padding=bytes(65536)),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_quote_is_refused_for(case: str) -> None:
    with pytest.raises(FormatError, match="TDX quote"):
        parse_tdx_quote(BROKEN[case])


@given(st.binary(max_size=200), st.integers(0, 1400), st.integers(0, 1400))
def test_any_bytes_are_a_quote_or_a_format_error(noise: bytes, at: int, end: int) -> None:
    good = build(version=5, kind=BodyType.TD_1_5)
    try:
        quote = parse_tdx_quote((good[:at] + noise + good[at + len(noise) :])[: len(good) - end or None])
    except FormatError:
        return
    assert isinstance(quote, TdxQuote)
