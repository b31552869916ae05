from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from krunpy.core.errors import FormatError, HostError, UsageError
from krunpy.server.listening import ServerOptions, describe_url, open_listener
from krunpy.server.log import EventLog
from krunpy.server.mode import Mode
from krunpy.server.trust import SimulatedRoot, load_simulated_root
from tests.fakes.serving import serve


def _address(serving):
    return "127.0.0.1", int(serving.url.rpartition(":")[2])


def _get(serving, path="/v1/info"):
    with socket.create_connection(_address(serving), 10) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_with_status_0(tmp_path, number):
    with serve(str(tmp_path / "store")) as serving:
        assert serving.key.encode() in _get(serving)
        serving.process.send_signal(number)

        assert serving.process.wait(10) == 0

    events = [json.loads(line)["event"] for line in (tmp_path / "store.log").read_text().splitlines()]
    assert events == ["ready"]


def test_a_server_that_crashes_leaves_no_core_dump_with_its_keys(tmp_path):
    with serve(str(tmp_path / "store")) as serving, open(f"/proc/{serving.process.pid}/limits") as limits:
        (line,) = (line for line in limits if line.startswith("Max core file size"))

    assert line.split()[4] == "0"


def test_the_server_ends_with_its_parent(tmp_path):
    with serve(str(tmp_path / "store")) as serving:
        assert b"200 OK" in _get(serving)
        os.close(serving.parent_fd)

        assert serving.process.wait(10) == 0
        serving.parent_fd = -1


def test_a_connection_that_stays_open_does_not_keep_the_server_alive(tmp_path):
    with serve(str(tmp_path / "store")) as serving, socket.create_connection(_address(serving), 10):
        serving.process.terminate()

        assert serving.process.wait(10) == 0


def test_an_inherited_socket_can_be_connected_to_before_the_server_is_up(tmp_path):
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()[:2], 10) as early,
    ):
        early.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        with serve(str(tmp_path / "store"), listen_fd=listener.fileno()):
            answer = early.recv(65536)

    assert answer.startswith(b"HTTP/1.1 200 OK")


def test_servers_started_at_once_on_a_new_store_agree_on_its_keys(tmp_path):
    with contextlib.ExitStack() as stack:
        servings = [stack.enter_context(serve(str(tmp_path / "store"))) for _ in range(3)]

        assert len({serving.key for serving in servings}) == 1
        assert all(serving.key.encode() in _get(serving) for serving in servings)


def test_no_traceback_and_no_headers_of_the_library_reach_a_stranger(tmp_path):
    with serve(str(tmp_path / "store")) as serving:
        with socket.create_connection(_address(serving), 10) as connection:
            connection.sendall(b"\0\1\2 nonsense\r\n\r\n")
            nonsense = connection.recv(65536)
        answer = _get(serving)

    assert nonsense.startswith(b"HTTP/1.1 400")
    assert b"server:" not in answer.lower()
    assert b"uvicorn" not in (answer + nonsense).lower()


def test_headers_that_do_not_end_are_given_up_by_size(tmp_path):
    with (
        serve(str(tmp_path / "store")) as serving,
        socket.create_connection(_address(serving), 10) as connection,
    ):
        with contextlib.suppress(OSError):
            connection.sendall(b"GET / HTTP/1.1\r\nX: " + b"a" * 200_000)
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(100).startswith(b"HTTP/1.1 400")


def test_a_slow_header_is_given_up_by_time(monkeypatch):
    import asyncio

    import uvicorn

    from krunpy.server import run

    monkeypatch.setattr(run, "HEADER_TIME_S", 0.2)

    async def app(_scope, _receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    async def talk():
        config = uvicorn.Config(app, http=run.PatientProtocol, ws="none", lifespan="off", log_config=None)
        config.load()
        listener = socket.create_server(("127.0.0.1", 0))
        server = run._Server(config, lambda: None)
        task = asyncio.create_task(server.serve(sockets=[listener]))
        port = listener.getsockname()[1]
        spans = []
        for first in (b"", b"GET / HTTP/1.1\r\nHost:", b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            begin = time.monotonic()
            writer.write(first)
            for _ in range(100):  # one byte now and then keeps other servers waiting for ever
                if reader.at_eof():
                    break
                writer.write(b"a" if first else b"")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(reader.read(1000), 0.05)
            spans.append(time.monotonic() - begin)
            writer.close()
        server.stop()
        await task
        return spans

    assert all(0.1 < span < 3 for span in asyncio.run(talk()))


def test_https_works_with_a_certificate_of_ones_own(tmp_path):
    certificate, key = _make_certificate(tmp_path)
    with serve(str(tmp_path / "store"), tls_certificate=certificate, tls_key=key) as serving:
        from krunpy.client.server import ServerClient
        from krunpy.core.errors import BrokerError

        assert serving.url.startswith("https://127.0.0.1:")
        assert ServerClient(serving.url, ca_file=certificate).info().key.hex() == serving.key
        with pytest.raises(BrokerError, match=r"(?i)certificate"):
            ServerClient(serving.url).info()
        with pytest.raises(ssl.SSLError), socket.create_connection(_address(serving), 5) as plain:
            ssl.create_default_context().wrap_socket(plain, server_hostname="127.0.0.1")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"host": "0.0.0.0"}, "not encrypted"),
        ({"host": "::"}, "not encrypted"),
        ({"host": "0.0.0.0", "mode": Mode.DEVELOPMENT, "allows_plain_http": True}, "simulated"),
        ({"host": "localhost"}, "wanted an address"),
        ({"tls_certificate": "a.pem"}, "both"),
        ({"simulated_root": SimulatedRoot(path="root.pem", sha256="00" * 32)}, "wanted development"),
    ],
)
def test_what_must_not_be_exposed_is_refused_before_the_port_is_open(tmp_path, options, told):
    with pytest.raises(UsageError, match=told):
        open_listener(ServerOptions(data_dir=str(tmp_path), port=0, **options))


