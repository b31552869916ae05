from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time

import pytest

from krunpy.client.exchange import MAX_RESPONSE, Request
from krunpy.client.server import RefusedError, Registration, ServerClient, ServerStateError
from krunpy.core.errors import BrokerError, EvidenceError, UsageError
from krunpy.core.octets import Digest32, Nonce, PublicKey32, Secret
from tests.fakes.broker import DISK_KEY, make_authority, make_registration
from tests.fakes.guest import FakeGuest, launch, make_manifest
from tests.fakes.serving import serve


@contextlib.contextmanager
def answering(answer, *, stays_open=False):
    """A server that reads a request and sends these bytes."""
    listener = socket.create_server(("127.0.0.1", 0))
    requests = []

    def run():
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(10)
                request = b""
                while b"\r\n\r\n" not in request:
                    request += connection.recv(65536)
                requests.append(request)
                for part in answer if isinstance(answer, list) else [answer]:
                    connection.sendall(part)
                    time.sleep(0.03 if isinstance(answer, list) else 0)
                if stays_open:
                    connection.recv(1)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", requests
    finally:
        listener.close()
        thread.join()


def _http(body, *, status="200 OK", headers=()):
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


@pytest.fixture
def development(tmp_path):
    authority = make_authority()
    (tmp_path / "root.der").write_bytes(authority.root)
    with serve(
        str(tmp_path / "store"), mode="development", simulated_root=str(tmp_path / "root.der")
    ) as serving:
        token = Secret((tmp_path / "store" / "admin.token").read_bytes())
        yield ServerClient(serving.url, token=token), authority


def _register(client, authority, manifest, **changes):
    body = make_registration(authority, manifest)
    return client.register(
        "web",
        Registration(
            manifest=manifest,
            disk_key=Secret(DISK_KEY),
            reference_values=tuple(body["reference_values"]),
            **changes,
        ),
    )


def _attest(client, guest, session):
    return client.attest(
        session=session,
        tee="software",
        guest_key=guest.public_key,
        manifest_hash=guest.manifest_hash,
        evidence=b"x",
    )


def test_the_whole_way_from_registration_to_release_over_loopback(development):
    client, authority = development
    info = client.info()
    guest = FakeGuest(make_manifest(info.key))
    assert _register(client, authority, guest.manifest, uses=1)["status"] == "active"
    challenge = client.challenge(guest.manifest_hash)
    tee, _ = launch(authority, guest.manifest)

    released = client.attest(
        session=challenge.session,
        tee="software",
        guest_key=guest.public_key,
        manifest_hash=guest.manifest_hash,
        evidence=tee.report(guest.make_report_data(challenge.nonce)),
    )

    assert guest.open_release(challenge.nonce, released.signature, released.sealed) == [(1, DISK_KEY)]
    assert released.simulated is True
    assert info.mode == "development"
    assert client.show_attestation()["id"] == released.attestation
    assert client.show_attestation(workload="web")["outcome"] == "released"
    assert [item["id"] for item in client.list_attestations(workload="web")] == [released.attestation]
    assert [item["status"] for item in client.list_workloads()] == ["ended"]
    assert client.show_workload("web")["released"] == 1
    assert client.revoke("web")["status"] == "revoked"
    with pytest.raises(BrokerError, match="restore"):
        _register(client, authority, guest.manifest)
    assert _register(client, authority, guest.manifest, restores=True)["status"] == "active"


def test_a_refusal_is_an_evidence_error_with_the_id_of_its_record(development):
    client, _ = development
    guest = FakeGuest(make_manifest(client.info().key))

    with pytest.raises(RefusedError) as refused:
        _attest(client, guest, client.challenge(guest.manifest_hash).session)

    assert isinstance(refused.value, EvidenceError)
    assert refused.value.code == "workload-unknown"
    assert client.show_attestation(refused.value.attestation)["error"] == "workload-unknown"
    assert refused.value.attestation in refused.value.next


