# ruff: noqa: ARG001 - fixtures that are asked for their effect
from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krunpy.core.errors import FormatError, HostError
from krunpy.core.octets import PublicKey32, Secret
from krunpy.server.documents import parse_document
from krunpy.server.refusals import Refusal
from krunpy.server.registration import parse_registration
from krunpy.server.tokens import Role, add_token, list_tokens, make_token, remove_token
from tests.fakes.broker import DISK_KEY, OTHER_DISK_KEY, make_registration, make_server
from tests.fakes.guest import FakeGuest, launch


def test_registering_again_adds_uses_and_answers_200(server):
    manifest = server.make_manifest()

    assert server.register(manifest, uses=1).status == 201
    again = server.register(manifest, uses=2)

    assert (again.status, again.json["uses_left"], again.json["status"]) == (200, 3, "active")


def test_an_unlimited_registration_stays_unlimited_and_unexpiring(server):
    manifest = server.make_manifest()
    server.register(manifest)

    again = server.register(manifest, uses=1, expires_in_s=10)

    assert (again.json["uses_left"], again.json["expires_at"]) == (None, 0)


def test_the_later_expiry_wins(server):
    manifest = server.make_manifest()
    first = server.register(manifest, expires_in_s=600)

    assert server.register(manifest, expires_in_s=10).json["expires_at"] == first.json["expires_at"]
    assert server.register(manifest, expires_in_s=900).json["expires_at"] == first.json["expires_at"] + 300


def test_registering_again_adds_reference_values_so_that_two_machines_can_boot_it(server):
    manifest = server.make_manifest()
    server.register(manifest)
    other = {"tee": "software", "launch_digest": "ab" * 48, "inputs": {"cpus": 2}}

    again = server.register(manifest, reference_values=[other])

    assert [value["inputs"]["cpus"] for value in again.json["reference_values"]] == [1, 2]
    assert server.run_guest(FakeGuest(manifest)).status == 200


def test_an_active_id_does_not_change_its_manifest_or_its_key(server, web):
    other = server.make_manifest(args=("/bin/evil",))

    assert server.register(other).status == 409
    assert server.register(web.manifest, disk_key=OTHER_DISK_KEY).status == 409
    assert server.run_guest(web).status == 200


def test_an_ended_id_may_begin_anew_with_another_manifest(server):
    manifest = server.make_manifest()
    server.register(manifest, uses=1)
    server.run_guest(FakeGuest(manifest))
    other = server.make_manifest(args=("/bin/new",))

    assert server.register(other, disk_key=OTHER_DISK_KEY).status == 201
    assert server.run_guest(FakeGuest(other)).status == 200
    assert server.run_guest(FakeGuest(manifest)).json["error"] == "workload-unknown"


def test_a_revoked_workload_comes_back_only_by_an_administrators_restore(server, web):
    server.admin("POST", "/v1/workloads/web/revoke")
    body = make_registration(server.authority, web.manifest)
    registrar = _make_token(server, Role.REGISTRAR)

    assert server.register(web.manifest).status == 409
    assert server.call("PUT", "/v1/workloads/web", {**body, "restore": True}, token=registrar).status == 403
    assert server.run_guest(web).json["error"] == Refusal.WORKLOAD_REVOKED.value
    assert server.register(web.manifest, restore=True).status == 201
    assert server.run_guest(web).status == 200


def test_revoking_and_ending_erase_the_stored_key(server, web):
    once = server.make_manifest(workload="once")
    server.register(once, uses=1)
    server.run_guest(FakeGuest(once))
    server.admin("POST", "/v1/workloads/web/revoke")

    with server.broker.database.look() as connection:
        keys = {
            row["id"]: row["sealed_key"] for row in connection.execute("SELECT id,sealed_key FROM workloads")
        }

    assert keys == {"web": b"", "once": b""}


