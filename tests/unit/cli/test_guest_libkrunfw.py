"""Which libkrunfw `krunpy guest build` takes kernels out of: it looks at what a library has, not at its name."""

import subprocess

import pytest

from krunpy.cli.guest import _find_bundled, _find_sev_parts
from krunpy.core.errors import HostError
from krunpy.core.settings import Settings
from krunpy.formats.krun_bundle import SONAMES, pack_bundle
from krunpy.formats.krun_cmdline import drop_hijack
from krunpy.formats.krun_kernel import unwrap_kernel
from krunpy.formats.krun_qboot import read_entry
from krunpy.guest.bundle import build_bundle
from krunpy.vmm import libkrun_find
from tests.fakes.krun_sev import ENTRY, IMAGE, KERNEL, LOAD
from tests.fakes.qboot import make_qboot

PLAIN = """
#include <stddef.h>
__asm__(".section .rodata\\nkernel: .incbin \\"%s\\"\\n.previous");
extern const char kernel[];
const char *krunfw_get_kernel(size_t *load, size_t *entry, size_t *size) {
    *load = 0x1000000; *entry = 0x1000123; *size = 0x3000;
    return kernel;
}
"""


@pytest.fixture
def libraries(tmp_path, monkeypatch):
    """Return a libkrunfw for plain machines and one for SEV, whose firmware names another entry; none is installed."""
    monkeypatch.setattr(libkrun_find, "DIRECTORIES", (str(tmp_path / "installed"),))
    monkeypatch.setattr(libkrun_find, "WHEEL", "no_such_package_of_krunpy")
    (tmp_path / "installed").mkdir()
    (tmp_path / "kernel").write_bytes(IMAGE)
    (tmp_path / "plain.c").write_text(PLAIN % (tmp_path / "kernel"))
    plain, sev = tmp_path / "plain.so", tmp_path / "sev.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", plain, tmp_path / "plain.c"], check=True)
    bundle = build_bundle(KERNEL, make_qboot(ENTRY), agent=b"", manifest=b"")
    contents = pack_bundle(bundle, SONAMES[0])
    sev.write_bytes(contents.replace(make_qboot(ENTRY), make_qboot(0x10009A3)))
    return plain, sev


def settings_with(libkrunfw=""):
    return Settings(data_dir="", cache_dir="", guest_dir="", libkrunfw=str(libkrunfw))


def test_of_a_library_for_sev_kernel_and_firmware_are_kept_so_that_they_fit(libraries):
    _, sev = libraries

    parts = _find_sev_parts(settings_with(sev))

    kept = unwrap_kernel(parts.kernel.contents)
    assert (kept.load_gpa, kept.entry_gpa, len(kept.image)) == (LOAD, ENTRY, 0x10000)
    assert kept.image.startswith(drop_hijack(IMAGE))
    assert (parts.kernel.release, parts.kernel.origin) == ("6.12.91", str(sev))
    assert read_entry(parts.qboot) == ENTRY


def test_a_library_of_one_kind_is_never_taken_for_the_other(libraries):
    plain, sev = libraries

    assert _find_bundled(settings_with(sev)) is None
    assert _find_sev_parts(settings_with(plain)) is None
    assert _find_bundled(settings_with(plain)).origin == str(plain)


def test_the_installed_one_is_found_beside_a_configured_one_of_the_other_kind(libraries, tmp_path):
    plain, sev = libraries
    (tmp_path / "installed/libkrunfw.so.5").symlink_to(plain)
    (tmp_path / "installed/libkrunfw-sev.so.5").symlink_to(sev)

    assert _find_bundled(settings_with(sev)).origin == str(plain)
    assert _find_sev_parts(settings_with(plain)).kernel.origin == str(sev)


def test_a_firmware_that_cannot_be_told_the_entry_is_said_and_not_kept(libraries, tmp_path, capsys):
    _, sev = libraries
    broken = tmp_path / "broken.so"
    broken.write_bytes(sev.read_bytes().replace(make_qboot(0x10009A3), bytes(0x10000)))

    assert _find_sev_parts(settings_with(broken)) is None
    assert "seen 0 jumps to a fixed address" in capsys.readouterr().err


@pytest.mark.usefixtures("libraries")
def test_a_configured_library_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(HostError, match="absolute path of a file"):
        _find_sev_parts(settings_with(tmp_path / "none.so"))


@pytest.mark.usefixtures("libraries")
def test_where_there_is_none_guests_are_for_qemu_alone():
    assert _find_bundled(settings_with()) is None
    assert _find_sev_parts(settings_with()) is None
