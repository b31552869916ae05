# ruff: noqa: ARG001 - fixtures that are asked for their effect
from __future__ import annotations

import base64
import threading
from datetime import UTC, datetime

import pytest

from krunpy.core.octets import PublicKey32
from krunpy.formats.frames import FailReason
from krunpy.formats.snp_report import GuestPolicy
from krunpy.server.broker import Mode
from krunpy.server.refusals import MESSAGES, Refusal
from krunpy.tee.software import DEFAULT_POLICY, Faults
from tests.fakes.broker import DISK_KEY, OTHER_DISK_KEY, make_attest_body, make_authority, make_server
from tests.fakes.guest import FakeGuest, GuestRefusesError, launch


def _refused(reply, refusal):
    assert reply.status == 403, reply.raw
    assert reply.json["error"] == refusal.value
    assert reply.json["message"] == MESSAGES[refusal]
    assert len(reply.raw) < 200
    assert "sealed" not in reply.json


def _open(guest, nonce, reply):
    document = reply.json
    return guest.open_release(
        nonce, base64.b64decode(document["signature"]), base64.b64decode(document["sealed"])
    )


def _evidence(server, guest, nonce, **keywords):
    tee, _ = launch(server.authority, guest.manifest, **keywords)
    return tee.report(guest.make_report_data(nonce))


def test_an_honest_guest_gets_its_disk_key_and_the_record_shows_every_check(server, web):
    session, nonce = server.challenge(web)

    reply = server.attest(web, session, _evidence(server, web, nonce))

    assert reply.status == 200
    assert _open(web, nonce, reply) == [(1, DISK_KEY)]
    assert reply.json["simulated"] is True
    assert reply.headers["x-krunpy-simulated"] == "true"
    record = server.last_record()
    assert record["id"] == reply.json["attestation"]
    assert (record["outcome"], record["workload"], record["simulated"]) == ("released", "web", True)
    assert record["verdict"]["trusted"] is True
    assert record["verdict"]["heading"].startswith("SIMULATED - NOT CONFIDENTIAL")
    assert {"report-data", "measurement", "policy-debug", "vmpl"} <= {
        check["name"] for check in record["verdict"]["checks"]
    }
    assert record["reference_values"][0]["inputs"] == {"cpus": 1, "cmdline": "quiet"}
    assert record["launch_digest"] == record["reference_values"][0]["launch_digest"]


def test_a_workload_without_a_key_is_released_an_empty_item_list(server):
    manifest = server.make_manifest(workload="plain", cipher="none")
    assert server.register(manifest, disk_key=b"").status == 201
    guest = FakeGuest(manifest)
    session, nonce = server.challenge(guest)

    reply = server.attest(guest, session, _evidence(server, guest, nonce))

    assert _open(guest, nonce, reply) == []


def test_a_guest_of_one_workload_cannot_name_another(server, web):
    other = FakeGuest(server.make_manifest(workload="db"), key=web.key)
    assert server.register(other.manifest, disk_key=OTHER_DISK_KEY).status == 201
    session, nonce = server.challenge(other)
    tee, _ = launch(server.authority, web.manifest)  # what runs is web

    reply = server.attest(other, session, tee.report(other.make_report_data(nonce)))

    _refused(reply, Refusal.LAUNCH_DIGEST_UNKNOWN)
    record = server.last_record()
    assert record["workload"] == "db"
    (failed,) = [check for check in record["verdict"]["checks"] if not check["held"]]
    assert failed["seen"] == record["launch_digest"] != record["reference_values"][0]["launch_digest"]


def test_a_session_for_one_manifest_does_not_serve_another(server, web):
    other = FakeGuest(server.make_manifest(workload="db"), key=web.key)
    assert server.register(other.manifest, disk_key=OTHER_DISK_KEY).status == 201
    session, nonce = server.challenge(web)

    reply = server.attest(other, session, _evidence(server, other, nonce))

    _refused(reply, Refusal.MANIFEST_MISMATCH)


def test_a_nonce_serves_once_even_for_the_same_guest(server, web):
    session, nonce = server.challenge(web)
    evidence = _evidence(server, web, nonce)
    assert server.attest(web, session, evidence).status == 200

    _refused(server.attest(web, session, evidence), Refusal.SESSION_USED)


