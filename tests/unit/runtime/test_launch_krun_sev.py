"""The launcher with libkrun in SEV-SNP, from the request to the server's verdict.

The process of the machine is the real one; the library below it writes down its calls, and there is no hardware.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
from pathlib import Path

import pytest

from krunpy.core.octets import Nonce
from krunpy.formats.frames import FrameType, encode_frame
from krunpy.formats.krun_bundle import pad
from krunpy.formats.krun_cmdline import drop_hijack
from krunpy.formats.krun_qboot import set_entry
from krunpy.formats.vmsa_libkrun import VmsaVariant
from krunpy.measure.libkrun import LibkrunLaunch, predict_libkrun_digest
from krunpy.runtime import container as files
from tests.fakes import amd
from tests.fakes.guest import read_host_frame
from tests.fakes.krun_sev import ENTRY, IMAGE, fnv
from tests.fakes.qboot import make_qboot

SOURCE = Path(__file__).parents[1] / "vmm/fake_libkrun.c"
LAUNCH_TIME = 30  # seconds


@pytest.fixture
def libkrun(tmp_path):
    """Return how to make a libkrun."""

    def build(*, features=0xC0, tee=True):
        path = tmp_path / "libkrun-sev.so.1"
        defines = [f'-DLOG="{tmp_path / "calls"}"', f"-DFEATURES={features}", *(["-DTEE"] if tee else [])]
        subprocess.run(["cc", "-shared", "-fPIC", *defines, "-o", path, SOURCE], check=True)
        (tmp_path / "calls").touch(mode=0o666)
        return str(path)

    return build


def run_machine(request):
    """Start what the shim is asked to, with the descriptors that it was handed."""
    words = request.texts("argv")
    for index, descriptor in enumerate(request.descriptors):
        words = [word.replace(f"{{fd{index}}}", str(descriptor)) for word in words]
    return subprocess.run(
        words, pass_fds=request.descriptors, capture_output=True, text=True, env={}, check=False, timeout=30
    )


def connect(launch):
    """Connect to the launcher as libkrun does when the guest opens its vsock."""
    folder = os.open(launch.container, os.O_RDONLY)
    launch.guest.close()
    launch.guest = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    launch.guest.connect(f"/proc/self/fd/{folder}/guest.sock")
    os.close(folder)


def test_what_libkrun_boots_is_what_was_registered(launched, libkrun, tmp_path) -> None:
    launch = launched("sev_snp", krun_sev=libkrun())
    request = launch.take("vm")

    done = run_machine(request)
    launch.go_on()
    values = launch.show_workload()["reference_values"]
    bundle = Path(f"/proc/self/fd/{request.descriptors[0]}").read_bytes()

    calls = (tmp_path / "calls").read_text().splitlines()
    kernel = pad(drop_hijack(IMAGE), 0x10000)
    qboot = set_entry(make_qboot(0x10009A3), ENTRY)
    size, seen = calls[3].removeprefix("krunfw_get_initrd ").split()
    at = bundle.index(b"070701")
    initrd = bundle[at : at + int(size)]
    assert [call.split()[0] for call in calls] == [
        "krun_init_log",
        "krun_create_ctx",
        "krunfw_get_kernel",
        "krunfw_get_initrd",
        "krunfw_get_qboot",
        "krun_set_vm_config",
        "krun_set_tee_config_file",
        "krun_disable_implicit_console",
        "krun_add_virtio_console_default",
        "krun_add_disk",
        "krun_disable_implicit_vsock",
        "krun_add_vsock",
        "krun_add_vsock_port",
        "config",
        "memlock",
        "krun_start_enter",
    ], done.stderr
    assert calls[2] == f"krunfw_get_kernel 1000000 {ENTRY:x} {len(kernel)} {fnv(kernel):08x}"
    assert calls[4] == f"krunfw_get_qboot 65536 {fnv(qboot):08x}"
    assert int(seen, 16) == fnv(initrd)
    assert b'"tees":["snp"]' in initrd.replace(b" ", b"")
    config = json.loads(calls[13].removeprefix("config "))
    assert (config["cpus"], config["ram_mib"], config["tee"]) == (2, 512, "snp")
    parts = {"qboot": qboot, "kernel": kernel, "initrd": initrd, "vcpus": 2, "memory_mib": 512}
    digests = {
        predict_libkrun_digest(LibkrunLaunch(**parts, variant=variant)).hex() for variant in VmsaVariant
    }
    assert {value["launch_digest"] for value in values} == digests
    assert len(values) == len(digests) == 3
    assert not any("host_data" in value for value in values)
    for descriptor in request.descriptors:
        os.close(descriptor)


@pytest.mark.parametrize("variant", VmsaVariant)
def test_a_report_of_each_variant_reaches_the_check_of_its_signature(launched, libkrun, variant) -> None:
    launch = launched("sev_snp", krun_sev=libkrun())
    launch.start()
    connect(launch)

    guest = launch.say_hello(1)
    nonce = Nonce(read_host_frame(launch.guest, FrameType.CHALLENGE))
    values = launch.show_workload()["reference_values"]
    (digest,) = [item["launch_digest"] for item in values if item["inputs"]["vmsa"] == variant]
    forged = amd.FakeChip().payload(
        report_data=guest.make_report_data(nonce), measurement=bytes.fromhex(digest)
    )
    launch.guest.sendall(encode_frame(FrameType.EVIDENCE, forged))
    read_host_frame(launch.guest, FrameType.REFUSED)

    for descriptor in launch.take("channel").descriptors:
        os.close(descriptor)
    assert "evidence-not-verified" in launch.take("failed").text("why")
    assert (launch.container / files.TEE).read_text() == "snp"
    assert (launch.container / files.VMM).read_text() == "libkrun"
    assert launch.show_workload()["status"] == "ended"
    assert launch.process.wait(LAUNCH_TIME) == 1


def test_a_libkrun_for_plain_machines_launches_nothing_in_snp(launched, libkrun) -> None:
    launch = launched("sev_snp", krun_sev=libkrun(features=0x03, tee=False))

    failed = launch.take("failed")

    assert "built for no TEE at all, wanted TEE and AMD_SEV" in failed.text("why")
    assert launch.client.list_workloads() == []


def test_a_host_without_sev_is_refused_before_anything_is_registered(launched, libkrun) -> None:
    launch = launched("tdx", krun_sev=libkrun(), tee="snp")

    failed = launch.take("failed")

    assert "this host does not offer it" in failed.text("why")
    assert launch.client.list_workloads() == []


def test_a_device_that_only_root_may_open_is_refused(launched, libkrun) -> None:
    launch = launched("sev_snp", krun_sev=libkrun(), devices=0o600)

    failed = launch.take("failed")

    assert "only root may open it" in failed.text("why")


def test_a_guest_built_without_libkrunfw_for_sev_says_what_is_missing(launched, libkrun) -> None:
    launch = launched("sev_snp", "snp", krun_sev=libkrun(), has_parts=False)

    failed = launch.take("failed")

    assert "without kernel and firmware of libkrunfw for SEV" in failed.text("why")
    assert "krunpy guest build" in failed.text("next")


def test_a_machine_of_libkrun_in_tdx_is_refused_with_what_works(launched, libkrun) -> None:
    launch = launched("tdx", "tdx", krun_sev=libkrun())

    failed = launch.take("failed")

    assert "any workload has the same MRTD" in failed.text("why")
    assert "--vmm qemu" in failed.text("next")


def test_an_initrd_that_does_not_fit_below_the_kernel_is_refused(launched, libkrun) -> None:
    launch = launched("sev_snp", krun_sev=libkrun(), agent=bytes(6 << 20))

    failed = launch.take("failed")

    assert "there are 6291456 between 0xa00000 and the kernel" in failed.text("why")
    assert launch.client.list_workloads() == []


def test_tcg_is_no_way_around_a_hardware_tee(launched, libkrun) -> None:
    launch = launched("sev_snp", krun_sev=libkrun(), accel="tcg")

    assert "accel is tcg, wanted kvm" in launch.take("failed").text("why")


def test_libkrun_sets_no_host_data_so_nothing_is_bound_by_it(launched, libkrun) -> None:
    launch = launched("sev_snp", krun_sev=libkrun(), manifest_in="host-data")

    assert "libkrun sets none in snp" in launch.take("failed").text("why")
