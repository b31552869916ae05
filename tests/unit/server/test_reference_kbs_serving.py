"""The reference-kbs dialect in a real server process, its socket, its store, and any bytes at its door."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import stat

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from krunpy.core.errors import FormatError, HostError, UsageError
from krunpy.server.listening import ServerOptions, open_listener, open_socket
from krunpy.server.mode import Mode
from krunpy.server.reference_kbs import KBS_ROUTES
from krunpy.server.reference_kbs_messages import (
    parse_auth,
    parse_evidence_body,
    parse_kbs_registration,
    take_session,
)
from tests.fakes.broker import make_server
from tests.fakes.libkrun_guest import ERRMSG, PASSPHRASE, LibkrunGuest, make_kbs_registration
from tests.fakes.serving import serve

MEMBERS = (
    "workload_id", "extra-params", "tee", "version", "tee-pubkey", "alg", "k-mod", "k-exp", "tee-evidence", "gen",
    "report", "cert_chain", "launch_measurement", "passphrase", "tee_config", "flags", "bits", "minfw",
)  # fmt: skip
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=20)
    | st.sampled_from(("snp", "RSA", "AQAB", "[]")),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(MEMBERS), inner) | inner.map(json.dumps)
    ),
    max_leaves=12,
)
BODIES = st.binary(max_size=200) | VALUES.map(lambda value: json.dumps(value).encode())


def _ask(address, method, path, body=b""):
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    with socket.socket(family) as connection:
        connection.settimeout(10)
        connection.connect(address)
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        connection.sendall(head.encode() + body)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_a_server_process_registers_at_its_socket_and_has_the_dialect_at_its_port(tmp_path):
    path = str(tmp_path / "kbs.sock")
    body = json.dumps(make_kbs_registration()).encode()
    options = {"serves_reference_kbs": True, "reference_kbs_socket": path}
    with serve(str(tmp_path / "store"), **options) as serving:
        port = ("127.0.0.1", int(serving.url.rpartition(":")[2]))
        status = os.lstat(path)
        answers = [
            _ask(path, "POST", "/kbs/v0/register_workload", body),
            _ask(path, "GET", "/v1/info"),
            _ask(port, "POST", "/kbs/v0/register_workload", body),
            _ask(port, "GET", "/kbs/v0/"),
        ]
        serving.process.terminate()
        assert serving.process.wait(10) == 0

    assert [answer.split()[1] for answer in answers] == [b"200", b"404", b"404", b"401"]
    assert stat.S_ISSOCK(status.st_mode)
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert not os.path.lexists(path)
    log = (tmp_path / "store.log").read_text()
    assert "the reference-kbs dialect is on" in log
    assert PASSPHRASE not in log


def test_a_socket_that_a_killed_server_left_is_replaced(tmp_path):
    path = str(tmp_path / "kbs.sock")
    open_socket(path).close()

    with open_socket(path), pytest.raises(HostError, match="another server listens there"):
        open_socket(path)


def test_what_is_no_socket_is_not_replaced(tmp_path):
    path = tmp_path / "kbs.sock"
    path.write_text("mine")

    with pytest.raises(HostError, match="no socket"):
        open_socket(str(path))
    with pytest.raises(HostError, match="cannot listen at"):
        open_socket(str(tmp_path / "missing" / "kbs.sock"))

    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"mode": Mode.DEVELOPMENT, "serves_reference_kbs": True}, "has no form in it"),
        ({"reference_kbs_socket": "/nowhere"}, "the reference-kbs dialect is off"),
    ],
)
def test_options_that_do_not_go_together_are_refused_before_the_port_is_open(tmp_path, options, why):
    with pytest.raises(UsageError, match=why):
        open_listener(ServerOptions(data_dir=str(tmp_path), port=0, **options))


def test_a_store_that_knew_no_dialect_is_brought_up_to_date(tmp_path, libkrun):
    libkrun.server.fake.broker.database.close()
    path = tmp_path / "store" / "store.sqlite3"
    with sqlite3.connect(path) as connection:
        connection.executescript("DROP TABLE invitations; DROP TABLE answers; PRAGMA user_version=3")

    server = make_server(str(tmp_path / "store"), mode=Mode.PRODUCTION)

    assert server.admin("GET", "/v1/workloads/web").json["status"] == "active"
    with server.broker.database.look() as connection:
        assert connection.execute("SELECT count(*) FROM invitations").fetchone()[0] == 0


def test_a_server_that_accepts_simulations_does_not_open_a_store_with_such_a_passphrase(tmp_path, libkrun):
    libkrun.server.fake.broker.database.close()

    with pytest.raises(HostError, match='"web", which was registered for hardware only'):
        make_server(str(tmp_path / "store"))


@given(BODIES)
def test_any_body_is_read_or_refused_as_one(body):
    for parse in (parse_auth, parse_evidence_body, parse_kbs_registration):
        try:
            parse(body)
        except FormatError:
            pass


@given(st.lists(st.text(max_size=100), max_size=3))
def test_any_cookie_is_read_or_refused_as_one(cookies):
    try:
        take_session(tuple(f"session_id={text}" for text in cookies))
    except FormatError:
        pass


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(BODIES, st.text(max_size=60), st.sampled_from(KBS_ROUTES))
def test_any_request_gets_one_answer_that_the_clients_buffer_holds(libkrun, body, cookie, route):
    method, path, _ = route
    token = libkrun.prefix.removeprefix("/r/")
    cookies = (f"session_id={cookie}".encode("ascii", "replace").decode(),)

    reply = libkrun.server.call(method, path.format(token=token, id="web"), body, cookies=cookies)

    assert reply.status in {200, 400, 401, 403, 409}
    assert len(reply.raw) < ERRMSG
    assert reply.headers["content-length"] == str(len(reply.raw))
    assert PASSPHRASE not in reply.raw.decode()
    assert reply.status != 200 or path.endswith("/auth")


def test_servers_of_one_store_take_turns_in_one_guests_boot(tmp_path, libkrun):
    from tests.fakes.libkrun_guest import make_kbs_server

    other = make_kbs_server(str(tmp_path / "store"))
    guest = LibkrunGuest(libkrun.server)
    guest.auth()
    guest.server = other
    assert guest.attest().raw == b""
    guest.server = libkrun.server

    assert guest.decrypt(guest.fetch()) == PASSPHRASE
    other.fake.broker.database.close()
