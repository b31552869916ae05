"""Who may register a workload in the reference-kbs dialect, and with what: invitations and the Unix socket."""

from __future__ import annotations

from dataclasses import replace

import pytest

from krunpy.core.errors import FormatError, StateError
from krunpy.formats.krun_guest import MAX_PASSPHRASE
from krunpy.server.app import make_app
from krunpy.server.mode import Mode
from krunpy.server.reference_kbs_store import (
    MAX_INVITATIONS,
    list_invitations,
    remove_invitation,
)
from krunpy.server.refusals import Refusal
from tests.fakes.libkrun_guest import (
    BASE,
    DIGEST,
    PASSPHRASE,
    LibkrunGuest,
    make_kbs_registration,
    require_kbs_refused,
    require_malformed,
)


def shown(kbs, workload="web"):
    reply = kbs.fake.admin("GET", f"/v1/workloads/{workload}")
    return reply.json if reply.status == 200 else None


def test_nobody_registers_without_an_invitation(kbs):
    body = make_kbs_registration()

    assert kbs.call("POST", "/kbs/v0/register_workload", body).status == 404
    assert kbs.call("POST", "/r/AAAAAAAAAAA/kbs/v0/register_workload", body).status == 404
    assert shown(kbs) is None


def test_an_invitation_registers_one_workload_and_says_what_it_never_allows(kbs):
    reply = kbs.register(kbs.invite())

    assert reply.status == 200
    assert reply.raw == (
        b"registered; tee_config would allow debugging and a migration agent: never allowed here\n"
    )
    workload = shown(kbs)
    assert workload["status"] == "active"
    assert workload["reference_values"][0]["launch_digest"] == DIGEST.hex()
    assert workload["policy"] == {"allow_smt": True}
    assert workload["require_hardware"] is True
    (note,) = [note for note in kbs.fake.notes if note["event"] == "registered"]
    assert note["ignored"] == ["debugging", "a migration agent"]


def test_the_same_registration_again_changes_nothing_and_another_is_refused(kbs):
    prefix = kbs.invite()
    assert kbs.register(prefix).status == 200
    before = shown(kbs)
    kbs.fake.clock.now_s += 60

    assert kbs.register(prefix).status == 200
    for changes in (
        {"passphrase": "another"},
        {"launch_measurement": "5b" * 48},
        {"tee_config": '{"flags":{"bits":14},"minfw":{"major":0,"minor":0}}'},
        {"workload_id": "db"},
    ):
        assert kbs.register(prefix, **changes).status == 409

    assert shown(kbs) == before
    assert shown(kbs, "db") is None
    assert LibkrunGuest(kbs, prefix).run() == PASSPHRASE


def test_another_invitation_does_not_take_a_workload_over(kbs, libkrun):
    assert kbs.register(kbs.invite(), passphrase="the attacker's").status == 409

    assert libkrun.run() == PASSPHRASE


def test_a_revoked_workload_does_not_come_back(kbs, libkrun):
    assert kbs.fake.admin("POST", "/v1/workloads/web/revoke").status == 200

    assert kbs.register(libkrun.prefix).status == 409
    assert kbs.register(kbs.invite()).status == 409
    assert kbs.call_socket(make_kbs_registration()).status == 409
    assert shown(kbs)["status"] == "revoked"


def test_a_workload_of_krunpys_own_protocol_is_not_taken_over(kbs):
    value = {"tee": "snp", "launch_digest": "5a" * 48, "inputs": {}}
    manifest = kbs.fake.make_manifest(tees=("snp",))
    assert kbs.fake.register(manifest, reference_values=[value]).status == 201

    assert kbs.register(kbs.invite()).status == 409
    assert kbs.call_socket(make_kbs_registration()).status == 409
    assert shown(kbs)["manifest"] != ""


@pytest.mark.usefixtures("libkrun")
def test_krunpys_own_protocol_does_not_take_a_workload_of_this_dialect_over(kbs):
    value = {"tee": "snp", "launch_digest": "5a" * 48, "inputs": {}}
    manifest = kbs.fake.make_manifest(tees=("snp",))

    assert kbs.fake.register(manifest, reference_values=[value]).status == 409
    assert kbs.fake.admin("GET", "/v1/workloads").json["workloads"][0]["manifest_hash"] == ""


