from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from krunpy.core import proc
from krunpy.core.errors import HostError
from krunpy.core.settings import Settings
from krunpy.guest.payload import VmmKind
from krunpy.runtime.vmm_choice import choose_vmm
from krunpy.tee.detect import TeeKind
from krunpy.vmm import libkrun_find

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Settings]:
    """Return a function that installs nothing but what it is told, and returns settings with a VMM."""
    monkeypatch.setattr(proc, "PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(libkrun_find, "DIRECTORIES", (str(tmp_path / "lib"),))
    (tmp_path / "bin").mkdir()
    (tmp_path / "lib").mkdir()

    def install(*, vmm: str, qemu: bool = False, libkrun: bool = False) -> Settings:
        if qemu:
            (tmp_path / "bin/qemu-system-x86_64").touch(mode=0o755)
        if libkrun:
            (tmp_path / "lib/libkrun.so.1").touch()
        return Settings(data_dir="/d", cache_dir="/c", guest_dir="/g", vmm=vmm)

    return install


@pytest.mark.parametrize(
    ("qemu", "libkrun", "chosen"),
    [
        (True, True, VmmKind.QEMU),
        (True, False, VmmKind.QEMU),
        (False, True, VmmKind.LIBKRUN),
        (False, False, VmmKind.QEMU),  # whose error names the package that everybody can install
    ],
)
def test_auto_is_qemu_and_libkrun_only_where_there_is_no_qemu(host, qemu, libkrun, chosen):
    assert choose_vmm(host(vmm="auto", qemu=qemu, libkrun=libkrun), TeeKind.SOFTWARE) is chosen


@pytest.mark.parametrize("vmm", VmmKind)
def test_a_vmm_that_was_named_is_never_replaced(host, vmm):
    settings = host(vmm=str(vmm), qemu=vmm is VmmKind.LIBKRUN, libkrun=vmm is VmmKind.QEMU)

    assert choose_vmm(settings, TeeKind.SOFTWARE) is vmm


def test_libkrun_that_was_named_launches_in_snp(host):
    assert choose_vmm(host(vmm="libkrun", qemu=True), TeeKind.SNP) is VmmKind.LIBKRUN


@pytest.mark.parametrize("tee", [TeeKind.SNP, TeeKind.TDX])
def test_auto_is_qemu_for_a_hardware_tee_whatever_is_installed(host, tee):
    assert choose_vmm(host(vmm="auto", libkrun=True), tee) is VmmKind.QEMU


def test_libkrun_launches_nothing_in_tdx_because_it_measures_only_its_firmware(host):
    with pytest.raises(HostError, match="any workload has the same MRTD"):
        choose_vmm(host(vmm="libkrun", libkrun=True), TeeKind.TDX)
