"""libkrun's own guest client, in C, against the server: challenge, attestation, passphrase, and every refusal.

KRUNPY_LIBKRUN_SOURCE names a checkout of libkrun 1.7 to 1.19; its client is compiled, with the headers of libcurl,
OpenSSL and libuuid. /dev/sev-guest is a socket here (libkrun_guest.c), and the test's AMD signs.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import socket
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import uvicorn

from krunpy.core.octets import ReportData
from krunpy.formats.snp_report import GuestPolicy
from krunpy.server.run import PatientProtocol
from tests.fakes.amd import FakeChip
from tests.fakes.libkrun_guest import DIGEST, PASSPHRASE, KbsServer, make_kbs_registration, make_kbs_server

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = os.environ.get("KRUNPY_LIBKRUN_SOURCE", "")
_FLAGS = ["-O1", "-w", "-U_FORTIFY_SOURCE", "-include", "stdlib.h", "-Dfw_err=fw_error"]
_LINK = ["-Wl,--wrap=open,--wrap=ioctl", "-lcurl", "-lcrypto"]
_POLICY = GuestPolicy.RESERVED_ONE | GuestPolicy.SMT
pytestmark = [
    pytest.mark.skipif(not SOURCE, reason="KRUNPY_LIBKRUN_SOURCE names no checkout of libkrun"),
    pytest.mark.skipif(
        shutil.which("gcc") is None, reason="there is no gcc to compile libkrun's client with"
    ),
]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client. KRUNPY_LIBKRUN_CFLAGS: where its headers and libraries are, if not in the usual place."""
    tee = next(path.parent for path in sorted(Path(SOURCE).rglob("snp_attest.c")))
    program = tmp_path_factory.mktemp("client") / "guest"
    sources = [
        tee / "snp_attest.c",
        *sorted((tee / "kbs").glob("*.c")),
        Path(__file__).parent / "libkrun_guest.c",
    ]
    extra = shlex.split(os.environ.get("KRUNPY_LIBKRUN_CFLAGS", ""))
    subprocess.run(["gcc", *_FLAGS, "-o", program, *sources, *extra, *_LINK], check=True)
    return program


@pytest.fixture
def server(tmp_path: Path) -> Iterator[KbsServer]:
    made = make_kbs_server(str(tmp_path / "store"))
    yield made
    made.fake.broker.database.close()


@pytest.fixture
def url(server: KbsServer) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(server.fake.app, http=PatientProtocol, lifespan="off", log_level="error")
        serving = uvicorn.Server(config)
        thread = threading.Thread(target=serving.run, args=([listener],))
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        serving.should_exit = True
        thread.join(10)


@contextlib.contextmanager
def sev_guest(path: Path, **changes: object) -> Iterator[str]:
    """A device that signs reports over any REPORT_DATA."""
    chip = FakeChip()
    with socket.socket(socket.AF_UNIX) as device:
        device.bind(str(path))
        device.listen()

        def answer() -> None:
            with contextlib.suppress(OSError):
                connection, _ = device.accept()
                with connection:
                    data = {"report_data": ReportData(connection.recv(64, socket.MSG_WAITALL))}
                    report = chip.report(**{"measurement": DIGEST, **data, **changes})
                    connection.sendall(chip.sign(report))

        thread = threading.Thread(target=answer)
        thread.start()
        yield str(path)
        device.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def run_client(
    client: Path, url: str, workload: str, device: Path, *, generation: str = "milan", **changes: object
) -> str:
    """Return what one boot's console shows."""
    with sev_guest(device, **changes) as path:
        # as the image's footer has it: quotes with backslashes
        words = [client, path, url, workload, f'{{\\"gen\\":\\"{generation}\\"}}']
        done = subprocess.run(words, capture_output=True, timeout=60, check=False)
    assert done.returncode in (0, 1), (
        done.returncode,
        done.stdout,
        done.stderr,
    )  # no signal: it did not crash
    return done.stdout.decode()


def test_libkruns_own_client_gets_its_passphrase_at_the_url_that_registered_it(server, client, url, tmp_path):
    prefix = server.invite()
    assert server.register(prefix).status == 200

    assert run_client(client, url + prefix, "web", tmp_path / "sev") == f"PASSPHRASE {PASSPHRASE}\n"


def test_libkruns_own_client_gets_its_passphrase_by_an_id_of_buildahs_own_length(
    server, client, url, tmp_path
):
    workload = "6ba80f4c" * 8
    assert server.call_socket(make_kbs_registration(workload_id=workload)).status == 200

    assert run_client(client, url, workload, tmp_path / "sev") == f"PASSPHRASE {PASSPHRASE}\n"


def test_libkruns_own_client_with_a_version_2_report_is_told_apart_by_its_image(
    server, client, url, tmp_path
):
    assert server.register(server.invite()).status == 200
    old = {"version": 2, "cpuid": (0, 0, 0)}

    assert PASSPHRASE in run_client(client, url, "web", tmp_path / "milan", **old)
    refused = run_client(client, url, "web", tmp_path / "genoa", generation="genoa", **old)

    assert "ATTESTATION ERROR: evidence-not-verified" in refused


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("launch-digest-unknown", {"measurement": b"\x5b" * 48}),
        ("policy-refused", {"policy": _POLICY | GuestPolicy.DEBUG}),
        ("policy-refused", {"vmpl": 1}),
        ("report-data-mismatch", {"report_data": ReportData(bytes(64))}),
        ("evidence-not-verified", {"chip_id": bytes(range(64))}),
        ("evidence-malformed", {"version": 9}),
    ],
)
def test_a_refusal_reaches_libkruns_own_client_as_one_short_line(
    server, client, url, tmp_path, code, changes
):
    assert server.register(server.invite()).status == 200

    console = run_client(client, url, "web", tmp_path / "sev", **changes)

    assert f"ATTESTATION ERROR: {code}: " in console
    line = console.partition("ATTESTATION ERROR: ")[2].partition("\n")[0]
    assert len(line.encode()) < 200
    assert PASSPHRASE not in console


def test_libkruns_own_client_hears_that_its_workload_is_unknown_or_revoked(server, client, url, tmp_path):
    unknown = run_client(client, url, "web", tmp_path / "unknown")
    assert server.register(server.invite()).status == 200
    assert server.fake.admin("POST", "/v1/workloads/web/revoke").status == 200
    revoked = run_client(client, url, "web", tmp_path / "revoked")

    assert "ATTESTATION ERROR: workload-unknown: no workload of this id is registered here" in unknown
    assert "ATTESTATION ERROR: workload-revoked: " in revoked
