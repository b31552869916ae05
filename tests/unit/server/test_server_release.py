# ruff: noqa: ARG001 - fixtures that are asked for their effect
from __future__ import annotations

import base64
import threading
from datetime import UTC, datetime

import pytest

from krunpy.core.octets import PublicKey32
from krunpy.formats.frames import FailReason
from krunpy.server.refusals import MESSAGES, Refusal
from tests.fakes.broker import DISK_KEY, make_evidence, make_server, open_reply, require_refused
from tests.fakes.guest import FakeGuest, GuestRefusesError


def test_a_release_signed_by_another_server_is_refused_by_the_guest(server, web, tmp_path):
    other = make_server(str(tmp_path / "other"))
    session, nonce = server.challenge(web)
    reply = server.attest(web, session, make_evidence(server, web, nonce))
    sealed = base64.b64decode(reply.json["sealed"])
    foreign = other.broker.signer.sign(b"krunpy release signature v1" + bytes(32) + sealed)

    with pytest.raises(GuestRefusesError) as refused:
        web.open_release(nonce, foreign, sealed)

    assert refused.value.reason is FailReason.SERVER_SIGNATURE


def test_a_server_does_not_register_a_manifest_of_another_server(server, web, tmp_path):
    other = make_server(str(tmp_path / "other"))

    reply = other.register(web.manifest)

    assert reply.status == 400
    assert "manifest.server.key" in reply.json["message"]


def test_a_server_whose_key_was_swapped_is_refused_by_the_guest(server, web, tmp_path):
    other = make_server(str(tmp_path / "other"))
    impostor = FakeGuest(other.make_manifest())
    assert other.register(impostor.manifest).status == 201
    session, nonce = other.challenge(impostor)
    reply = other.attest(impostor, session, make_evidence(other, impostor, nonce))

    with pytest.raises(GuestRefusesError) as refused:  # the guest boots the true manifest
        FakeGuest(web.manifest, key=impostor.key).open_release(
            nonce, base64.b64decode(reply.json["signature"]), base64.b64decode(reply.json["sealed"])
        )

    assert refused.value.reason is FailReason.SERVER_SIGNATURE


@pytest.mark.parametrize(
    ("part", "reason"), [("signature", "SERVER_SIGNATURE"), ("sealed", "SERVER_SIGNATURE")]
)
def test_a_flipped_bit_of_the_answer_is_refused_by_the_guest(server, web, part, reason):
    session, nonce = server.challenge(web)
    reply = server.attest(web, session, make_evidence(server, web, nonce))
    parts = {name: bytearray(base64.b64decode(reply.json[name])) for name in ("signature", "sealed")}
    parts[part][40] ^= 1

    with pytest.raises(GuestRefusesError) as refused:
        web.open_release(nonce, bytes(parts["signature"]), bytes(parts["sealed"]))

    assert refused.value.reason is FailReason[reason]


def test_threads_racing_for_one_session_get_one_release(server, web):
    session, nonce = server.challenge(web)
    evidence = make_evidence(server, web, nonce)

    replies = _race(lambda: server.attest(web, session, evidence), 16)

    assert sorted(reply.status for reply in replies) == [200] + [403] * 15
    assert {reply.json["error"] for reply in replies if reply.status == 403} == {"session-used"}


def test_servers_sharing_a_store_give_out_one_use_once(server, tmp_path):
    manifest = server.make_manifest()
    server.register(manifest, uses=3)
    others = [make_server(str(tmp_path / "store"), clock=server.clock) for _ in range(2)]
    servers = [server, *others] * 4

    replies = _race(lambda: servers.pop().run_guest(FakeGuest(manifest)), 12)

    codes = sorted(reply.json.get("error", "released") for reply in replies)
    assert codes == ["released"] * 3 + ["workload-ended"] * 9
    assert server.admin("GET", "/v1/workloads/web").json["status"] == "ended"


def test_a_challenge_of_one_server_serves_another_one_of_the_same_store(server, web, tmp_path):
    other = make_server(str(tmp_path / "store"))
    session, nonce = server.challenge(web)
    evidence = make_evidence(server, web, nonce)

    reply = other.attest(web, session, evidence)

    assert open_reply(web, nonce, reply) == [(1, DISK_KEY)]
    require_refused(server.attest(web, session, evidence), Refusal.SESSION_USED)


def test_the_record_says_when_and_from_where(server, web):
    server.run_guest(web)

    record = server.last_record()

    assert record["remote"] == "192.0.2.7"
    assert datetime.fromisoformat(record["time"]) == datetime.fromtimestamp(
        server.clock.now_s, tz=UTC
    ).replace(microsecond=int(server.clock.now_s * 1000) % 1000 * 1000)
    assert record["guest_public_key"] == PublicKey32(web.public_key).hex()
    assert record["timings_us"]["total"] > 0


def test_every_refusal_is_short_enough_for_the_guest():
    for refusal in Refusal:
        document = f'{{"attestation":"{"0" * 26}","error":"{refusal.value}","message":"{MESSAGES[refusal]}"}}'
        assert len(document) < 200, refusal


def _race(action, count):
    barrier, replies = threading.Barrier(count), []

    def run():
        barrier.wait()
        replies.append(action())

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return replies
