"""A bundle for SEV-SNP machines of libkrun: what it holds, what the loader makes of it, what its digest depends on."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krunpy.core.errors import FormatError
from krunpy.formats.krun_bundle import SONAMES, KrunBundle, pack_bundle, require_bootable
from krunpy.formats.krun_kernel import KrunKernel
from krunpy.formats.krun_qboot import read_entry, set_entry
from krunpy.guest.bundle import build_bundle, describe_bundle
from krunpy.measure.libkrun import predict_libkrun_digest
from tests.fakes.qboot import JUMP_AT, make_qboot

LOAD, ENTRY = 0x1000000, 0x1000123
KERNEL = KrunKernel(image=bytes(range(256)) * 256, load_gpa=LOAD, entry_gpa=ENTRY)
QBOOT = make_qboot(0x10009A3)
BUNDLE = build_bundle(KERNEL, QBOOT, agent=b"agent", manifest=b"{}")

ASK = """
import ctypes, sys
here, soname = ctypes.CDLL(sys.argv[1]), sys.argv[2]
assert ctypes.CDLL(soname)._handle == here._handle
def ask(name, count):
    function = getattr(ctypes.CDLL(soname), name)
    function.restype = ctypes.c_void_p
    numbers = [ctypes.c_size_t() for _ in range(count)]
    address = function(*map(ctypes.byref, numbers))
    assert address % 4096 == 0
    sys.stdout.buffer.write(ctypes.string_at(address, numbers[-1].value))
    return [number.value for number in numbers]
kernel, initrd, qboot = ask("krunfw_get_kernel", 3), ask("krunfw_get_initrd", 1), ask("krunfw_get_qboot", 1)
print(*kernel, *initrd, *qboot, here.krunfw_get_version(), file=sys.stderr)
"""


@pytest.mark.parametrize("soname", SONAMES)
def test_the_loader_finds_it_by_the_name_that_libkrun_asks_for(tmp_path, soname):
    path = tmp_path / "any-name"
    path.write_bytes(pack_bundle(BUNDLE, soname))

    done = subprocess.run([sys.executable, "-c", ASK, path, soname], capture_output=True, check=True)

    assert done.stdout == BUNDLE.kernel.image + BUNDLE.initrd + BUNDLE.qboot
    sizes = [LOAD, ENTRY, len(BUNDLE.kernel.image), len(BUNDLE.initrd), len(BUNDLE.qboot), 5]
    assert [int(word) for word in done.stderr.split()] == sizes


def test_equal_inputs_give_equal_bytes():
    again = build_bundle(KERNEL, QBOOT, agent=b"agent", manifest=b"{}")

    assert pack_bundle(again, SONAMES[0]) == pack_bundle(BUNDLE, SONAMES[0])


def test_a_firmware_that_names_another_entry_is_told_the_kernels():
    assert read_entry(QBOOT) != ENTRY
    assert read_entry(BUNDLE.qboot) == ENTRY
    assert [at for at in range(len(QBOOT)) if QBOOT[at] != BUNDLE.qboot[at]] == [JUMP_AT + 3, JUMP_AT + 4]


@pytest.mark.parametrize(
    "qboot", [bytes(0x10000), QBOOT[:-1], QBOOT[: JUMP_AT + 9] + make_qboot(1, at=0)[: -JUMP_AT - 9]]
)
def test_a_firmware_without_exactly_one_such_jump_is_refused(qboot):
    with pytest.raises(FormatError, match="cannot use the firmware"):
        set_entry(qboot, ENTRY)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"qboot": bytes(4096)}, "qboot has 4096 bytes"),
        ({"initrd": bytes(4095)}, "initrd has 4095 bytes"),
        ({"initrd": b""}, "initrd has 0 bytes"),
        ({"initrd": bytes((6 << 20) + 4096)}, "there are 6291456 between"),
        ({"kernel": replace(KERNEL, image=bytes(100))}, "kernel has 100 bytes"),
        ({"kernel": replace(KERNEL, entry_gpa=LOAD + len(KERNEL.image))}, "is not in its image"),
        ({"kernel": replace(KERNEL, entry_gpa=LOAD - 1)}, "is not in its image"),
        ({"kernel": replace(KERNEL, load_gpa=LOAD + 1)}, "is not in its image"),
    ],
)
def test_what_libkrun_would_refuse_or_overwrite_is_refused_here(change, why):
    with pytest.raises(FormatError, match=why):
        require_bootable(replace(BUNDLE, **change))


def test_an_initrd_of_exactly_six_mebibytes_fits():
    require_bootable(replace(BUNDLE, initrd=bytes(6 << 20)))


def digest_of(bundle: KrunBundle) -> bytes:
    return predict_libkrun_digest(describe_bundle(bundle, vcpus=1, memory_mib=512))


@given(part=st.sampled_from(["kernel", "qboot", "initrd"]), data=st.data())
def test_any_changed_byte_changes_the_digest(part, data):
    contents = BUNDLE.kernel.image if part == "kernel" else getattr(BUNDLE, part)
    at = data.draw(st.integers(0, len(contents) - 1))
    changed = contents[:at] + bytes([contents[at] ^ data.draw(st.integers(1, 255))]) + contents[at + 1 :]
    value = replace(KERNEL, image=changed) if part == "kernel" else changed

    assert digest_of(replace(BUNDLE, **{part: value})) != digest_of(BUNDLE)


def test_another_manifest_or_agent_is_another_digest():
    digests = {
        digest_of(build_bundle(KERNEL, QBOOT, agent=agent, manifest=manifest))
        for agent in (b"agent", b"other")
        for manifest in (b"{}", b"[]")
    }

    assert len(digests) == 4
