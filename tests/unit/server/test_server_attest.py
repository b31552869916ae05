from __future__ import annotations

import pytest

from krunpy.core.errors import HostError
from krunpy.formats.snp_report import GuestPolicy
from krunpy.server.mode import Mode
from krunpy.server.refusals import Refusal
from krunpy.tee.software import DEFAULT_POLICY, Faults
from tests.fakes.broker import (
    DISK_KEY,
    OTHER_DISK_KEY,
    make_attest_body,
    make_authority,
    make_evidence,
    make_server,
    open_reply,
    require_refused,
)
from tests.fakes.guest import FakeGuest, launch


def test_an_honest_guest_gets_its_disk_key_and_the_record_shows_every_check(server, web):
    session, nonce = server.challenge(web)

    reply = server.attest(web, session, make_evidence(server, web, nonce))

    assert reply.status == 200
    assert open_reply(web, nonce, reply) == [(1, DISK_KEY)]
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

    reply = server.attest(guest, session, make_evidence(server, guest, nonce))

    assert open_reply(guest, nonce, reply) == []


def test_a_guest_of_one_workload_cannot_name_another(server, web):
    other = FakeGuest(server.make_manifest(workload="db"), key=web.key)
    assert server.register(other.manifest, disk_key=OTHER_DISK_KEY).status == 201
    session, nonce = server.challenge(other)
    tee, _ = launch(server.authority, web.manifest)  # what runs is web

    reply = server.attest(other, session, tee.report(other.make_report_data(nonce)))

    require_refused(reply, Refusal.LAUNCH_DIGEST_UNKNOWN)
    record = server.last_record()
    assert record["workload"] == "db"
    (failed,) = [check for check in record["verdict"]["checks"] if not check["held"]]
    assert failed["seen"] == record["launch_digest"] != record["reference_values"][0]["launch_digest"]


def test_a_session_for_one_manifest_does_not_serve_another(server, web):
    other = FakeGuest(server.make_manifest(workload="db"), key=web.key)
    assert server.register(other.manifest, disk_key=OTHER_DISK_KEY).status == 201
    session, nonce = server.challenge(web)

    reply = server.attest(other, session, make_evidence(server, other, nonce))

    require_refused(reply, Refusal.MANIFEST_MISMATCH)


def test_a_nonce_serves_once_even_for_the_same_guest(server, web):
    session, nonce = server.challenge(web)
    evidence = make_evidence(server, web, nonce)
    assert server.attest(web, session, evidence).status == 200

    require_refused(server.attest(web, session, evidence), Refusal.SESSION_USED)


def test_a_nonce_is_used_up_by_an_attempt_that_failed(server, web):
    session, nonce = server.challenge(web)
    require_refused(server.attest(web, session, b"\0" * 8), Refusal.EVIDENCE_MALFORMED)

    require_refused(server.attest(web, session, make_evidence(server, web, nonce)), Refusal.SESSION_USED)


def test_evidence_over_an_old_nonce_is_refused_in_a_new_session(server, web):
    _, old_nonce = server.challenge(web)
    session, _ = server.challenge(web)

    require_refused(
        server.attest(web, session, make_evidence(server, web, old_nonce)), Refusal.REPORT_DATA_MISMATCH
    )


def test_a_nonce_expires(server, web):
    session, nonce = server.challenge(web)
    evidence = make_evidence(server, web, nonce)
    server.clock.now_s += 301

    require_refused(server.attest(web, session, evidence), Refusal.SESSION_EXPIRED)

    server.clock.now_s += 301
    require_refused(server.attest(web, session, evidence), Refusal.SESSION_EXPIRED)


def test_the_nonce_is_not_the_session(server, web):
    session, nonce = server.challenge(web)

    assert session != nonce.hex()
    require_refused(
        server.attest(web, nonce.hex(), make_evidence(server, web, nonce)), Refusal.SESSION_UNKNOWN
    )


def test_another_guest_key_than_the_attested_one_is_refused(server, web):
    session, nonce = server.challenge(web)
    thief = FakeGuest(web.manifest)

    require_refused(
        server.attest(thief, session, make_evidence(server, web, nonce)), Refusal.REPORT_DATA_MISMATCH
    )


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
    body = make_attest_body(web, session, make_evidence(server, web, nonce), guest_public_key=key.hex())

    require_refused(server.call("POST", "/v1/attest", body), Refusal.GUEST_KEY_BAD)


