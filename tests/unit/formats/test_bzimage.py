"""The setup header: the release it names, and what QEMU writes into it."""

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krunpy.core.errors import FormatError
from krunpy.formats.bzimage import parse_kernel_release, patch_as_qemu
from tests.fakes.pe import build_pe

MIB = 1 << 20
KERNEL = build_pe([b"text"], setup=True)
ACPI = 0x28000


def initrd_of(patched: bytes) -> tuple[int, int]:
    return struct.unpack_from("<II", patched, 0x218)


def test_qemu_writes_loader_heap_command_line_and_initrd_and_nothing_else() -> None:
    patched = patch_as_qemu(KERNEL, initrd_size=0x1234, memory_size=512 * MIB)

    written = {at for at in range(len(KERNEL)) if patched[at] != KERNEL[at]}
    assert written <= {0x210, 0x211, *range(0x218, 0x220), *range(0x224, 0x226), *range(0x228, 0x22C)}
    assert patched[0x210] == 0xB0
    assert patched[0x211] == 0x81
    assert struct.unpack_from("<H", patched, 0x224) == (0xFE00,)
    assert struct.unpack_from("<I", patched, 0x228) == (0x20000,)
    assert initrd_of(patched) == ((512 * MIB - ACPI - 1 - 0x1234) & ~0xFFF, 0x1234)


def test_without_an_initrd_its_fields_stay() -> None:
    assert initrd_of(patch_as_qemu(KERNEL, initrd_size=0, memory_size=512 * MIB)) == initrd_of(KERNEL)


@pytest.mark.parametrize(
    ("memory", "below"),
    [(0xB0000000 - MIB, 0xB0000000 - MIB), (0xB0000000, 0x80000000), (1 << 40, 0x80000000)],
)
def test_the_initrd_ends_below_low_memory(memory: int, below: int) -> None:
    patched = patch_as_qemu(KERNEL, initrd_size=0x1000, memory_size=memory)

    assert initrd_of(patched)[0] == (below - ACPI - 1 - 0x1000) & ~0xFFF


@pytest.mark.parametrize(("protocol", "xloadflags"), [(0x20B, 0x02), (0x20F, 0)])
def test_a_kernel_that_cannot_be_loaded_high_says_where_its_initrd_may_end(
    protocol: int, xloadflags: int
) -> None:
    kernel = build_pe([b""], setup=True, protocol=protocol, xloadflags=xloadflags, initrd_max=0x10000000)

    patched = patch_as_qemu(kernel, initrd_size=0x1000, memory_size=1024 * MIB)

    assert initrd_of(patched)[0] == 0x10000000 - 0x1000


@pytest.mark.parametrize(
    ("kernel", "initrd_size", "why"),
    [
        (b"", 0, "no HdrS"),
        (build_pe([b""]), 0, "no HdrS"),
        (build_pe([b""], setup=True, protocol=0x201), 0, "boot protocol 0x201"),
        (build_pe([b""], setup=True, loadflags=0), 0, "loaded high"),
        (KERNEL, 512 * MIB, "there is room for"),
    ],
)
def test_what_qemu_would_not_boot_so_is_refused(kernel: bytes, initrd_size: int, why: str) -> None:
    with pytest.raises(FormatError, match=why):
        patch_as_qemu(kernel, initrd_size=initrd_size, memory_size=512 * MIB)


def test_the_release_is_named() -> None:
    kernel = bytearray(KERNEL)
    struct.pack_into("<H", kernel, 0x20E, 0x100)
    kernel[0x300:0x310] = b"6.1.0-1 (x) #1\0\0"

    assert parse_kernel_release(bytes(kernel)) == "6.1.0-1"


@given(st.binary(max_size=0x300), st.integers(min_value=0, max_value=1 << 33))
def test_any_bytes_give_a_kernel_or_a_format_error(junk: bytes, size: int) -> None:
    for kernel in (junk, KERNEL[:0x206] + junk[0x206:]):
        with contextlib.suppress(FormatError):
            patch_as_qemu(kernel, initrd_size=size, memory_size=size)
        with contextlib.suppress(FormatError):
            parse_kernel_release(kernel)
