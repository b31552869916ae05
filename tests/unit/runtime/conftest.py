"""A launcher in a process of its own, on a host that seems to have a hardware TEE."""

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
from krunpy.core.octets import Secret
from krunpy.formats.frames import FrameType, Hello, encode_frame, encode_hello
from krunpy.oci.state import Record, encode_record
from krunpy.runtime import container as files
from krunpy.runtime import control
from krunpy.runtime.plan import Plan, make_config
from tests.fakes.guest import FakeGuest
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
        while message is not None and message.kind == "prepare":  # a process for a machine that is to come
            message = control.receive_message(self.shim)
        assert message is not None
        assert message.kind == kind, message.fields
        return message

    def start(self) -> control.Message:
        """Take the machine's request and call `start`."""
        message = self.take("vm")
        for descriptor in message.descriptors:
            os.close(descriptor)
        self.go_on()
        return message

    def go_on(self) -> None:
        """Call `start`."""
        control.send_message(self.shim, {"kind": "start", "stdin_is_empty": True})

    def show_workload(self) -> dict[str, object]:
        """Return the workload that is registered, which happens beside the machine's boot."""
        deadline = time.monotonic() + 30
        while not (known := self.client.list_workloads()):
            assert time.monotonic() < deadline
            assert self.process.poll() is None, self.take("failed").fields
            time.sleep(0.02)
        return self.client.show_workload(str(known[0]["id"]))

    def say_hello(self, tee: int) -> FakeGuest:
        """Say HELLO as the guest of the workload that is registered."""
        guest = FakeGuest(base64.b64decode(str(self.show_workload()["manifest"])))
        hello = Hello(tee=tee, guest_key=guest.public_key, manifest_hash=guest.manifest_hash)
        self.guest.sendall(encode_frame(FrameType.HELLO, encode_hello(hello)))
        return guest


@pytest.fixture
def launched(tmp_path: Path) -> Iterator[object]:
    """Return how to start a launcher on a host with one TEE."""
    started: list[Launch] = []
    with serve(str(tmp_path / "store")) as serving:

        def start(
            parameter: str,
            *kinds: str,
            tee: str = "auto",
            krun_sev: str = "",
            has_parts: bool = True,
            agent: bytes = b"agent",
            devices: int = 0o666,
            **settings: str,
        ) -> Launch:
            """krun_sev: the path of a libkrun to launch with; has_parts: whether the guest has what that boots."""
            host = tmp_path / "host"
            host.mkdir()
            make_host(host, parameter=parameter, devices=devices)
            build_guest(tmp_path / "guest", *kinds, krun_sev=bool(krun_sev) and has_parts, agent=agent)
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
                **({"KRUNPY_VMM": "libkrun", "KRUNPY_LIBKRUN": krun_sev} if krun_sev else {}),
                **{f"KRUNPY_{name.upper()}": value for name, value in settings.items()},
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
