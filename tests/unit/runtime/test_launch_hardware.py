"""The launcher on a host that seems to have a hardware TEE, from its start to the server's verdict on the guest."""

from __future__ import annotations

import os

import pytest

from krunpy.core.octets import Nonce
from krunpy.formats.frames import FrameType, encode_frame
from krunpy.runtime import container as files
from tests.fakes import amd
from tests.fakes.guest import read_host_frame


def test_an_snp_launch_goes_the_whole_way_and_a_forged_report_gets_nothing(launched) -> None:
    launch = launched("sev_snp", "snp")

    request = launch.start()
    guest = launch.say_hello(1)
    nonce = Nonce(read_host_frame(launch.guest, FrameType.CHALLENGE))
    (value, _) = launch.show_workload()["reference_values"]
    forged = amd.FakeChip().payload(
        report_data=guest.make_report_data(nonce), measurement=bytes.fromhex(value["launch_digest"])
    )
    launch.guest.sendall(encode_frame(FrameType.EVIDENCE, forged))
    read_host_frame(launch.guest, FrameType.REFUSED)
    failed = launch.take("failed")

    argv = request.texts("argv")
    (words,) = [word for word in argv if word.startswith("sev-snp-guest,")]
    assert "cbitpos=51,reduced-phys-bits=1," in words
    assert argv[argv.index("-cpu") + 1] == value["inputs"]["vcpu_type"] == "EPYC-v4"
    assert (value["tee"], value["inputs"]["vcpus"]) == ("snp", 2)
    assert "evidence-not-verified" in failed.text("why")
    assert (launch.container / files.TEE).read_text() == "snp"
    assert launch.show_workload()["status"] == "ended"
    assert launch.process.wait(30) == 1


@pytest.mark.parametrize("tee", [0, 2])
def test_a_guest_in_another_tee_than_the_launched_is_refused_before_the_server_is_asked(
    launched, tee: int
) -> None:
    launch = launched("sev_snp", "snp")

    launch.start()
    launch.say_hello(tee)

    assert "was launched in snp" in launch.take("failed").text("why")
    assert launch.show_workload()["status"] == "ended"
    assert launch.client.list_attestations() == []


def test_a_run_on_tdx_that_was_not_registered_beforehand_is_refused_with_its_reason(launched) -> None:
    launch = launched("tdx", "tdx")

    request = launch.start()

    assert any('"tdx-guest"' in word for word in request.texts("argv"))
    failed = launch.take("failed")
    assert "does not predict RTMR0" in failed.text("why")
    assert "--rtmr0" in failed.text("next")
    assert launch.client.list_workloads() == []


def test_auto_never_falls_to_software_where_the_guest_lacks_the_hosts_firmware(launched) -> None:
    launch = launched("sev_snp", "tdx")

    failed = launch.take("failed")

    assert "built without a firmware for snp" in failed.text("why")
    assert "ovmf-amdsev" in failed.text("next")
    assert 'tee = "software"' in failed.text("next")


def test_software_that_was_chosen_by_name_is_what_is_launched(launched) -> None:
    launch = launched("sev_snp", "snp", tee="software")

    request = launch.take("vm")
    for descriptor in request.descriptors:
        os.close(descriptor)

    assert not any("sev-snp-guest" in word for word in request.texts("argv"))
    assert (launch.container / files.TEE).read_text() == "software"