def test_a_workload_can_be_shown_and_listed_without_its_key(server, web):
    shown = server.admin("GET", "/v1/workloads/web")
    listed = server.admin("GET", "/v1/workloads")

    assert base64.b64decode(shown.json["manifest"]) == web.manifest
    assert [item["id"] for item in listed.json["workloads"]] == ["web"]
    assert server.admin("GET", "/v1/workloads/none").status == 404
    assert server.admin("POST", "/v1/workloads/none/revoke").status == 404


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"reference_values": []}, "there is none"),
        (
            {"reference_values": [{"tee": "software", "launch_digest": "AB" * 48, "inputs": {}}]},
            "lower-case hex",
        ),
        ({"reference_values": [{"tee": "software", "launch_digest": "ab" * 32, "inputs": {}}]}, "48 bytes"),
        ({"reference_values": [{"tee": "sgx", "launch_digest": "ab" * 48, "inputs": {}}]}, "sgx"),
        (
            {"reference_values": [{"tee": "snp", "launch_digest": "ab" * 48, "inputs": {}}]},
            "the manifest allows",
        ),
        (
            {"reference_values": [{"tee": "software", "launch_digest": "ab" * 48, "inputs": {}}] * 65},
            "65 items",
        ),
        ({"reference_values": [{"tee": "software", "launch_digest": "ab" * 48}]}, '"inputs" is missing'),
        ({"disk_key": ""}, "the length of disk_key"),
        ({"disk_key": base64.b64encode(bytes(65)).decode()}, "65 bytes"),
        ({"disk_key": "not base64!"}, "not base64"),
        ({"uses": -1}, "uses"),
        ({"uses": 10**9}, "uses"),
        ({"uses": True}, "uses"),
        ({"uses": 1.5}, "uses"),
        ({"expires_in_s": "10"}, "expires_in_s"),
        ({"policy": []}, "policy"),
        ({"policy": {"allow_debugging": True}}, "allow_debugging"),
        ({"policy": {"accepts_simulated": True}}, "accepts_simulated"),
        ({"policy": {"x": "y" * 20000}}, "longer than"),
        ({"surprise": 1}, "surprise"),
        ({"manifest": base64.b64encode(b"{}").decode()}, "missing"),
        ({"manifest": base64.b64encode(b'{"a": 1}').decode()}, "canonical"),
    ],
)
def test_a_registration_that_is_not_whole_is_refused_by_name(server, changes, told):
    body = {**make_registration(server.authority, server.make_manifest()), **changes}

    reply = server.admin("PUT", "/v1/workloads/web", body)

    assert reply.status == 400
    assert told in reply.json["message"]
    assert server.admin("GET", "/v1/workloads/web").status == 404


def test_the_id_of_the_url_is_the_manifests(server):
    body = make_registration(server.authority, server.make_manifest(workload="web"))

    assert server.admin("PUT", "/v1/workloads/db", body).status == 400
    assert server.admin("PUT", "/v1/workloads/..", body).status in {400, 404}
    assert server.admin("PUT", "/v1/workloads/" + "a" * 64, body).status == 400


def test_a_restart_keeps_workloads_sessions_records_and_keys(server, web, tmp_path):
    first = server.run_guest(web).json["attestation"]
    session, nonce = server.challenge(web)
    server.broker.database.close()

    again = make_server(str(tmp_path / "store"), clock=server.clock)

    assert again.broker.signer.public_key == server.broker.signer.public_key
    assert again.admin("GET", f"/v1/attestations/{first}").json["outcome"] == "released"
    tee, _ = launch(again.authority, web.manifest)
    assert again.attest(web, session, tee.report(web.make_report_data(nonce))).status == 200


@pytest.mark.parametrize("name", ["kek", "signing.key"])
def test_a_lost_key_file_is_said_by_name_and_no_new_one_is_made(server, web, tmp_path, name):
    server.broker.database.close()
    path = tmp_path / "store" / name
    path.unlink()

    with pytest.raises(HostError, match="missing") as failure:
        make_server(str(tmp_path / "store"))

    assert str(path) in failure.value.why
    assert "backup" in failure.value.next
    assert not path.exists()


def test_a_swapped_kek_is_noticed_at_the_start(server, tmp_path):
    (tmp_path / "store" / "kek").write_bytes(bytes(32))

    with pytest.raises(HostError, match="not the kek this store was made with"):
        make_server(str(tmp_path / "store"))


def test_a_key_that_others_may_read_is_refused(server, tmp_path):
    (tmp_path / "store" / "signing.key").chmod(0o644)

    with pytest.raises(HostError, match="others may read"):
        make_server(str(tmp_path / "store"))


def test_a_changed_row_releases_nothing_and_takes_no_use(server, tmp_path):
    manifest = server.make_manifest()
    server.register(manifest, uses=2)
    with server.broker.database.change() as connection:
        (stored,) = connection.execute("SELECT sealed_key FROM workloads").fetchone()
        changed = stored[:20] + bytes([stored[20] ^ 1]) + stored[21:]
        connection.execute("UPDATE workloads SET sealed_key=?", (changed,))

    reply = server.run_guest(FakeGuest(manifest))

    assert (reply.status, reply.json["error"]) == (500, "disk-key-damaged")
    assert "authentication tag" in server.last_record()["detail"]
    assert server.admin("GET", "/v1/workloads/web").json["uses_left"] == 2


def test_a_row_moved_to_another_workload_releases_nothing(server, web):
    db = FakeGuest(server.make_manifest(workload="db"))
    server.register(db.manifest, disk_key=OTHER_DISK_KEY)
    with server.broker.database.change() as connection:
        connection.execute(
            "UPDATE workloads SET sealed_key=(SELECT sealed_key FROM workloads WHERE id='web') WHERE id='db'"
        )

    assert server.run_guest(db).json["error"] == "disk-key-damaged"


def test_everything_in_the_data_directory_is_private(server, web, tmp_path):
    server.run_guest(web)
    store = tmp_path / "store"

    assert store.stat().st_mode & 0o777 == 0o700
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in store.iterdir()} == dict.fromkeys(
        (path.name for path in store.iterdir()), "0o600"
    )


