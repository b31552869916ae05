"""A flat kernel as an ELF file."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krunpy.core.errors import FormatError
from krunpy.formats.krun_kernel import PAGE_SIZE, KrunKernel, unwrap_kernel, wrap_kernel

LOAD = 0x1000000
NOTE = struct.pack("<III4sQ", 4, 8, 18, b"Xen\0", LOAD + 0x10)


def make_kernel(note=NOTE, *, at=64, entry=LOAD + 0x123, load=LOAD):
    image = bytearray(2 * PAGE_SIZE)
    image[at : at + len(note)] = note
    return KrunKernel(image=bytes(image[: 2 * PAGE_SIZE]), load_gpa=load, entry_gpa=entry)


def test_the_file_has_the_image_on_a_page_and_both_entries():
    kernel = make_kernel()

    data = wrap_kernel(kernel)

    kind, machine, _, entry, headers = struct.unpack_from("<HHIQQ", data, 16)
    load = struct.unpack_from("<IIQQQQQQ", data, headers)
    note = struct.unpack_from("<IIQQQQQQ", data, headers + 56)
    assert (data[:6], kind, machine, entry) == (b"\x7fELF\2\1", 2, 62, kernel.entry_gpa)
    assert load == (1, 7, PAGE_SIZE, LOAD, LOAD, 2 * PAGE_SIZE, 2 * PAGE_SIZE, PAGE_SIZE)
    assert data[load[2] :] == kernel.image
    assert (note[0], note[7], data[note[2] : note[2] + note[5]]) == (4, 4, NOTE)


@pytest.mark.parametrize(
    "kernel",
    [
        make_kernel(b""),
        make_kernel(at=66),  # notes lie at multiples of four
        make_kernel(entry=LOAD - 1),
        make_kernel(entry=LOAD + 2 * PAGE_SIZE),
        make_kernel(struct.pack("<III4sQ", 4, 8, 18, b"Xen\0", 0x10)),
        make_kernel(load=LOAD + 1),
        make_kernel(load=(1 << 32) - PAGE_SIZE),
        KrunKernel(image=b"", load_gpa=LOAD, entry_gpa=LOAD),
    ],
)
def test_what_could_not_boot_is_refused(kernel):
    with pytest.raises(FormatError, match="cannot use the kernel of libkrunfw"):
        wrap_kernel(kernel)


@given(image=st.binary(max_size=200), load=st.integers(0, 1 << 33), entry=st.integers(0, 1 << 33))
def test_any_bytes_are_a_file_or_an_error(image, load, entry):
    try:
        wrap_kernel(KrunKernel(image=NOTE + image, load_gpa=load, entry_gpa=entry))
    except FormatError:
        pass


def test_what_was_wrapped_is_found_again():
    kernel = make_kernel()

    assert unwrap_kernel(wrap_kernel(kernel)) == kernel


@given(data=st.binary(max_size=200) | st.just(wrap_kernel(make_kernel())), cut=st.integers(0, 3 * PAGE_SIZE))
def test_another_file_is_refused_whatever_it_holds(data, cut):
    cut = min(cut, len(data) - 1) if data else 0

    with pytest.raises(FormatError, match="no ELF file of krunpy's"):
        unwrap_kernel(data[:cut])
