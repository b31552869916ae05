"""DER elements that are of another kind than is read are refused by the reader itself."""

import pytest

from krunpy.core.errors import FormatError
from krunpy.formats.der import DerReader


@pytest.mark.parametrize(
    ("read", "raw", "why"),
    [
        (DerReader.read_bits, b"\x03\x02\x01\x80", "seen a BIT STRING with unused bits, wanted whole bytes"),
        (DerReader.read_text, b"\x04\x01a", "seen tag 0x04, wanted a string"),
        (DerReader.read_text, b"", "seen tag 0x00, wanted a string"),
        (DerReader.read_text, b"\x13\x01\xff", "seen a string with bytes outside its character set"),
        (DerReader.read_text, b"\x0c\x01\xff", "seen a string with bytes outside its character set"),
        (DerReader.read_time, b"\x13\x01a", "seen tag 0x13, wanted a time"),
        (DerReader.read_boolean, b"\x01\x01\x01", "seen BOOLEAN 01, wanted 00 or ff"),
    ],
)
def test_an_element_of_another_kind_is_refused(read, raw: bytes, why: str) -> None:
    with pytest.raises(FormatError) as caught:
        read(DerReader(raw))
    assert caught.value.why == why