def test_a_refusal_without_a_record_is_an_evidence_error_as_well(development):
    client, _ = development

    with pytest.raises(RefusedError, match="session-unknown, no record was kept") as refused:
        _attest(client, FakeGuest(make_manifest(client.info().key)), "00" * 32)

    assert refused.value.exit_code == 3
    assert "explain" not in refused.value.next


def test_a_wrong_token_says_what_to_do(development):
    client, _ = development
    stranger = ServerClient(str(client._target), token=Secret(b"wrong"))

    with pytest.raises(BrokerError) as failure:
        stranger.list_workloads()

    assert "admin.token" in failure.value.next


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.show_workload("none"),
        lambda client: client.show_attestation("0" * 26),
        lambda client: client.revoke("none"),
    ],
)
def test_what_is_not_there_is_no_failure_to_reach_the_server(development, ask):
    client, _ = development

    with pytest.raises(ServerStateError, match="there is no") as failure:
        ask(client)

    assert failure.value.exit_code == 1


def test_a_conflict_with_what_is_stored_is_no_failure_to_reach_the_server(development):
    client, authority = development
    info = client.info()
    _register(client, authority, make_manifest(info.key))

    with pytest.raises(ServerStateError, match="active with manifest") as failure:
        _register(client, authority, make_manifest(info.key, args=("other",)))

    assert failure.value.exit_code == 1


def test_a_server_without_that_path_is_not_a_krunpy_server():
    body = json.dumps({"error": "no-such-path", "message": "there is no such path"}).encode()

    with answering(_http(body, status="404 No")) as (url, _), pytest.raises(BrokerError) as failure:
        ServerClient(url).info()

    assert failure.value.exit_code == 5


def test_a_server_that_is_not_there_is_a_broker_error_with_a_next_step():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

    with pytest.raises(BrokerError, match="refused") as failure:
        ServerClient(f"http://127.0.0.1:{port}").info()

    assert f"127.0.0.1:{port}" in failure.value.what
    assert "krunpy server run" in failure.value.next


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"", "before it answered"),
        (b"SSH-2.0-OpenSSH\r\n", "no HTTP response"),
        (b"nonsense\r\n\r\n", "not HTTP"),
        (_http(b"<html>"), "not JSON"),
        (_http(b"[]"), "not an object"),
        (_http(b"[" * 100_000), "not JSON"),
        (_http(b"{}"), '"key" is missing'),
        (_http(b'{"key":1,"mode":"production","version":"1"}'), "wanted a string"),
        (_http(b'{"key":"00","mode":"production","version":"1"}'), "32 bytes"),
        (_http(b"{}", status="302 Found", headers=["Location: http://127.0.0.1:1/"]), "status 302"),
        (_http(b'{"error":"x\\u001b[31m","message":"y"}', status="500 No"), r"x\?\[31m: y"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{}", "cut off"),
        (f"HTTP/1.1 200 OK\r\nContent-Length: {MAX_RESPONSE + 1}\r\n\r\n".encode(), "over 1048576 bytes"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"a" * (MAX_RESPONSE + 1), "over 1048576 bytes"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 40_000, "headers are over"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}", "malformed"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n{}", "encoding"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "chunks"),
    ],
)
def test_nonsense_is_a_broker_error_that_says_what_is_wrong(answer, told):
    with answering(answer) as (url, _), pytest.raises(BrokerError, match=told) as failure:
        ServerClient(url).info()

    assert "\x1b" not in str(failure.value)


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({"attestation": "A", "signature": "AA==", "sealed": "AA==", "simulated": False}, "wrong length"),
        ({"attestation": "A", "signature": "!", "sealed": "AA==", "simulated": False}, "base64"),
        ({"attestation": "A", "signature": "AA==", "sealed": "AA==", "simulated": 0}, "true or false"),
        ({"attestation": 1, "signature": "AA==", "sealed": "AA==", "simulated": True}, "a string"),
    ],
)
def test_a_release_of_wrong_types_is_a_broker_error(document, told):
    with answering(_http(json.dumps(document).encode())) as (url, _), pytest.raises(BrokerError, match=told):
        ServerClient(url).attest(
            session="00" * 32,
            tee="snp",
            guest_key=PublicKey32(bytes(32)),
            manifest_hash=Digest32(bytes(32)),
            evidence=b"",
        )