@pytest.mark.parametrize(
    ("faults", "policy"),
    [(Faults(debug_policy=True), DEFAULT_POLICY), (None, DEFAULT_POLICY | GuestPolicy.MIGRATE_MA)],
)
def test_a_guest_that_the_host_may_read_or_move_is_refused(server, web, faults, policy):
    session, nonce = server.challenge(web)

    require_refused(
        server.attest(web, session, make_evidence(server, web, nonce, faults=faults, policy=policy)),
        Refusal.POLICY_REFUSED,
    )


def test_a_report_of_another_privilege_level_is_refused(server, web):
    session, nonce = server.challenge(web)
    tee, _ = launch(server.authority, web.manifest)

    require_refused(
        server.attest(web, session, tee.report(web.make_report_data(nonce), vmpl=1)), Refusal.POLICY_REFUSED
    )


def test_the_policy_of_a_registration_is_appraised(server):
    manifest = server.make_manifest()
    assert server.register(manifest, policy={"min_tcb": {"snp": 255}}).status == 201

    require_refused(server.run_guest(FakeGuest(manifest)), Refusal.POLICY_REFUSED)


def test_a_run_that_registers_without_a_policy_does_not_loosen_the_one_there_is(server):
    manifest = server.make_manifest()
    server.register(manifest, policy={"min_tcb": {"snp": 255}})

    assert server.register(manifest, uses=1).json["policy"] == {"min_tcb": {"snp": 255}}
    require_refused(server.run_guest(FakeGuest(manifest)), Refusal.POLICY_REFUSED)
    assert server.register(manifest, policy={"min_tcb": {"snp": 0}}).status == 200
    assert server.run_guest(FakeGuest(manifest)).status == 200


def test_no_flipped_bit_of_the_evidence_is_accepted(server, web):
    _, nonce = server.challenge(web)
    good = bytearray(make_evidence(server, web, nonce))
    accepted = []
    for offset in [*range(4, 4 + 0x2A0, 29), 4 + 0x2A0, 4 + 0x2A0 + 72, len(good) - 300]:
        session, nonce = server.challenge(web)
        evidence = bytearray(make_evidence(server, web, nonce))
        evidence[offset] ^= 1
        if server.attest(web, session, bytes(evidence)).status != 403:
            accepted.append(offset)

    assert accepted == []


def test_evidence_of_another_software_tee_is_refused(server, web):
    stranger = make_authority("two")
    session, nonce = server.challenge(web)
    tee, _ = launch(stranger, web.manifest)

    require_refused(
        server.attest(web, session, tee.report(web.make_report_data(nonce))), Refusal.EVIDENCE_NOT_VERIFIED
    )


def test_simulated_evidence_cannot_pass_for_hardware(server):
    manifest = server.make_manifest(tees=("software", "snp"))
    digest = launch(server.authority, manifest)[1].hex()
    values = [{"tee": tee, "launch_digest": digest, "inputs": {}} for tee in ("software", "snp")]
    assert server.register(manifest, reference_values=values).status == 201

    require_refused(server.run_guest(FakeGuest(manifest), tee="snp"), Refusal.EVIDENCE_NOT_VERIFIED)


def test_a_launch_digest_counts_only_for_the_tee_it_is_registered_for(server):
    manifest = server.make_manifest(tees=("software", "snp"))
    digest = launch(server.authority, manifest)[1].hex()
    assert (
        server.register(
            manifest, reference_values=[{"tee": "snp", "launch_digest": digest, "inputs": {}}]
        ).status
        == 201
    )

    require_refused(server.run_guest(FakeGuest(manifest)), Refusal.LAUNCH_DIGEST_UNKNOWN)


def test_a_tee_that_the_manifest_does_not_name_is_refused(server, web):
    require_refused(server.run_guest(web, tee="snp"), Refusal.TEE_NOT_ALLOWED)


def test_a_production_server_never_takes_simulated_evidence(tmp_path):
    development = make_server(str(tmp_path / "store"))
    manifest = development.make_manifest()
    assert development.register(manifest).status == 201
    production = make_server(str(tmp_path / "store"), mode=Mode.PRODUCTION)

    require_refused(production.run_guest(FakeGuest(manifest)), Refusal.TEE_NOT_ALLOWED)

    assert production.last_record()["simulated"] is True
    assert production.register(production.make_manifest(workload="new")).status == 400