def test_an_invitation_expires_unused_and_serves_guests_for_ever_once_used(kbs):
    late, used = kbs.invite(), kbs.invite()
    assert kbs.register(used).status == 200
    kbs.fake.clock.now_s += 3600

    assert kbs.register(late, workload_id="db").status == 404
    assert kbs.register(used).status == 409
    assert LibkrunGuest(kbs, used).run() == PASSPHRASE


def test_an_open_invitation_serves_no_guest(kbs):
    prefix = kbs.invite()

    for method, path in (("POST", "auth"), ("POST", "attest"), ("GET", "key/web")):
        assert kbs.call(method, f"{prefix}/kbs/v0/{path}", b"{}").status == 404


def test_an_invitation_for_one_id_registers_no_other(kbs):
    prefix = kbs.invite(workload="db")

    assert kbs.register(prefix).status == 409
    assert kbs.register(prefix, workload_id="db").status == 200


def test_an_invitation_for_a_workload_that_there_is_cannot_be_made(kbs, libkrun):
    del libkrun
    with pytest.raises(StateError, match='there is a workload "web"'):
        kbs.invite(workload="web")


@pytest.mark.parametrize("member", ["allow_debug", "allow_migrate_ma"])
def test_an_invitation_that_allows_what_is_never_allowed_cannot_be_made(kbs, member):
    with pytest.raises(FormatError, match="never allows"):
        kbs.invite(policy={member: True})


def test_open_invitations_are_bounded_and_expired_ones_forgotten(kbs):
    for _ in range(MAX_INVITATIONS):
        kbs.invite(ttl_s=60)
    with pytest.raises(StateError, match="64 are open already"):
        kbs.invite()
    kbs.fake.clock.now_s += 61

    assert kbs.register(kbs.invite()).status == 200


def test_an_invitation_can_be_removed_until_it_is_used(kbs):
    first, used = kbs.invite(), kbs.invite()
    assert kbs.register(used).status == 200
    now_s = int(kbs.fake.clock.now_s)
    with kbs.fake.broker.database.change() as connection:
        rows = {row["workload"]: row for row in list_invitations(connection, now_s=now_s)}
        remove_invitation(connection, rows[""]["id"])
        with pytest.raises(StateError, match="no open one is called"):
            remove_invitation(connection, rows["web"]["id"])

    assert kbs.register(first, workload_id="db").status == 404
    assert LibkrunGuest(kbs, used).run() == PASSPHRASE


def test_guesses_of_an_invitation_are_counted(kbs):
    statuses = [kbs.register(f"/r/{number:011}").status for number in range(21)]

    assert statuses == [404] * 20 + [429]


def test_the_body_of_a_guess_is_not_read(kbs):
    reply = kbs.call("POST", "/r/AAAAAAAAAAA/kbs/v0/register_workload", chunks=[b"{", None])

    assert reply.status == 404


def test_an_invitations_policy_is_appraised_with_what_the_registration_demands(kbs):
    policy = {"min_tcb": {"Milan": {"bootloader": 0, "tee": 0, "snp": 255, "microcode": 0}}}
    prefix = kbs.invite(policy=policy)
    assert kbs.register(prefix).status == 200

    assert shown(kbs)["policy"] == {"allow_smt": True, **policy}
    record = require_kbs_refused(LibkrunGuest(kbs, prefix), Refusal.POLICY_REFUSED)
    assert [check["name"] for check in record["verdict"]["checks"] if not check["held"]] == ["tcb-reported"]


@pytest.mark.parametrize(
    ("config", "failed"),
    [
        ('{"flags":{"bits":14},"minfw":{"major":0,"minor":0}}', ["policy-smt"]),
        (
            '{"flags":{"bits":63},"minfw":{"major":1,"minor":55}}',
            ["firmware-current", "firmware-committed"],
        ),
    ],
)
def test_what_tee_config_demands_is_appraised(kbs, config, failed):
    prefix = kbs.invite()
    assert kbs.register(prefix, tee_config=config).status == 200

    record = require_kbs_refused(LibkrunGuest(kbs, prefix), Refusal.POLICY_REFUSED)

    assert [check["name"] for check in record["verdict"]["checks"] if not check["held"]] == failed