def test_no_secret_is_in_the_store_the_log_a_record_or_an_answer(server, web, tmp_path, capfd):
    server.run_guest(web)
    server.register(web.manifest, disk_key=OTHER_DISK_KEY)  # refused
    server.register(web.manifest, disk_key=OTHER_DISK_KEY[:10])  # refused
    kek = (tmp_path / "store" / "kek").read_bytes()
    seed = (tmp_path / "store" / "signing.key").read_bytes()
    replies = [
        server.admin("GET", path).raw
        for path in ("/v1/workloads/web", "/v1/workloads", "/v1/attestations", "/v1/attestations/last")
    ]
    haystacks = {
        "log": json.dumps(server.notes).encode(),
        "answers": b"".join(replies),
        "broker": repr(server.broker).encode(),
        "output": "".join(capfd.readouterr()).encode(),
    }
    for path in (tmp_path / "store").iterdir():
        if path.name.startswith("store.sqlite3"):
            haystacks[path.name] = path.read_bytes()
    assert "store.sqlite3-wal" in haystacks

    for name, secret in {
        "disk key": DISK_KEY,
        "kek": kek,
        "seed": seed,
        "token": server.token.encode(),
    }.items():
        forms = {secret, secret.hex().encode(), base64.b64encode(secret)}
        assert [place for place, hay in haystacks.items() if any(form in hay for form in forms)] == [], name


def test_records_are_bounded_and_refusals_do_not_push_releases_out(tmp_path):
    from krunpy.server.broker import BrokerLimits

    server = make_server(str(tmp_path / "store"), limits=BrokerLimits(records_kept=5))
    manifest = server.make_manifest()
    server.register(manifest)
    guest = FakeGuest(manifest)
    server.run_guest(guest)
    for _ in range(12):
        session, _ = server.challenge(guest)
        server.attest(guest, session, b"")

    found = server.admin("GET", "/v1/attestations?limit=500").json["attestations"]

    assert [item["outcome"] for item in found] == ["refused"] * 5 + ["released"]
    with server.broker.database.look() as connection:
        assert connection.execute("SELECT count(*) FROM snapshots").fetchone()[0] == 1


def test_old_ended_workloads_are_dropped_but_revoked_ones_stay(server, monkeypatch):
    monkeypatch.setattr("krunpy.server.workloads.ENDED_KEPT", 2)
    for name in ("a", "b", "c", "d"):
        manifest = server.make_manifest(workload=name)
        server.register(manifest, uses=1)
        server.clock.now_s += 1
        if name == "a":
            server.admin("POST", "/v1/workloads/a/revoke")
        else:
            server.run_guest(FakeGuest(manifest))
    server.register(server.make_manifest(workload="e"))

    assert [item["id"] for item in server.admin("GET", "/v1/workloads").json["workloads"]] == [
        "a",
        "c",
        "d",
        "e",
    ]


def test_a_token_ends_when_it_expires_or_is_removed(server):
    token = make_token()
    with server.broker.database.change() as connection:
        now_s = int(server.clock())
        add_token(connection, token, Role.READER, now_s=now_s, expires_at=now_s + 60)
        other = make_token()
        name = add_token(connection, other, Role.READER, now_s=now_s, expires_at=0)
    text, other_text = token.reveal().decode(), other.reveal().decode()
    assert server.call("GET", "/v1/workloads", token=text).status == 200
    assert server.call("GET", "/v1/workloads", token=other_text).status == 200

    server.clock.now_s += 61
    with server.broker.database.change() as connection:
        remove_token(connection, name)
        assert [item["role"] for item in list_tokens(connection)].count("reader") == 1

    assert server.call("GET", "/v1/workloads", token=text).status == 401
    assert server.call("GET", "/v1/workloads", token=other_text).status == 401


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)
_NAMES = ("manifest", "disk_key", "reference_values", "policy", "uses", "expires_in_s", "restore")


@given(st.dictionaries(st.sampled_from(_NAMES), _JSON))
def test_any_registration_is_parsed_or_refused(document):
    with pytest.raises(FormatError):
        parse_registration(
            parse_document(json.dumps(document).encode()),
            workload="web",
            server_key=PublicKey32(bytes(32)),
            requires_hardware=True,
        )


@given(st.binary(max_size=300))
def test_any_bytes_are_a_document_or_refused(data):
    try:
        parse_document(data)
    except FormatError:
        return


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 100000, b'{"a":' * 100000, b'{"a":1,"a":2}', b'{"a":NaN}', b'{"a":Infinity}', b"[]", b"1", b"",
        b'{"a":' + b"9" * 100000 + b"}", b"\xff", b'{"a":' + b"[" * 11 + b"]" * 11 + b"}",
    ],
)  # fmt: skip
def test_a_document_that_is_too_deep_or_ambiguous_is_refused(data):
    with pytest.raises(FormatError):
        parse_document(data)


def _make_token(server, role):
    token = make_token()
    with server.broker.database.change() as connection:
        add_token(connection, token, role, now_s=int(server.clock()), expires_at=0)
    assert isinstance(token, Secret)
    return token.reveal().decode()
