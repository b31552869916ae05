"""The reference-kbs dialect as a guest of libkrun meets it: sessions, workloads, keys."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

import pytest

from krunpy.server.mode import Mode
from krunpy.server.refusals import Refusal
from tests.fakes.broker import make_server
from tests.fakes.libkrun_guest import (
    PASSPHRASE,
    LibkrunGuest,
    RefusedError,
    encode_number,
    make_kbs_server,
    make_tee_key,
)
from tests.fakes.libkrun_guest import (
    require_kbs_refused as require_refused,
)


def test_a_guest_gets_its_passphrase_and_the_record_shows_every_check(kbs, libkrun):
    assert libkrun.run() == PASSPHRASE

    record = kbs.fake.last_record()
    assert (record["outcome"], record["workload"], record["hardware"]) == ("released", "web", True)
    checks = {check["name"]: check for check in record["verdict"]["checks"]}
    assert {"report-data", "measurement", "policy-debug", "vmpl", "tcb-reported"} <= set(checks)
    assert "names kernel, initrd and machine, and no workload" in checks["host-data"]["source"]
    shown = kbs.fake.admin("GET", "/v1/workloads/web").json
    assert (shown["released"], shown["manifest_hash"], shown["manifest_in"]) == (1, "", "")


def test_a_guest_is_served_without_a_prefix_too_and_boots_again(kbs, libkrun):
    assert LibkrunGuest(kbs).run() == PASSPHRASE
    assert libkrun.run() == PASSPHRASE
    assert LibkrunGuest(kbs, libkrun.prefix).run() == PASSPHRASE


def test_the_nonce_is_not_the_session_and_each_challenge_has_its_own(kbs, libkrun):
    other = LibkrunGuest(kbs, libkrun.prefix)
    libkrun.auth()
    other.auth()

    assert len({libkrun.nonce, other.nonce, libkrun.session, other.session}) == 4
    assert libkrun.nonce not in base64.urlsafe_b64decode(libkrun.session + "==").hex()


def test_a_server_without_the_dialect_has_no_such_paths(tmp_path):
    server = make_server(str(tmp_path / "store"), mode=Mode.PRODUCTION)
    unknown = server.call("POST", "/nothing", {})

    for method, path in (
        ("GET", "/kbs/v0/"),
        ("POST", "/kbs/v0/auth"),
        ("POST", "/kbs/v0/attest"),
        ("GET", "/kbs/v0/key/web"),
        ("POST", "/kbs/v0/register_workload"),
        ("POST", "/r/x/kbs/v0/register_workload"),
    ):
        reply = server.call(method, path, {})
        assert (reply.status, reply.raw) == (404, unknown.raw)


def test_the_root_answers_as_reference_kbs_does(kbs):
    assert kbs.call("GET", "/kbs/v0/").status == 401


def test_a_session_serves_once_even_for_the_same_evidence(libkrun):
    libkrun.auth()
    body = libkrun.make_attest_body()
    assert libkrun.attest(body).raw == b""
    assert libkrun.decrypt(libkrun.fetch()) == PASSPHRASE

    require_refused(libkrun, Refusal.SESSION_USED, body)


def test_a_session_is_used_up_by_an_attempt_that_failed(libkrun):
    libkrun.auth()
    bad = replace(libkrun, report={"vmpl": 1})
    require_refused(bad, Refusal.POLICY_REFUSED)

    require_refused(libkrun, Refusal.SESSION_USED)


def test_a_session_expires(kbs, libkrun):
    libkrun.auth()
    kbs.fake.clock.now_s += 301

    require_refused(libkrun, Refusal.SESSION_EXPIRED)


def test_evidence_over_an_old_nonce_is_refused(libkrun):
    libkrun.auth()
    old = libkrun.make_attest_body()
    libkrun.auth()

    require_refused(libkrun, Refusal.REPORT_DATA_MISMATCH, old)


def test_another_key_than_the_attested_one_is_refused(libkrun):
    libkrun.auth()
    thief = encode_number(make_tee_key.__wrapped__().public_key().public_numbers().n)

    require_refused(libkrun, Refusal.REPORT_DATA_MISMATCH, libkrun.make_attest_body(**{"k-mod": thief}))


def test_a_session_that_no_server_gave_out_leaves_no_trace(kbs, libkrun):
    libkrun.auth()
    raw = base64.urlsafe_b64decode(libkrun.session + "==")
    for offset in (0, 5, 20, 31, 40):
        forged = bytearray(raw)
        forged[offset] ^= 1
        libkrun.session = base64.urlsafe_b64encode(bytes(forged)).rstrip(b"=").decode()

        assert libkrun.attest().raw == b"session-unknown: no such session"

    assert kbs.records() == []


def test_a_session_for_one_workload_does_not_serve_another(kbs, libkrun):
    assert kbs.register(kbs.invite(), workload_id="db", passphrase="other").status == 200
    libkrun.auth()
    mine = base64.urlsafe_b64decode(libkrun.session + "==")
    db = LibkrunGuest(kbs, workload="db")
    db.auth()
    theirs = base64.urlsafe_b64decode(db.session + "==")

    libkrun.session = base64.urlsafe_b64encode(mine[:32] + theirs[32:]).rstrip(b"=").decode()

    assert libkrun.attest().raw == b"session-unknown: no such session"


def test_the_url_of_one_workload_does_not_serve_another(kbs, libkrun):
    other = kbs.invite()
    assert kbs.register(other, workload_id="db", passphrase="other").status == 200

    record = require_refused(replace(libkrun, prefix=other), Refusal.WORKLOAD_UNKNOWN)
    assert 'the URL is that of workload "db"' in record["detail"]

    fresh = LibkrunGuest(kbs)
    fresh.auth()
    assert fresh.attest().raw == b""
    assert replace(fresh, prefix=other).fetch().status == 403
    assert fresh.fetch().status == 200


@pytest.mark.usefixtures("libkrun")
def test_an_unknown_and_a_revoked_workload_are_refused_where_the_console_shows_it(kbs):
    with pytest.raises(RefusedError, match="workload-unknown: no workload of this id is registered here"):
        LibkrunGuest(kbs, workload="nobody").run()
    assert kbs.fake.admin("POST", "/v1/workloads/web/revoke").json["status"] == "revoked"

    require_refused(LibkrunGuest(kbs), Refusal.WORKLOAD_REVOKED)


def test_a_workload_of_krunpys_own_protocol_is_not_served_in_this_one(kbs):
    manifest = kbs.fake.make_manifest(tees=("snp",), workload="own")
    value = {"tee": "snp", "launch_digest": "5a" * 48, "inputs": {}}
    assert kbs.fake.register(manifest, reference_values=[value]).status == 201

    with pytest.raises(RefusedError, match="workload-unknown"):
        LibkrunGuest(kbs, workload="own").run()


def test_the_registration_is_looked_at_before_the_evidence(kbs, libkrun):
    assert kbs.fake.admin("POST", "/v1/workloads/web/revoke").status == 200
    libkrun.report = {"vmpl": 1}

    require_refused(libkrun, Refusal.WORKLOAD_REVOKED)


def test_a_row_with_a_manifest_is_not_served_even_under_the_name_of_one_without(kbs, libkrun):
    with kbs.fake.broker.database.change() as connection:
        connection.execute("UPDATE workloads SET manifest_in='initrd'")

    with pytest.raises(RefusedError, match="workload-unknown"):
        libkrun.run()
    assert kbs.register(libkrun.prefix).status == 409


@pytest.mark.usefixtures("libkrun")
def test_a_workload_of_this_dialect_is_not_served_in_krunpys_own_protocol(kbs):
    from krunpy.server.reference_kbs_messages import hash_name

    name_hash = hash_name("web").hex()
    challenge = kbs.fake.call("POST", "/v1/challenge", {"manifest_hash": name_hash}).json
    body = {
        "session": challenge["session"],
        "tee": "snp",
        "guest_public_key": "09" + "00" * 31,
        "manifest_hash": name_hash,
        "evidence": base64.b64encode(b"\0" * 8).decode(),
    }

    assert kbs.fake.call("POST", "/v1/attest", body).json["error"] == "workload-unknown"


def test_a_key_is_handed_out_once(libkrun):
    assert libkrun.run() == PASSPHRASE

    assert libkrun.fetch().raw == b"not-attested: this session has no key of this workload to fetch"


def test_a_key_is_handed_out_only_after_the_attestation(libkrun):
    libkrun.auth()

    assert libkrun.fetch().status == 403


@pytest.mark.usefixtures("libkrun")
def test_a_key_is_handed_out_for_the_sessions_own_workload_alone(kbs):
    assert kbs.register(kbs.invite(), workload_id="db", passphrase="other").status == 200
    guest = LibkrunGuest(kbs)
    guest.auth()
    assert guest.attest().raw == b""

    assert guest.fetch("db").status == 403
    forged = LibkrunGuest(kbs, workload="db")
    forged.auth()
    db_hash = base64.urlsafe_b64decode(forged.session + "==")[32:]
    session = base64.urlsafe_b64decode(guest.session + "==")[:32] + db_hash
    forged.session = base64.urlsafe_b64encode(session).rstrip(b"=").decode()
    assert forged.fetch("db").status == 403
    assert guest.decrypt(guest.fetch()) == PASSPHRASE


def test_a_key_that_nobody_fetches_is_forgotten(kbs, libkrun):
    libkrun.auth()
    assert libkrun.attest().raw == b""
    kbs.fake.clock.now_s += 61

    assert libkrun.fetch().status == 403


def test_a_key_is_not_handed_out_once_its_workload_was_revoked(kbs, libkrun):
    libkrun.auth()
    assert libkrun.attest().raw == b""
    assert kbs.fake.admin("POST", "/v1/workloads/web/revoke").status == 200

    assert libkrun.fetch().status == 403


def test_a_key_is_not_handed_out_once_its_id_names_another_kind_of_workload(kbs, libkrun):
    libkrun.auth()
    assert libkrun.attest().raw == b""
    assert kbs.fake.admin("POST", "/v1/workloads/web/revoke").status == 200
    value = {"tee": "snp", "launch_digest": "5a" * 48, "inputs": {}}
    manifest = kbs.fake.make_manifest(tees=("snp",))
    assert kbs.fake.register(manifest, reference_values=[value], restore=True).status == 201

    assert libkrun.fetch().status == 403


@pytest.mark.usefixtures("libkrun")
def test_answers_that_nobody_fetches_do_not_pile_up(kbs, monkeypatch):
    from krunpy.server import reference_kbs_store

    monkeypatch.setattr(reference_kbs_store, "_MAX_ANSWERS", 2)
    for _ in range(4):
        guest = LibkrunGuest(kbs)
        guest.auth()
        assert guest.attest().raw == b""

    with kbs.fake.broker.database.look() as connection:
        assert connection.execute("SELECT count(*) FROM answers").fetchone()[0] == 2


def test_a_challenge_costs_the_store_nothing_and_tells_nothing_about_the_workload(kbs):
    before = kbs.call("POST", "/kbs/v0/auth", b"")
    for _ in range(3):
        assert LibkrunGuest(kbs, workload="nobody").auth().status == 200

    assert before.status == 400
    with kbs.fake.broker.database.look() as connection:
        assert connection.execute("SELECT count(*) FROM used_sessions").fetchone()[0] == 0


def test_refusals_of_an_address_beyond_the_limit_leave_no_record(tmp_path):
    from krunpy.server.broker import BrokerLimits
    from krunpy.server.throttle import ThrottleLimits

    limits = BrokerLimits(refused=ThrottleLimits(of_address=2, of_all=9))
    kbs = make_kbs_server(str(tmp_path / "store"), limits=limits)
    for _ in range(4):
        with pytest.raises(RefusedError, match="workload-unknown"):
            LibkrunGuest(kbs).run()

    assert len(kbs.records()) == 2


def test_no_secret_is_in_the_log_the_records_or_the_store(kbs, libkrun, tmp_path):
    assert libkrun.run() == PASSPHRASE
    libkrun.auth()
    libkrun.attest(b"{}")
    token = libkrun.prefix.removeprefix("/r/")
    files = b"".join(path.read_bytes() for path in (tmp_path / "store").glob("store.sqlite3*"))
    shown = json.dumps(
        [kbs.fake.notes, kbs.fake.last_record(), kbs.fake.admin("GET", "/v1/workloads/web").json]
    )

    for secret in (PASSPHRASE, token, libkrun.session):
        assert secret not in shown
        assert secret.encode() not in files