def test_a_url_that_the_guests_buffer_does_not_hold_is_refused(kbs):
    prefix = kbs.invite()
    room = 99 - len(f"{BASE}{prefix}/kbs/v0/key/")

    assert kbs.register(prefix, workload_id="w" * (room + 1)).status == 400
    assert any("its buffer takes 99" in str(note.get("why")) for note in kbs.fake.notes)
    assert kbs.register(prefix, workload_id="w" * room).status == 200
    assert LibkrunGuest(kbs, prefix, workload="w" * room).run() == PASSPHRASE


@pytest.mark.parametrize(
    "changes",
    [
        {"workload_id": None},
        {"workload_id": ""},
        {"workload_id": "-x"},
        {"workload_id": "a/b"},
        {"workload_id": "w" * 65},
        {"launch_measurement": "5a" * 32},
        {"launch_measurement": "zz" * 48},
        {"passphrase": ""},
        {"passphrase": 7},
        {"passphrase": "a\0b"},
        {"passphrase": "\ud800"},
        {"passphrase": "p" * (MAX_PASSPHRASE + 1)},
        {"passphrase": "ä" * 123},
        {"tee_config": {}},
        {"tee_config": "{}"},
        {"tee_config": '{"flags":{"bits":64},"minfw":{"major":0,"minor":0}}'},
        {"tee_config": '{"flags":{"bits":15},"minfw":{"major":0,"minor":0},"more":1}'},
        {"tee_config": '{"flags":{"bits":15,"more":1},"minfw":{"major":0,"minor":0}}'},
        {"tee_config": '{"flags":{"bits":15},"minfw":{"major":0,"minor":256}}'},
        {"tee_config": '{"flags":{"bits":15},"minfw":{"major":0,"minor":0,"more":1}}'},
        {"more": 1},
    ],
)
def test_a_registration_that_buildah_does_not_send_is_malformed_and_uses_nothing_up(kbs, changes):
    prefix = kbs.invite()

    require_malformed(kbs.register(prefix, **changes))

    assert kbs.register(prefix).status == 200


@pytest.mark.parametrize("passphrase", ["p" * MAX_PASSPHRASE, "x", '"\\\n'])
def test_any_passphrase_that_fits_arrives_as_it_was(kbs, passphrase):
    prefix = kbs.invite()
    assert kbs.register(prefix, passphrase=passphrase).status == 200

    assert LibkrunGuest(kbs, prefix).run() == passphrase


def test_no_passphrase_is_in_the_log_of_a_refused_registration(kbs):
    prefix = kbs.invite()
    for changes in (
        {"passphrase": 4711471147114711},
        {"passphrase": "secret-4711\0"},
        {"passphrase": "secret-4711", "more": 1},
        {"passphrase": "secret-4711", "launch_measurement": "x"},
    ):
        require_malformed(kbs.register(prefix, **changes))

    assert len(kbs.fake.notes) == 4
    assert "4711" not in str(kbs.fake.notes)


def test_a_server_that_accepts_simulations_registers_nothing_in_this_dialect(kbs):
    prefix = kbs.invite()
    broker = replace(kbs.fake.broker, mode=Mode.DEVELOPMENT)
    loose = replace(kbs, fake=replace(kbs.fake, app=make_app(broker, serves_reference_kbs=True)))

    require_malformed(loose.register(prefix))
    assert shown(kbs) is None


def test_the_socket_registers_and_serves_nothing_else(kbs):
    longest = make_kbs_registration(workload_id="w" * 64)

    assert kbs.call_socket(longest).status == 200
    assert kbs.call_socket(longest).status == 200
    assert kbs.call_socket({**longest, "passphrase": "other"}).status == 409
    assert kbs.call_socket({}, "/kbs/v0/auth").status == 404
    assert kbs.call_socket({}, "/v1/challenge").status == 404
    assert LibkrunGuest(kbs, workload="w" * 64).auth().status == 200
    assert shown(kbs, "w" * 64)["status"] == "active"
    assert kbs.fake.admin("POST", f"/v1/workloads/{'w' * 64}/revoke").json["status"] == "revoked"
