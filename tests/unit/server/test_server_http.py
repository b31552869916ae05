# ruff: noqa: ARG001 - fixtures that are asked for their effect
from __future__ import annotations

import json
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from krunpy.server.app import ROUTES, AppLimits, make_app
from krunpy.server.http import MAX_BODY
from krunpy.server.throttle import MAX_ADDRESSES, WINDOW_S, WRONG_TOKENS, Throttle, ThrottleLimits
from krunpy.server.tokens import Role, add_token, make_token
from tests.fakes.broker import call_app
from tests.fakes.guest import FakeGuest

GUARDED = [
    (method, path.replace("{id}", "web"), role) for method, path, role, _ in ROUTES if role is not None
]


def test_the_server_says_who_it_is(server):
    reply = server.call("GET", "/v1/info")

    assert reply.json["key"] == server.broker.signer.public_key.hex()
    assert reply.json["mode"] == "development"
    assert reply.headers["x-krunpy-simulated"] == "true"
    assert server.call("GET", "/healthz").json == {"status": "ok"}
    assert server.call("GET", "/readyz").json == {"status": "ready"}


def test_only_what_a_guest_needs_is_open_without_a_token():
    assert [path for _, path, role, _ in ROUTES if role is None] == [
        "/healthz", "/readyz", "/v1/info", "/v1/challenge", "/v1/attest",
    ]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "role"), GUARDED)
@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"Bearer",
        b"Bearer ",
        b"Bearer " + b"0" * 64,
        b"Basic x",
        b"Bearer \xff\xfe",
        b"Bearer " + b"a" * 9000,
    ],
)
def test_a_wrong_token_opens_nothing(server, web, method, path, role, value):
    headers = [] if value is None else [(b"authorization", value)]

    reply = call_app(server.app, method, path, b"{}", headers=headers)

    assert (reply.status, reply.json["error"]) == (401, "unauthorized")
    assert reply.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(("method", "path", "role"), GUARDED)
def test_a_reader_may_only_read_and_a_registrar_may_register(server, web, method, path, role):
    answers = {}
    for mine in (Role.READER, Role.REGISTRAR):
        token = make_token()
        with server.broker.database.change() as connection:
            add_token(connection, token, mine, now_s=int(server.clock()), expires_at=0)
        answers[mine] = server.call(method, path, {}, token=token.reveal().decode()).status

    assert (answers[Role.READER] == 403) is (role is Role.REGISTRAR)
    assert answers[Role.REGISTRAR] != 403


def test_wrong_tokens_are_throttled_and_the_right_one_still_passes(server):
    statuses = [
        server.call("GET", "/v1/workloads", token="wrong").status for _ in range(WRONG_TOKENS.of_address + 3)
    ]

    assert statuses == [401] * WRONG_TOKENS.of_address + [429] * 3
    assert server.admin("GET", "/v1/workloads").status == 200
    assert len([note for note in server.notes if note["event"] == "token-refused"]) == WRONG_TOKENS.of_address
    server.clock.now_s += WINDOW_S
    assert server.call("GET", "/v1/workloads", token="wrong").status == 401


def test_the_table_of_failures_is_bounded():
    throttle = Throttle(lambda: 0.0, WRONG_TOKENS)

    for number in range(MAX_ADDRESSES * 2):
        throttle.count_failure(f"192.0.{number // 256}.{number % 256}")

    assert len(throttle._failures) == MAX_ADDRESSES


def test_all_of_an_ipv6_network_counts_as_one_address():
    throttle = Throttle(lambda: 0.0, ThrottleLimits(of_address=2, of_all=1000))

    mine = [throttle.count_failure(f"2001:db8:1:2::{number:x}") for number in range(4)]
    other = throttle.count_failure("2001:db8:1:3::1")

    assert (mine, other) == ([False, False, True, True], False)


def test_an_ipv4_address_counts_as_itself_in_either_spelling():
    throttle = Throttle(lambda: 0.0, ThrottleLimits(of_address=1, of_all=1000))

    assert not throttle.count_failure("::ffff:192.0.2.1")
    assert not throttle.count_failure("::ffff:192.0.2.2")
    assert throttle.count_failure("192.0.2.1")


def test_many_addresses_together_are_over_the_limit_of_all_and_one_loud_one_is_not():
    limits = ThrottleLimits(of_address=2, of_all=10)
    loud, many = Throttle(lambda: 0.0, limits), Throttle(lambda: 0.0, limits)

    for _ in range(100):
        loud.count_failure("192.0.2.1")
    over = [many.count_failure(f"192.0.2.{number}") for number in range(12)]

    assert not loud.count_failure("192.0.2.2")
    assert over == [False] * 10 + [True] * 2


def test_a_declared_body_over_the_limit_is_not_read(server):
    headers = [(b"content-length", str(MAX_BODY + 1).encode())]

    reply = call_app(server.app, "POST", "/v1/attest", headers=headers, chunks=[None])

    assert (reply.status, reply.headers["connection"]) == (413, "close")


def test_an_undeclared_body_is_cut_at_the_limit(server):
    chunks = [b" " * 65536] * 5 + [None]  # the sixth part would never come

    assert call_app(server.app, "POST", "/v1/attest", chunks=chunks).status == 413


def test_a_body_of_the_limit_is_read(server):
    body = b'{"x":"' + b"a" * (MAX_BODY - 8) + b'"}'

    assert call_app(server.app, "POST", "/v1/challenge", body).status == 400


