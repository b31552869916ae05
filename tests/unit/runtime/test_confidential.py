"""Which TEE a machine is launched in, and what its launch in hardware is told."""

from __future__ import annotations

import json
import os
import struct
from base64 import b64encode
from typing import TYPE_CHECKING

import pytest

from krunpy.core import proc
from krunpy.core.errors import HostError
from krunpy.core.octets import Digest32
from krunpy.guest.payload import GuestPayload
from krunpy.runtime import machine
from krunpy.runtime.confidential import (
    choose_confidential_accel,
    choose_tee,
    make_confidential,
    require_offered,
)
from krunpy.runtime.machine import Machine, load_files, make_machine_request
from krunpy.tee.detect import QUOTE_SOCKET, SEV_DEVICE, SNP_PARAMETER, TDX_PARAMETER, TeeKind
from krunpy.tee.host_tree import HostTree
from krunpy.vmm.spec import Accel

if TYPE_CHECKING:
    from pathlib import Path

SNP_HOST = {SNP_PARAMETER: "Y\n", SEV_DEVICE: ""}
TDX_HOST = {TDX_PARAMETER: "Y\n"}
HASH = Digest32(bytes(range(32)))


@pytest.mark.parametrize(
    ("wanted", "host", "chosen"),
    [
        ("auto", {}, TeeKind.SOFTWARE),
        ("auto", SNP_HOST, TeeKind.SNP),
        ("auto", TDX_HOST, TeeKind.TDX),
        ("auto", {SNP_PARAMETER: "N", SEV_DEVICE: ""}, TeeKind.SOFTWARE),
        ("software", SNP_HOST, TeeKind.SOFTWARE),
        ("snp", {}, TeeKind.SNP),
        ("tdx", SNP_HOST, TeeKind.TDX),
    ],
)
def test_auto_is_the_hardware_that_the_host_offers_and_a_name_is_what_it_says(
    wanted: str, host: dict[str, str], chosen: TeeKind
) -> None:
    assert choose_tee(wanted, host.get) is chosen


@pytest.mark.parametrize(
    ("tee", "host", "why"),
    [
        (TeeKind.SNP, {}, f"{SNP_PARAMETER} does not exist, {SEV_DEVICE} does not exist"),
        (TeeKind.SNP, {SNP_PARAMETER: "Y"}, f"offer it: {SEV_DEVICE} does not exist$"),
        (TeeKind.SNP, {SNP_PARAMETER: "N", SEV_DEVICE: ""}, "wanted Y$"),
        (TeeKind.TDX, {}, f"{TDX_PARAMETER} does not exist$"),
        (TeeKind.TDX, SNP_HOST, "it offers snp"),
    ],
)
def test_hardware_that_the_host_does_not_offer_is_refused_with_what_is_missing(
    tee: TeeKind, host: dict[str, str], why: str
) -> None:
    with pytest.raises(HostError, match=why) as caught:
        require_offered(tee, host.get)

    assert f"krunpy doctor --require {tee}" in caught.value.next


def test_what_the_host_offers_and_the_software_tee_need_nothing_more() -> None:
    require_offered(TeeKind.SOFTWARE, {}.get)
    require_offered(TeeKind.SNP, SNP_HOST.get)
    require_offered(TeeKind.TDX, TDX_HOST.get)


def test_hardware_needs_kvm_and_never_falls_to_emulation() -> None:
    assert [choose_confidential_accel(wanted) for wanted in ("auto", "kvm")] == [Accel.KVM, Accel.KVM]
    with pytest.raises(HostError, match="accel is tcg, wanted kvm"):
        choose_confidential_accel("tcg")


def open_to_group(path: Path) -> int:
    """Make a device of a group that is not root's, and return the group."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    group = os.getgid() or 77
    os.chown(path, -1, group)
    path.chmod(0o660)
    return group


def make_host(folder: Path, *, ebx: int = 1 << 6 | 51) -> tuple[HostTree, int]:
    """Return a host with both TEEs, and the group that opens them. ebx: CPUID's word on memory encryption."""
    for path in (SEV_DEVICE, QUOTE_SOCKET):
        group = open_to_group(folder / path[1:])
    device = folder / "dev/cpu/0/cpuid"
    device.parent.mkdir(parents=True)
    with device.open("wb") as stream:
        stream.seek(0x8000001F)
        stream.write(struct.pack("<4I", 0, ebx, 0, 100))
    return HostTree(root=str(folder)), group