def test_what_only_hardware_may_have_is_never_in_a_store_that_accepts_simulated_evidence(tmp_path):
    store = str(tmp_path / "store")
    value = {"tee": "snp", "launch_digest": "ab" * 48, "inputs": {}}
    production = make_server(store, mode=Mode.PRODUCTION)
    manifest = production.make_manifest(tees=("snp",), args=("echo", '"tees":["software"]'))
    assert production.register(manifest, reference_values=[value]).status == 201
    workload = production.admin("GET", "/v1/workloads").json["workloads"][0]["id"]

    with pytest.raises(HostError, match="hardware only"):
        make_server(store)
    assert production.admin("POST", f"/v1/workloads/{workload}/revoke", {}).status == 200
    development = make_server(store)
    refused = development.register(
        development.make_manifest(tees=("snp",), workload="other"), reference_values=[value]
    )

    assert refused.status == 400
    assert "hardware only" in refused.json["message"]


def test_an_unknown_a_revoked_an_ended_and_an_expired_workload_have_their_own_codes(server):
    unknown = FakeGuest(server.make_manifest(workload="unknown"))
    require_refused(server.run_guest(unknown), Refusal.WORKLOAD_UNKNOWN)

    revoked = FakeGuest(server.make_manifest(workload="revoked"))
    server.register(revoked.manifest)
    assert server.admin("POST", "/v1/workloads/revoked/revoke").status == 200
    require_refused(server.run_guest(revoked), Refusal.WORKLOAD_REVOKED)

    ended = FakeGuest(server.make_manifest(workload="ended"))
    server.register(ended.manifest, uses=1)
    assert server.run_guest(ended).status == 200
    require_refused(server.run_guest(ended), Refusal.WORKLOAD_ENDED)

    expired = FakeGuest(server.make_manifest(workload="expired"))
    server.register(expired.manifest, expires_in_s=60)
    server.clock.now_s += 61
    require_refused(server.run_guest(expired), Refusal.WORKLOAD_EXPIRED)
    assert server.last_record()["verdict"]["checks"][-1]["name"] == "workload-expired"


def test_the_registration_is_looked_at_before_the_evidence(server, web):
    server.admin("POST", "/v1/workloads/web/revoke")
    session, _ = server.challenge(web)

    require_refused(server.attest(web, session, b"\0" * 8), Refusal.WORKLOAD_REVOKED)
    assert server.last_record()["workload"] == "web"


def test_a_stored_policy_of_another_version_releases_nothing_and_says_why(server, web):
    with server.broker.database.change() as connection:
        connection.execute("""UPDATE workloads SET policy='{"of_tomorrow":1}'""")

    require_refused(server.run_guest(web), Refusal.POLICY_REFUSED)

    (check,) = server.last_record()["verdict"]["checks"]
    assert "of_tomorrow" in check["seen"]


def test_a_verdict_of_the_appraiser_is_kept_as_it_is(server, web):
    require_refused(server.run_guest(web, faults=Faults(debug_policy=True)), Refusal.POLICY_REFUSED)

    verdict = server.last_record()["verdict"]
    failed = [check for check in verdict["checks"] if not check["held"]]
    assert [check["name"] for check in failed] == ["policy-debug"]
    assert verdict["heading"] == "SIMULATED - NOT CONFIDENTIAL: refused: policy-debug"


def test_a_workload_revoked_while_its_guest_is_appraised_gets_nothing(server, web):
    from dataclasses import replace

    from krunpy.server.app import make_app

    appraiser = server.broker.appraiser

    class Slow:
        allows_tee = appraiser.allows_tee

        def appraise(self, evidence, wanted):
            assert server.admin("POST", "/v1/workloads/web/revoke").status == 200
            return appraiser.appraise(evidence, wanted)

    session, nonce = server.challenge(web)
    evidence = make_evidence(server, web, nonce)
    slow = replace(server, app=make_app(replace(server.broker, appraiser=Slow())))

    require_refused(slow.attest(web, session, evidence), Refusal.WORKLOAD_REVOKED)
