"""Quotes of a TPM: what is read is what was written, and nothing is left over."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krunpy.core.errors import FormatError
from krunpy.formats.tpm_quote import PcrSelection, TpmQuote, pack_tpm_quote, parse_tpm_quote
from tests.fakes.azure import make_quote

U32, U64 = st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 64) - 1)
SELECTIONS = st.builds(
    PcrSelection,
    algorithm=st.integers(0, 65535),
    indices=st.sets(st.integers(0, 23)).map(lambda indices: tuple(sorted(indices))),
)
QUOTES = st.builds(
    TpmQuote,
    signer=st.binary(max_size=66),
    extra_data=st.binary(max_size=64),
    clock_ms=U64,
    resets=U32,
    restarts=U32,
    is_clock_safe=st.booleans(),
    firmware_version=U64,
    selections=st.lists(SELECTIONS, max_size=16).map(tuple),
    pcr_digest=st.binary(max_size=64),
)


@given(QUOTES)
def test_a_quote_is_read_as_it_was_written(quote: TpmQuote) -> None:
    assert parse_tpm_quote(pack_tpm_quote(quote)) == quote


@given(
    st.binary(max_size=400)
    | st.binary(max_size=200).map(lambda tail: pack_tpm_quote(make_quote())[:30] + tail)
)
def test_any_bytes_are_a_quote_or_a_format_error(message: bytes) -> None:
    try:
        quote = parse_tpm_quote(message)
    except FormatError:
        return
    assert quote.extra_data in message


def test_every_cut_and_every_tail_is_refused() -> None:
    message = pack_tpm_quote(make_quote())

    for end in range(len(message)):
        with pytest.raises(FormatError):
            parse_tpm_quote(message[:end])
    with pytest.raises(FormatError, match="after its end"):
        parse_tpm_quote(message + b"\0")


@pytest.mark.parametrize("start", [b"\xff\x54\x43\x48\x80\x18", b"\xff\x54\x43\x47\x80\x17"])
def test_what_a_tpm_did_not_make_as_a_quote_is_refused(start: bytes) -> None:
    message = start + pack_tpm_quote(make_quote())[6:]

    with pytest.raises(FormatError, match="wanted 0xff544347 and 0x8018"):
        parse_tpm_quote(message)


def test_too_many_banks_are_refused() -> None:
    bank = PcrSelection(algorithm=11, indices=())

    with pytest.raises(FormatError, match="17 banks"):
        parse_tpm_quote(pack_tpm_quote(replace(make_quote(), selections=(bank,) * 17)))


def test_a_message_over_the_limit_is_refused() -> None:
    with pytest.raises(FormatError, match="at most 4096"):
        parse_tpm_quote(bytes(4097))