def test_a_nonce_is_used_up_by_an_attempt_that_failed(server, web):
    session, nonce = server.challenge(web)
    _refused(server.attest(web, session, b"\0" * 8), Refusal.EVIDENCE_MALFORMED)

    _refused(server.attest(web, session, _evidence(server, web, nonce)), Refusal.SESSION_USED)


def test_evidence_over_an_old_nonce_is_refused_in_a_new_session(server, web):
    _, old_nonce = server.challenge(web)
    session, _ = server.challenge(web)

    _refused(server.attest(web, session, _evidence(server, web, old_nonce)), Refusal.REPORT_DATA_MISMATCH)


def test_a_nonce_expires(server, web):
    session, nonce = server.challenge(web)
    evidence = _evidence(server, web, nonce)
    server.clock.now_s += 301

    _refused(server.attest(web, session, evidence), Refusal.SESSION_EXPIRED)

    server.clock.now_s += 301
    server.challenge(web)  # sweeps
    _refused(server.attest(web, session, evidence), Refusal.SESSION_UNKNOWN)


def test_the_nonce_is_not_the_session(server, web):
    session, nonce = server.challenge(web)

    assert session != nonce.hex()
    _refused(server.attest(web, nonce.hex(), _evidence(server, web, nonce)), Refusal.SESSION_UNKNOWN)


def test_another_guest_key_than_the_attested_one_is_refused(server, web):
    session, nonce = server.challenge(web)
    thief = FakeGuest(web.manifest)

    _refused(server.attest(thief, session, _evidence(server, web, nonce)), Refusal.REPORT_DATA_MISMATCH)


@pytest.mark.parametrize(
    "key",
    [
        bytes(32),
        b"\1" + bytes(31),
        bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
        bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
        bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    ],
)
def test_a_guest_key_of_low_order_is_refused(server, web, key):
    session, nonce = server.challenge(web)
    body = make_attest_body(web, session, _evidence(server, web, nonce), guest_public_key=key.hex())

    _refused(server.call("POST", "/v1/attest", body), Refusal.GUEST_KEY_BAD)


@pytest.mark.parametrize(
    ("faults", "policy"),
    [(Faults(debug_policy=True), DEFAULT_POLICY), (None, DEFAULT_POLICY | GuestPolicy.MIGRATE_MA)],
)
def test_a_guest_that_the_host_may_read_or_move_is_refused(server, web, faults, policy):
    session, nonce = server.challenge(web)

    _refused(
        server.attest(web, session, _evidence(server, web, nonce, faults=faults, policy=policy)),
        Refusal.POLICY_REFUSED,
    )


def test_a_report_of_another_privilege_level_is_refused(server, web):
    session, nonce = server.challenge(web)
    tee, _ = launch(server.authority, web.manifest)

    _refused(
        server.attest(web, session, tee.report(web.make_report_data(nonce), vmpl=1)), Refusal.POLICY_REFUSED
    )


def test_the_policy_of_a_registration_is_appraised(server):
    manifest = server.make_manifest()
    assert server.register(manifest, policy={"min_tcb": {"snp": 255}}).status == 201

    _refused(server.run_guest(FakeGuest(manifest)), Refusal.POLICY_REFUSED)


def test_no_flipped_bit_of_the_evidence_is_accepted(server, web):
    _, nonce = server.challenge(web)
    good = bytearray(_evidence(server, web, nonce))
    accepted = []
    for offset in [*range(4, 4 + 0x2A0, 29), 4 + 0x2A0, 4 + 0x2A0 + 72, len(good) - 300]:
        session, nonce = server.challenge(web)
        evidence = bytearray(_evidence(server, web, nonce))
        evidence[offset] ^= 1
        if server.attest(web, session, bytes(evidence)).status != 403:
            accepted.append(offset)

    assert accepted == []


def test_evidence_of_another_software_tee_is_refused(server, web):
    stranger = make_authority("two")
    session, nonce = server.challenge(web)
    tee, _ = launch(stranger, web.manifest)

    _refused(
        server.attest(web, session, tee.report(web.make_report_data(nonce))), Refusal.EVIDENCE_NOT_VERIFIED
    )