@pytest.fixture
def request_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Return what a machine's request in a TEE is, beside one that is only under KVM."""
    qemu = tmp_path / "bin/qemu-system-x86_64"
    qemu.parent.mkdir()
    qemu.touch(mode=0o755)
    monkeypatch.setattr(proc, "PATH", str(qemu.parent))
    monkeypatch.setattr(machine, "DEVICE", str(tmp_path / "kvm"))
    (tmp_path / "kvm").touch()
    (tmp_path / "kvm").chmod(0o666)
    files = load_files(GuestPayload(firmware=b"f", kernel=b"k", initrd=b"i", cmdline="quiet"))

    def make(tee: TeeKind, tree: HostTree):
        asked = Machine(files=files, memory_mib=300, cpus=2, channel_fd=7, disk_fd=8, kept=(9,))
        confidential = make_confidential(tee, HASH, tree)
        return make_machine_request(asked, accel=Accel.KVM, confidential=confidential)

    yield make
    for descriptor in (files.firmware, files.kernel, files.initrd):
        os.close(descriptor)


def changes_of(argv: tuple[str, ...], plain: tuple[str, ...]) -> dict[str, str]:
    """Return the options whose words a confidential machine has beside or in place of a plain one's."""
    start, end = argv.index("-machine"), argv.index("-smp")
    old, new = plain.index("-machine"), plain.index("-smp")
    assert argv[:start] == plain[:old]
    assert argv[end:] == plain[new:]
    words, objects = argv[start:end], []
    found = {}
    for name, value in zip(words[::2], words[1::2], strict=True):
        objects += [value] if name == "-object" else []
        found |= {name: value}
    assert objects[0] == "memory-backend-memfd,id=ram,size=300M,share=on,prealloc=off"
    assert len(objects) == 2
    base = plain[old + 1]
    assert found["-machine"].startswith(f"{base},")
    return {**found, "-machine": found["-machine"].removeprefix(f"{base},")}


def test_a_request_in_snp_names_the_manifest_the_hosts_encryption_bit_and_the_predicted_cpu(
    request_of, tmp_path: Path
) -> None:
    tree, group = make_host(tmp_path)

    request, plain = request_of(TeeKind.SNP, tree), request_of(TeeKind.SOFTWARE, tree)

    assert changes_of(request.argv, plain.argv) == {
        "-machine": "smm=off,confidential-guest-support=tee,memory-backend=ram",
        "-accel": "kvm",
        "-cpu": "EPYC-v4",
        "-object": "sev-snp-guest,id=tee,cbitpos=51,reduced-phys-bits=1,policy=0x30000,kernel-hashes=on,host-data="
        + b64encode(HASH).decode(),
    }
    assert (request.groups, plain.groups) == ((group,), ())
    assert request.descriptors == plain.descriptors


def test_a_request_in_tdx_names_the_manifest_in_mrconfigid(request_of, tmp_path: Path) -> None:
    tree, group = make_host(tmp_path)

    request, plain = request_of(TeeKind.TDX, tree), request_of(TeeKind.SOFTWARE, tree)

    changes = changes_of(request.argv, plain.argv)
    assert json.loads(changes.pop("-object")) == {
        "qom-type": "tdx-guest",
        "id": "tee",
        "mrconfigid": b64encode(HASH + bytes(16)).decode(),
        "sept-ve-disable": True,
        "quote-generation-socket": {"type": "unix", "path": QUOTE_SOCKET},
    }
    assert changes == {
        "-machine": "smm=off,confidential-guest-support=tee,memory-backend=ram,pic=off",
        "-accel": "kvm,kernel-irqchip=split",
        "-cpu": "host,pmu=off",
    }
    assert request.groups == (group,)


def test_the_groups_of_kvm_and_of_the_tees_device_are_both_the_machines(
    request_of, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree, group = make_host(tmp_path)
    monkeypatch.setattr(machine, "DEVICE", str(tmp_path / "dev/kvm"))
    open_to_group(tmp_path / "dev/kvm")

    assert request_of(TeeKind.SNP, tree).groups == (group,)
    assert request_of(TeeKind.SOFTWARE, tree).groups == (group,)


@pytest.mark.parametrize("tee", [TeeKind.SNP, TeeKind.TDX])
def test_a_device_that_is_not_there_or_only_roots_is_refused(tee: TeeKind, tmp_path: Path) -> None:
    with pytest.raises(HostError, match="no such file") as caught:
        make_confidential(tee, HASH, HostTree(root=str(tmp_path)))
    assert "krunpy doctor" in caught.value.next

    tree, _ = make_host(tmp_path)
    for path in (SEV_DEVICE, QUOTE_SOCKET):
        (tmp_path / path[1:]).chmod(0o600)
    with pytest.raises(HostError, match="only root may open it"):
        make_confidential(tee, HASH, tree)


def test_snp_without_cpuids_word_on_the_encryption_bit_is_refused(tmp_path: Path) -> None:
    tree, _ = make_host(tmp_path, ebx=0)

    with pytest.raises(HostError, match="where the encryption bit is"):
        make_confidential(TeeKind.SNP, HASH, tree)
    (tmp_path / "dev/cpu/0/cpuid").unlink()
    with pytest.raises(HostError, match="where the encryption bit is") as caught:
        make_confidential(TeeKind.SNP, HASH, tree)
    assert "modprobe cpuid" in caught.value.next
