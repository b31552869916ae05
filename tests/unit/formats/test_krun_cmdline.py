"""The parameter that is taken out of the command line of libkrun's kernels."""

import pytest

from krunpy.formats.krun_cmdline import drop_hijack
from tests.fakes.krun_sev import CMDLINE, IMAGE


def test_sockets_stay_the_guests_and_nothing_else_is_changed():
    dropped = drop_hijack(IMAGE)

    assert CMDLINE.replace(b"tsi_hijack", b" " * 10) in dropped
    changed = [at for at in range(len(IMAGE)) if IMAGE[at] != dropped[at]]
    assert len(dropped) == len(IMAGE)
    assert changed == list(range(IMAGE.index(b" tsi_hijack") + 1, IMAGE.index(b" acpi=off")))


@pytest.mark.parametrize(
    "image",
    [b"tsi_hijack\0", b" tsi_hijack\0", b"a tsi_hijack=1 b", b"\0tsi_hijack x", b"notsi_hijack b", b""],
)
def test_what_is_no_word_of_a_command_line_stays(image):
    assert drop_hijack(image) == image
