"""A number in a policy is a number: no truth value, and no hex that is not hex."""

import pytest

from krunpy.attest.policy_members import take_integer_or_hex
from krunpy.core.errors import FormatError
from krunpy.formats.narrow import Fields


@pytest.mark.parametrize(("written", "number"), [(7, 7), ("0x7", 7), ("0xff", 255), (0, 0)])
def test_a_number_is_an_integer_or_hex(written: object, number: int) -> None:
    assert take_integer_or_hex(Fields({"a": written}, "it"), "a", 255) == number


@pytest.mark.parametrize(
    ("written", "why"),
    [
        (True, "wanted an integer in 0 to 0xff"),
        (-1, "wanted an integer in 0 to 0xff"),
        (256, "wanted an integer in 0 to 0xff"),
        ("0x100", "wanted an integer in 0 to 0xff"),
        ("7", "wanted an integer in 0 to 0xff"),
        ("0xg", "wanted an integer, or one in hex after 0x"),
    ],
)
def test_what_is_no_number_of_the_range_is_refused(written: object, why: str) -> None:
    with pytest.raises(FormatError) as caught:
        take_integer_or_hex(Fields({"a": written}, "it"), "a", 255)
    assert caught.value.why == why