def test_a_body_that_does_not_come_is_given_up(server):
    app = make_app(server.broker, AppLimits(body_s=0.05))
    begin = time.monotonic()

    reply = call_app(app, "POST", "/v1/challenge", chunks=[b'{"manifest', None])

    assert (reply.status, reply.json["error"]) == (408, "too-slow")
    assert time.monotonic() - begin < 2


def test_a_body_is_not_read_before_the_token(server):
    reply = call_app(server.app, "PUT", "/v1/workloads/web", chunks=[None])

    assert reply.status == 401


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404), ("GET", "/v1", 404), ("GET", "/v1/info/", 404),
        ("POST", "/v1/info", 405),
        ("GET", "/v1/challenge", 405), ("DELETE", "/v1/workloads/web", 405),
        ("GET", "/v1/workloads/a/b", 404),
        ("GET", "/v1/workloads/%00", 401), ("HEAD", "/v1/info", 200), ("TRACE", "/v1/info", 405),
    ],
)  # fmt: skip
def test_unknown_paths_and_methods_are_refused(server, method, path, status):
    assert call_app(server.app, method, path).status == status


@pytest.mark.parametrize(
    "path",
    [
        "/v1/workloads?limit=x", "/v1/workloads?limit=-1", "/v1/workloads?limit=99999",
        "/v1/workloads?what=1",
        "/v1/attestations?limit=%D9%A1", "/v1/attestations/last?limit=1", "/v1/workloads/A%20B",
    ],
)  # fmt: skip
def test_a_query_that_cannot_be_read_is_refused(server, path):
    from urllib.parse import unquote

    head, _, query = path.partition("?")
    assert server.admin("GET", unquote(head) + ("?" + query if query else "")).status == 400


def test_strangers_hear_only_a_code_and_those_with_a_token_hear_why(server):
    stranger = server.call("POST", "/v1/challenge", {"manifest_hash": "<script>"})
    known = server.admin("PUT", "/v1/workloads/web", {"manifest": 7})

    assert stranger.json == {"error": "malformed", "message": "the request cannot be read"}
    assert "body.manifest" in known.json["message"]


def test_a_store_that_is_gone_answers_503_without_detail(server):
    guest = FakeGuest(server.make_manifest())
    session, _ = server.challenge(guest)
    server.broker.database.close()

    reply = server.attest(guest, session, b"x")

    assert (reply.status, reply.json["error"]) == (503, "store")
    assert "sqlite" not in reply.raw.decode().lower()
    assert server.notes[-1]["event"] == "failure"
    assert server.call("GET", "/readyz").status == 503
    assert server.call("GET", "/healthz").status == 200


def test_a_record_is_found_by_its_id_as_last_and_by_workload(server, web):
    first = server.run_guest(web).json["attestation"]
    other = FakeGuest(server.make_manifest(workload="db"))
    server.register(other.manifest)
    second = server.run_guest(other).json["attestation"]

    assert server.admin("GET", f"/v1/attestations/{first}").json["workload"] == "web"
    assert server.admin("GET", "/v1/attestations/last").json["id"] == second
    assert server.admin("GET", "/v1/attestations/last?workload=web").json["id"] == first
    listed = server.admin("GET", "/v1/attestations?workload=db").json["attestations"]
    assert [item["id"] for item in listed] == [second]
    assert server.admin("GET", "/v1/attestations/nonsense").status == 404
    assert server.admin("GET", "/v1/attestations/" + "0" * 26).status == 404


_TEXT = st.text(max_size=40) | st.sampled_from(
    [
        "' OR 1=1 --",
        "'; DROP TABLE workloads; --",
        "last",
        "web",
        "../../etc/passwd",
        "%",
        "\0",
        "\ud800",
        "web'||'",
    ]
)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=_TEXT, query=_TEXT, session=_TEXT, tee=_TEXT, evidence=_TEXT)
def test_no_text_gets_through_to_the_store_or_breaks_the_server(
    server, web, name, query, session, tee, evidence
):
    safe = name.encode("utf-8", "replace").decode().replace("?", "")
    quoted = "".join(f"%{byte:02x}" for byte in query.encode("utf-8", "replace"))
    replies = [
        server.admin("GET", f"/v1/workloads/{safe}"),
        server.admin("GET", f"/v1/attestations?workload={quoted}"),
        server.admin("GET", f"/v1/workloads?after={quoted}"),
        server.admin("GET", f"/v1/attestations/{safe}"),
        server.admin("POST", f"/v1/workloads/{safe}x/revoke"),
        server.call("POST", "/v1/challenge", {"manifest_hash": session}),
        server.call("POST", "/v1/attest", {"session": session, "tee": tee, "evidence": evidence}),
    ]

    assert {reply.status for reply in replies} <= {200, 400, 404}
    assert server.admin("GET", "/v1/workloads/web").json["status"] == "active"


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.binary(max_size=200))
def test_any_body_gets_an_answer(server, body):
    for path in ("/v1/challenge", "/v1/attest"):
        reply = call_app(server.app, "POST", path, body)
        assert reply.status == 400
        assert json.loads(reply.raw)["error"] == "malformed"


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(evidence=st.binary(max_size=3000))
def test_any_evidence_is_refused_and_recorded(server, web, evidence):
    server.clock.now_s += WINDOW_S  # so that refusals are recorded, however many
    session, _ = server.challenge(web)

    reply = server.attest(web, session, evidence)

    assert (reply.status, reply.json["error"]) == (403, "evidence-malformed")
    assert server.last_record()["id"] == reply.json["attestation"]