def test_a_chunked_answer_in_pieces_is_read():
    body = json.dumps({"session": "01" * 32, "nonce": "02" * 32, "expires_in_s": 300}).encode()
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    pieces = [
        head[:20],
        head[20:],
        b"5\r\n" + body[:5] + b"\r",
        b"\n%x;x=y\r\n" % (len(body) - 5) + body[5:] + b"\r\n",
        b"0\r\n\r\n",
    ]

    with answering(pieces, stays_open=True) as (url, _):
        challenge = ServerClient(url).challenge(Digest32(bytes(32)))

    assert challenge.nonce == Nonce(b"\2" * 32)


def test_a_server_that_drips_is_given_up_after_the_whole_time():
    drops = [b"HTTP/1.1 200 OK\r\n", *[b"X-%d: a\r\n" % number for number in range(60)]]
    begin = time.monotonic()

    with answering(drops) as (url, _):
        with pytest.raises(BrokerError, match="no answer within"):
            ServerClient(url, timeout_s=0.3).info()
        span = time.monotonic() - begin

    assert span < 1.5


def test_a_token_does_not_travel_without_need():
    with answering(_http(b"{}")) as (url, requests), contextlib.suppress(BrokerError):
        ServerClient(url, token=Secret(b"tokentoken")).info()

    assert b"tokentoken" not in requests[0]


def test_a_disk_key_or_token_does_not_travel_over_plain_http_to_another_machine():
    client = ServerClient("http://192.0.2.1:8181", token=Secret(b"t"))
    registration = Registration(manifest=b"", disk_key=Secret(DISK_KEY), reference_values=())

    for call in (
        lambda: client.register("web", registration),
        client.list_workloads,
        lambda: client.revoke("web"),
    ):
        with pytest.raises(UsageError, match="plain http"):
            call()


@pytest.mark.parametrize("name", ["", "..", "a/b", "a?b", "a b", "ü", "a\r\nb", "a" * 70])
def test_a_name_that_is_no_name_is_not_put_into_a_path(name):
    with pytest.raises(UsageError):
        ServerClient("http://127.0.0.1:1").show_workload(name)


def test_a_chunk_header_without_an_end_does_not_fill_the_memory():
    endless = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"a" * (4 * MAX_RESPONSE)

    with answering(endless) as (url, _), pytest.raises(BrokerError, match="over 1048576 bytes"):
        ServerClient(url).info()


def test_secrets_are_in_no_repr():
    token = Secret(b"tokentoken")
    registration = Registration(manifest=b"", disk_key=Secret(DISK_KEY), reference_values=())

    shown = repr(
        [
            ServerClient("http://x", token=token),
            Request(method="PUT", path="/", token="tokentoken", body=DISK_KEY),
            registration,
        ]
    )

    assert "tokentoken" not in shown
    assert repr(DISK_KEY)[2:-1] not in shown


@pytest.mark.parametrize("name", ["server", "relay"])
def test_importing_it_loads_neither_tls_nor_the_servers_libraries(name):
    program = f"import sys, krunpy.client.{name}; print(*sorted(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()

    assert not {
        "ssl",
        "http.client",
        "cryptography",
        "starlette",
        "uvicorn",
        "sqlite3",
        "asyncio",
        "email",
    } & set(loaded)


def test_a_host_name_that_is_too_long_is_one_error():
    with pytest.raises(BrokerError):
        ServerClient("http://" + "a" * 70 + ".example:1", timeout_s=2).info()