def test_an_inherited_socket_is_held_to_the_same_rule(tmp_path):
    with (
        socket.create_server(("0.0.0.0", 0)) as open_to_all,
        pytest.raises(UsageError, match="not encrypted"),
    ):
        open_listener(ServerOptions(data_dir=str(tmp_path), listen_fd=os.dup(open_to_all.fileno())))


@pytest.mark.parametrize(
    "options",
    [
        {"host": "127.0.0.1"},
        {"host": "::1"},
        {"host": "127.0.0.1", "mode": Mode.DEVELOPMENT},
        {"host": "0.0.0.0", "allows_plain_http": True},
        {
            "host": "0.0.0.0",
            "allows_plain_http": True,
            "mode": Mode.DEVELOPMENT,
            "accepts_simulated_from_network": True,
        },
    ],
)
def test_what_is_safe_or_was_asked_for_by_name_is_served(tmp_path, options):
    options = ServerOptions(data_dir=str(tmp_path), port=0, **options)
    with open_listener(options) as listener:
        assert describe_url(options, listener).startswith("http://")


def test_a_log_that_is_full_is_moved_aside_and_no_server_writes_without_end(tmp_path):
    path = tmp_path / "server.log"
    logs = [EventLog(str(path), limit=2000) for _ in range(2)]

    for number in range(300):
        logs[number % 2].note({"event": "attest", "number": number})

    sizes = {file.name: file.stat().st_size for file in tmp_path.iterdir()}
    assert set(sizes) == {"server.log", "server.log.1", "server.log.lock"}
    assert max(sizes.values()) < 2000 + 2 * 50
    numbers = [
        json.loads(line)["number"]
        for file in (tmp_path / "server.log.1", path)
        for line in file.read_text().splitlines()
    ]
    assert sorted(numbers) == list(range(min(numbers), 300))
    assert path.stat().st_mode & 0o777 == 0o600


def test_events_are_not_lost_when_threads_fill_the_log(tmp_path):
    log = EventLog(str(tmp_path / "server.log"), limit=20_000)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: log.note({"number": number}), range(1500)))

    kept = (tmp_path / "server.log.1").read_text() + (tmp_path / "server.log").read_text()
    assert sorted(json.loads(line)["number"] for line in kept.splitlines()) == list(range(1500))


def test_a_log_that_cannot_be_opened_is_an_error_by_name(tmp_path):
    with pytest.raises(HostError, match="cannot open the log"):
        EventLog(str(tmp_path / "missing" / "server.log"))


def test_a_simulated_root_is_trusted_only_with_its_digest(tmp_path):
    path = tmp_path / "root.der"
    path.write_bytes(b"a certificate")
    digest = hashlib.sha256(b"a certificate").hexdigest()
    assert load_simulated_root(SimulatedRoot(path=str(path), sha256=digest)) == b"a certificate"

    path.write_bytes(b"b certificate")

    with pytest.raises(FormatError, match=f"wanted {digest}"):
        load_simulated_root(SimulatedRoot(path=str(path), sha256=digest))


def test_a_port_that_is_taken_is_said(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(HostError, match="in use"):
        open_listener(ServerOptions(data_dir=str(tmp_path), port=taken.getsockname()[1]))


def _make_certificate(directory):
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "krunpy test")])
    now = datetime.now(tz=UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    (directory / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (directory / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return str(directory / "cert.pem"), str(directory / "key.pem")
