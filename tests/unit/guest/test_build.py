"""A guest's build on hosts that have one VMM only; the agent is compiled, the kernels are made up."""

import json

import pytest
from typer.testing import CliRunner

from krunpy.cli.app import app
from krunpy.core.errors import HostError
from krunpy.guest import build
from krunpy.guest.kernel import ElfKernel, require_kernel
from krunpy.guest.payload import VmmKind, list_uses, load_guest, require_unchanged
from krunpy.tee.detect import TeeKind
from tests.unit.guest.test_guest import make_kernel_tree

ELF = ElfKernel(contents=b"\x7fELF of libkrunfw", release="6.12.91", origin="libkrunfw.so.5")


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """Return a distribution's kernel, on a host without firmware for QEMU."""
    monkeypatch.setattr(build, "FIRMWARES", (str(tmp_path / "qboot.rom"),))
    return require_kernel([str(make_kernel_tree(tmp_path / "kernel"))])


def test_without_qemus_firmware_a_guest_is_built_for_libkrun_alone(kernel, tmp_path):
    notes, guests = [], str(tmp_path / "guest")
    built = build.build_guest(guests, kernel, note=notes.append, krun_kernel=ELF)

    assert (TeeKind.SOFTWARE, VmmKind.LIBKRUN) in list_uses(built.folder)
    assert (TeeKind.SOFTWARE, VmmKind.QEMU) not in list_uses(built.folder)
    require_unchanged(load_guest(guests, vmm=VmmKind.LIBKRUN))
    assert "no firmware for QEMU is installed: the guest is libkrun's alone" in notes
    with pytest.raises(HostError, match="without a firmware for QEMU") as caught:
        load_guest(guests)
    assert "--vmm libkrun" in caught.value.next


def test_such_a_guest_is_shown_and_checked(kernel, tmp_path, monkeypatch):
    guests = tmp_path / "guest"
    built = build.build_guest(str(guests), kernel, note=lambda _: None, krun_kernel=ELF)
    monkeypatch.setenv("KRUNPY_GUEST_DIR", str(guests))

    shown = CliRunner().invoke(app, ["guest", "show", "--json"])
    with open(f"{built.folder}/vmlinux.krun", "ab") as stream:
        stream.write(b"!")
    changed = CliRunner().invoke(app, ["guest", "show"])

    assert shown.exit_code == 0, shown.output
    assert json.loads(shown.stdout)["data"]["firmware"] == "none: not for QEMU"
    assert changed.exit_code != 0


def test_without_a_kernel_for_libkrun_either_nothing_is_built(kernel, tmp_path):
    with pytest.raises(HostError, match="neither qboot nor SeaBIOS") as caught:
        build.build_guest(str(tmp_path / "guest"), kernel, note=lambda _: None)

    assert "libkrunfw" in caught.value.next
    assert not (tmp_path / "guest/current").exists()
