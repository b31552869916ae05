"""What a machine of libkrun may be, and where its library is looked for."""

import subprocess
import sys
from pathlib import Path

import pytest

from krunpy.core.errors import HostError
from krunpy.vmm import libkrun_find
from krunpy.vmm.libkrun_abi import Libkrun, open_library
from krunpy.vmm.libkrun_bundle import load_bundle_kernel
from krunpy.vmm.libkrun_find import find_libraries, require_libkrunfw
from krunpy.vmm.libkrun_spec import Flavour, KrunSpec, Libraries

LIBRARIES = Libraries(libkrun="/lib/libkrun.so.1", libkrunfw=None)
GIVEN = {
    "libraries": LIBRARIES, "memory_mib": 256, "cpus": 1, "cmdline": "quiet", "kernel_fd": 0, "boot_fd": 1,
    "channel_fd": 2, "disk_fd": None,
}  # fmt: skip


@pytest.mark.parametrize(
    "changed",
    [
        {"cpus": 0},
        {"cpus": 256},  # the interface would make it 0
        {"cmdline": "a\nb"},  # libkrun panics at it
        {"cmdline": "é"},
        {"cmdline": "a" * 1801},
        {"ports": ((80, 80),)},
        {"kernel_fd": None},
        {"libraries": Libraries(libkrun="/lib/libkrun-sev.so.1", libkrunfw=None, flavour=Flavour.SEV)},
    ],
)
def test_a_machine_that_libkrun_would_misread_cannot_be_described(changed):
    KrunSpec(**GIVEN)

    with pytest.raises(ValueError, match=r"wanted|need|kernel|libkrun"):
        KrunSpec(**{**GIVEN, **changed})


@pytest.fixture
def places(tmp_path, monkeypatch):
    monkeypatch.setattr(libkrun_find, "DIRECTORIES", (str(tmp_path / "first"), str(tmp_path / "second")))
    monkeypatch.setattr(libkrun_find, "WHEEL", "no_such_package_of_krunpy")
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    return tmp_path


def test_a_libkrun_that_is_nowhere_is_refused_with_the_three_ways_to_get_one(places):
    with pytest.raises(HostError) as caught:
        find_libraries("", "")

    assert str(places / "second") in caught.value.why
    assert all(word in caught.value.next for word in ("distribution", "krunpy[libkrun]", "KRUNPY_LIBKRUN"))


def test_libraries_are_found_by_flavour_and_in_order(places):
    for name in ("libkrun.so.1", "libkrun-sev.so.1", "libkrunfw.so.5"):
        (places / "second" / name).touch()
    (places / "first" / "libkrun.so.1").touch()

    plain, sev = find_libraries("", ""), find_libraries("", "", Flavour.SEV)

    assert plain.libkrun == str(places / "first" / "libkrun.so.1")
    assert plain.libkrunfw == str(places / "second" / "libkrunfw.so.5")
    assert (sev.libkrun, sev.libkrunfw) == (str(places / "second" / "libkrun-sev.so.1"), None)
    with pytest.raises(HostError, match="guest's kernel"):
        require_libkrunfw(sev)


def test_a_configured_path_is_taken_and_has_to_be_a_file(places):
    (places / "mine.so").touch()

    assert find_libraries(str(places / "mine.so"), "").libkrun == str(places / "mine.so")
    for wrong in (str(places), str(places / "none.so"), "mine.so"):
        with pytest.raises(HostError, match="wanted the absolute path of a file"):
            find_libraries(wrong, "")


def test_the_wheel_is_found_without_being_imported(places, monkeypatch):
    package = places / "wheel_of_krunpy"
    package.mkdir()
    (package / "__init__.py").write_text("raise AssertionError")
    (package / "libkrun.so").touch()
    monkeypatch.syspath_prepend(places)
    monkeypatch.setattr(libkrun_find, "WHEEL", "wheel_of_krunpy")

    assert find_libraries("", "").libkrun == str(package / "libkrun.so")
    with pytest.raises(HostError):
        find_libraries("", "", Flavour.TDX)
    assert "wheel_of_krunpy" not in sys.modules


def test_a_library_with_another_interface_is_refused():
    with pytest.raises(HostError, match="its interface is another"):
        Libkrun(_find_libc())


def test_a_relative_path_is_not_searched_for():
    with pytest.raises(HostError, match="the path is relative"):
        open_library("libc.so.6")


def test_a_library_that_crashes_is_one_error_of_the_process_that_asked_it(tmp_path):
    library = tmp_path / "libkrunfw.so"
    crashes = "#include <stdlib.h>\n__attribute__((constructor)) void begin(void) { abort(); }"
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-x", "c", "-o", library, "-"], input=crashes, text=True, check=True
    )

    with pytest.raises(HostError, match=r"ended without an answer.*exit code -6") as caught:
        load_bundle_kernel(str(library))

    assert caught.value.what == f"cannot use {library}"


def test_a_library_that_is_no_libkrunfw_has_no_kernel():
    with pytest.raises(HostError, match="it has no krunfw_get_kernel"):
        load_bundle_kernel(_find_libc())


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((7, "disk", None, True), "a text is missing"),
        ((7, "a\0b", "/disk", True), "has a NUL"),
        ((7, "disk", "\udcff", True), "is not UTF-8"),
    ],
)
def test_a_text_that_would_crash_libkrun_never_reaches_it(fake_library, arguments, reason):
    library = Libkrun(fake_library)
    library.call("krun_add_disk", 7, "disk", "/disk", True)

    with pytest.raises(HostError, match=reason):
        library.call("krun_add_disk", *arguments)


@pytest.fixture
def fake_library(tmp_path):
    source = Path(__file__).parent / "fake_libkrun.c"
    path = tmp_path / "libkrun.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", path, source], check=True)
    return str(path)


def _find_libc():
    with open("/proc/self/maps") as stream:
        return next(line.split()[-1] for line in stream if "/libc.so" in line or "/libc-" in line)
