"""The launcher on a host that seems to have a hardware TEE, from its start to the server's verdict on the guest."""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from krunpy.client.server import ServerClient
from krunpy.core.octets import Nonce, Secret
from krunpy.formats.frames import FrameType, Hello, encode_frame, encode_hello
from krunpy.oci.state import Record, encode_record
from krunpy.runtime import container as files
from krunpy.runtime import control
from krunpy.runtime.plan import Plan, make_config
from tests.fakes import amd
from tests.fakes.guest import FakeGuest, read_host_frame
from tests.fakes.guest_build import build_guest
from tests.fakes.hardware_host import make_host
from tests.fakes.serving import serve

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).parents[3]


@dataclass
class Launch:
    """A launcher that runs, its shim's end and the guest's."""

    process: subprocess.Popen[bytes]
    shim: socket.socket
    guest: socket.socket
    container: Path
    client: ServerClient

    def take(self, kind: str) -> control.Message:
        message = control.receive_message(self.shim)
        assert message is not None
        assert message.kind == kind, message.fields
        return message

    def start(self) -> control.Message:
        """Take the machine's request and call `start`."""
        message = self.take("vm")
        for descriptor in message.descriptors:
            os.close(descriptor)
        control.send_message(self.shim, {"kind": "start", "stdin_is_empty": True})
        return message

    def say_hello(self, tee: int) -> FakeGuest:
        """Say HELLO as the guest of the workload that is registered."""
        (known,) = self.client.list_workloads()
        shown = self.client.show_workload(str(known["id"]))
        guest = FakeGuest(base64.b64decode(str(shown["manifest"])))
        hello = Hello(tee=tee, guest_key=guest.public_key, manifest_hash=guest.manifest_hash)
        self.guest.sendall(encode_frame(FrameType.HELLO, encode_hello(hello)))
        return guest


@pytest.fixture
def launched(tmp_path: Path) -> Iterator[object]:
    """Return how to start a launcher on a host with one TEE."""
    started: list[Launch] = []
    with serve(str(tmp_path / "store")) as serving:

        def start(parameter: str, *kinds: str, tee: str = "auto") -> Launch:
            host = tmp_path / "host"
            host.mkdir()
            make_host(host, parameter=parameter)
            build_guest(tmp_path / "guest", *kinds)
            container = _make_container(tmp_path)
            environment = {
                "PATH": os.environ["PATH"],
                "HOME": str(tmp_path),
                "KRUNPY_DATA_DIR": str(tmp_path / "data"),
                "KRUNPY_CACHE_DIR": str(tmp_path / "cache"),
                "KRUNPY_GUEST_DIR": str(tmp_path / "guest"),
                "KRUNPY_SERVER_URL": serving.url,
                "KRUNPY_SERVER_KEY": serving.key,
                "KRUNPY_TOKEN_FILE": str(tmp_path / "store/admin.token"),
                "KRUNPY_TEE": tee,
                "KRUNPY_CONFIG": str(tmp_path / "krunpy.toml"),
            }
            (tmp_path / "krunpy.toml").touch()
            shim, control_end = control.make_pair(socket.SOCK_SEQPACKET)
            channel, guest = socket.socketpair()
            ends = [control_end.fileno(), channel.fileno(), guest.fileno()]
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.fakes.hardware_host", host, container, *map(str, ends)],
                cwd=REPOSITORY,
                env=environment,
                pass_fds=ends,
            )
            control_end.close()
            channel.close()
            token = Secret((tmp_path / "store/admin.token").read_bytes().strip())
            client = ServerClient(serving.url, token=token)
            started.append(Launch(process, shim, guest, container, client))
            return started[0]

        yield start
        for launch in started:
            launch.shim.close()
            launch.guest.close()
            launch.process.wait(30)


def _make_container(folder: Path) -> Path:
    (folder / "source").mkdir()
    (folder / "source/file").write_text("x")
    bundle, container = folder / "bundle", folder / "run/c1"
    (bundle / "rootfs").mkdir(parents=True)
    container.mkdir(parents=True)
    config = make_config(
        Plan(source=f"dir:{folder / 'source'}", args=("/bin/true",), cpus=2, integrity_only=True)
    )
    (container / files.CONFIG).write_text(json.dumps(config))
    record = Record(
        id="c1",
        pid=os.getpid(),
        start_time=1,
        bundle=str(bundle),
        rootfs=str(bundle / "rootfs"),
        created="2026-01-01T00:00:00Z",
        contained=False,
    )
    (container / files.RECORD).write_bytes(encode_record(record))
    return container


def test_an_snp_launch_goes_the_whole_way_and_a_forged_report_gets_nothing(launched) -> None:
    launch = launched("sev_snp", "snp")

    request = launch.start()
    guest = _await(launch, lambda: launch.say_hello(1))
    nonce = Nonce(read_host_frame(launch.guest, FrameType.CHALLENGE))
    (value, _) = launch.client.show_workload(_name(launch))["reference_values"]
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
    assert launch.client.show_workload(_name(launch))["status"] == "ended"
    assert launch.process.wait(30) == 1


@pytest.mark.parametrize("tee", [0, 2])
def test_a_guest_in_another_tee_than_the_launched_is_refused_before_the_server_is_asked(
    launched, tee: int
) -> None:
    launch = launched("sev_snp", "snp")

    launch.start()
    _await(launch, lambda: launch.say_hello(tee))

    assert "was launched in snp" in launch.take("failed").text("why")
    assert launch.client.show_workload(_name(launch))["status"] == "ended"
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


def _name(launch: Launch) -> str:
    return str(launch.client.list_workloads()[0]["id"])


def _await(launch: Launch, act):
    """Act once the workload is registered, which happens beside the machine's boot."""
    deadline = time.monotonic() + 30
    while not launch.client.list_workloads():
        assert time.monotonic() < deadline
        assert launch.process.poll() is None, launch.take("failed").fields
        time.sleep(0.02)
    return act()
