"""Challenges: what strangers can make the server keep, and that a nonce serves once."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from krunpy.server.broker import BrokerLimits
from krunpy.server.throttle import WINDOW_S, ThrottleLimits
from tests.fakes.broker import make_attest_body, make_evidence, make_server
from tests.fakes.guest import FakeGuest


def test_200_parallel_challenges_are_all_different(server, web):
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: server.challenge(web), range(200)))

    assert len({session for session, _ in answers}) == 200
    assert len({nonce for _, nonce in answers}) == 200


def _count(server, table):
    with server.broker.database.look() as connection:
        return connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


def _changes(server):
    with server.broker.database.look() as connection:
        return connection.total_changes


def test_strangers_who_ask_for_challenges_fill_no_table_and_keep_nobody_out(server, web):
    before = _changes(server)

    for number in range(5000):
        server.broker.challenger.make_session(web.manifest_hash, expires_at=int(server.clock()) + 300)
        if number % 100 == 0:  # and the route does nothing else
            for address in ("192.0.2.1", "2001:db8::1"):
                body = {"manifest_hash": web.manifest_hash.hex()}
                assert server.call("POST", "/v1/challenge", body, client=address).status == 200

    assert _changes(server) == before
    assert server.run_guest(web).status == 200


def test_a_challenge_needs_no_store(server, web):
    server.broker.database.close()

    assert server.challenge(web)


def test_a_session_that_no_server_gave_out_leaves_no_trace(server, web):
    before = _changes(server)

    for session in ("00" * 32, "ff" * 32, os.urandom(32).hex()):
        reply = server.attest(web, session, b"x")
        assert (reply.status, reply.json["error"]) == (403, "session-unknown")
        assert reply.json["attestation"] == ""

    assert _changes(server) == before
    assert [note for note in server.notes if note["event"] == "attest"] == []


def test_refused_attempts_leave_only_so_many_records_and_a_guest_that_is_trusted_still_passes(tmp_path):
    limits = BrokerLimits(refused=ThrottleLimits(of_address=3, of_all=5))
    server = make_server(str(tmp_path / "store"), limits=limits)
    guest = FakeGuest(server.make_manifest())
    server.register(guest.manifest)

    replies = []
    for address in ["192.0.2.1"] * 6 + ["192.0.2.2"] * 6:
        session, _ = server.challenge(guest)
        body = make_attest_body(guest, session, b"\0" * 8)
        replies.append(server.call("POST", "/v1/attest", body, client=address))

    assert {(reply.status, reply.json["error"]) for reply in replies} == {(403, "evidence-malformed")}
    assert [bool(reply.json["attestation"]) for reply in replies] == [True] * 3 + [False] * 3 + [True] * 2 + [
        False
    ] * 4
    assert (_count(server, "attestations"), _count(server, "used_sessions")) == (5, 5)
    assert server.run_guest(guest).status == 200
    server.clock.now_s += WINDOW_S
    assert server.run_guest(guest, tee="snp").json["attestation"]


def test_used_sessions_are_forgotten_well_after_they_expired(server, web):
    for _ in range(3):
        server.run_guest(web)
    server.clock.now_s += 500
    server.run_guest(web)
    kept = _count(server, "used_sessions")
    server.clock.now_s += 101

    server.run_guest(web)

    assert (kept, _count(server, "used_sessions")) == (4, 2)


def test_a_nonce_serves_once_on_all_servers_of_a_store(server, web, tmp_path):
    replica = make_server(str(tmp_path / "store"), clock=server.clock)
    session, nonce = server.challenge(web)
    evidence = make_evidence(server, web, nonce)

    assert replica.attest(web, session, evidence).status == 200
    assert server.attest(web, session, evidence).json["error"] == "session-used"


def test_a_nonce_is_released_to_once_by_servers_that_race(server, web, tmp_path):
    servers = [server, *(make_server(str(tmp_path / "store"), clock=server.clock) for _ in range(3))]
    session, nonce = server.challenge(web)
    evidence = make_evidence(server, web, nonce)

    with ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(lambda one: one.attest(web, session, evidence), servers))

    assert sorted(reply.status for reply in replies) == [200, 403, 403, 403]
    assert {reply.json.get("error") for reply in replies} == {None, "session-used"}


@pytest.mark.parametrize("at", range(32))
def test_a_changed_session_is_none_and_its_nonce_cannot_be_had(server, web, at):
    session, nonce = server.challenge(web)
    changed = bytearray.fromhex(session)
    changed[at] ^= 1

    reply = server.attest(web, changed.hex(), make_evidence(server, web, nonce))

    assert reply.status == 403
    assert reply.json["error"] in {"session-unknown", "manifest-mismatch"}


def test_a_session_of_another_store_is_none(server, web, tmp_path):
    other = make_server(str(tmp_path / "other"))
    session, _ = other.challenge(web)

    assert server.attest(web, session, b"x").json["error"] == "session-unknown"


def test_a_used_session_is_said_before_the_evidence_is_looked_at(server, web):
    session, nonce = server.challenge(web)
    assert server.attest(web, session, make_evidence(server, web, nonce)).status == 200

    assert server.attest(web, session, b"\0" * 8).json["error"] == "session-used"
    assert [check["stage"] for check in server.last_record()["verdict"]["checks"]] == ["server"]