def test_simulated_evidence_cannot_pass_for_hardware(server):
    manifest = server.make_manifest(tees=("software", "snp"))
    digest = launch(server.authority, manifest)[1].hex()
    values = [{"tee": tee, "launch_digest": digest, "inputs": {}} for tee in ("software", "snp")]
    assert server.register(manifest, reference_values=values).status == 201

    _refused(server.run_guest(FakeGuest(manifest), tee="snp"), Refusal.EVIDENCE_NOT_VERIFIED)


def test_a_launch_digest_counts_only_for_the_tee_it_is_registered_for(server):
    manifest = server.make_manifest(tees=("software", "snp"))
    digest = launch(server.authority, manifest)[1].hex()
    assert (
        server.register(
            manifest, reference_values=[{"tee": "snp", "launch_digest": digest, "inputs": {}}]
        ).status
        == 201
    )

    _refused(server.run_guest(FakeGuest(manifest)), Refusal.LAUNCH_DIGEST_UNKNOWN)


def test_a_tee_that_the_manifest_does_not_name_is_refused(server, web):
    _refused(server.run_guest(web, tee="snp"), Refusal.TEE_NOT_ALLOWED)


def test_a_production_server_never_takes_simulated_evidence(tmp_path):
    development = make_server(str(tmp_path / "store"))
    manifest = development.make_manifest()
    assert development.register(manifest).status == 201
    production = make_server(str(tmp_path / "store"), mode=Mode.PRODUCTION)

    _refused(production.run_guest(FakeGuest(manifest)), Refusal.TEE_NOT_ALLOWED)

    assert production.last_record()["simulated"] is True
    assert production.register(production.make_manifest(workload="new")).status == 400


def test_an_unknown_a_revoked_an_ended_and_an_expired_workload_have_their_own_codes(server):
    unknown = FakeGuest(server.make_manifest(workload="unknown"))
    _refused(server.run_guest(unknown), Refusal.WORKLOAD_UNKNOWN)

    revoked = FakeGuest(server.make_manifest(workload="revoked"))
    server.register(revoked.manifest)
    assert server.admin("POST", "/v1/workloads/revoked/revoke").status == 200
    _refused(server.run_guest(revoked), Refusal.WORKLOAD_REVOKED)

    ended = FakeGuest(server.make_manifest(workload="ended"))
    server.register(ended.manifest, uses=1)
    assert server.run_guest(ended).status == 200
    _refused(server.run_guest(ended), Refusal.WORKLOAD_ENDED)

    expired = FakeGuest(server.make_manifest(workload="expired"))
    server.register(expired.manifest, expires_in_s=60)
    server.clock.now_s += 61
    _refused(server.run_guest(expired), Refusal.WORKLOAD_EXPIRED)
    assert server.last_record()["verdict"]["checks"][-1]["name"] == "workload-expired"


def test_a_release_signed_by_another_server_is_refused_by_the_guest(server, web, tmp_path):
    other = make_server(str(tmp_path / "other"))
    session, nonce = server.challenge(web)
    reply = server.attest(web, session, _evidence(server, web, nonce))
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
    reply = other.attest(impostor, session, _evidence(other, impostor, nonce))

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
    reply = server.attest(web, session, _evidence(server, web, nonce))
    parts = {name: bytearray(base64.b64decode(reply.json[name])) for name in ("signature", "sealed")}
    parts[part][40] ^= 1

    with pytest.raises(GuestRefusesError) as refused:
        web.open_release(nonce, bytes(parts["signature"]), bytes(parts["sealed"]))

    assert refused.value.reason is FailReason[reason]


def test_threads_racing_for_one_session_get_one_release(server, web):
    session, nonce = server.challenge(web)
    evidence = _evidence(server, web, nonce)

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
    evidence = _evidence(server, web, nonce)

    reply = other.attest(web, session, evidence)

    assert _open(web, nonce, reply) == [(1, DISK_KEY)]
    _refused(server.attest(web, session, evidence), Refusal.SESSION_USED)


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
