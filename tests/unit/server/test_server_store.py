# ruff: noqa: ARG001 - fixtures that are asked for their effect
from __future__ import annotations

import sqlite3

import pytest

from krunpy.core.errors import FormatError, HostError
from krunpy.core.files import make_private_directory
from krunpy.server.documents import parse_document
from tests.fakes.broker import make_server
from tests.fakes.guest import FakeGuest


def test_a_change_that_cannot_be_committed_is_undone_and_the_next_one_works(server):
    database = server.broker.database
    with database.change() as connection:
        connection.execute("CREATE TABLE parents (id INTEGER PRIMARY KEY)")
        connection.execute(
            "CREATE TABLE children (parent REFERENCES parents (id) DEFERRABLE INITIALLY DEFERRED)"
        )
    with database.look() as connection:
        opened = connection
    opened.execute("PRAGMA foreign_keys=ON")

    with pytest.raises(HostError, match="FOREIGN KEY"), database.change() as connection:
        connection.execute("INSERT INTO children VALUES (1)")

    with database.change() as connection:
        assert connection.execute("SELECT count(*) FROM children").fetchone()[0] == 0


def test_a_number_that_json_cannot_hold_is_refused_and_not_a_failure_of_the_server():
    body = (
        b'{"manifest":"","disk_key":"","reference_values":[],"policy":{"a":1e999},"uses":0,"expires_in_s":0}'
    )

    with pytest.raises(FormatError, match="not JSON"):
        parse_document(body)


def test_a_file_that_is_no_store_is_a_clear_error(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "store.sqlite3").write_bytes(b"not a database" * 1000)

    with pytest.raises(HostError, match="SQLite says"):
        make_server(str(tmp_path / "store"))


def _make_old_store(path):
    """A store as schema version 1 had it, with the columns that matter."""
    from krunpy.server import database

    new = database._SCHEMA.replace(", manifest_in TEXT NOT NULL", "").replace(
        "CREATE TABLE used_sessions (id BLOB PRIMARY KEY, expires_at INTEGER NOT NULL) WITHOUT ROWID;",
        "CREATE TABLE sessions (id BLOB PRIMARY KEY, nonce BLOB, expires_at INTEGER) WITHOUT ROWID;",
    )
    old = new.replace("CREATE INDEX used_sessions_by_expiry ON used_sessions (expires_at);", "")
    old = old.replace(", requires_hardware INTEGER NOT NULL", "")
    with sqlite3.connect(path) as connection:
        connection.executescript(old)
        for name, tees in (("soft", b'["snp","software"]'), ("hard", b'["snp"]')):
            connection.execute(
                "INSERT INTO workloads VALUES (?,?,?,x'',?,?,'ended',NULL,0,1,1,0)",
                (name, name.ljust(32).encode(), b'{"tees":' + tees + b"}", "[]", "{}"),
            )
        connection.execute("PRAGMA user_version=1")


def test_a_store_of_an_earlier_krunpy_is_brought_up_to_date(tmp_path):
    make_private_directory(str(tmp_path / "store"))
    _make_old_store(tmp_path / "store" / "store.sqlite3")

    server = make_server(str(tmp_path / "store"))

    shown = [server.admin("GET", f"/v1/workloads/{name}").json for name in ("soft", "hard")]
    assert [workload["require_hardware"] for workload in shown] == [False, True]
    assert [workload["manifest_in"] for workload in shown] == ["initrd", "initrd"]
    guest = FakeGuest(server.make_manifest())
    assert server.register(guest.manifest).status == 201
    assert server.run_guest(guest).status == 200


def test_a_store_that_knew_manifests_in_the_initrd_alone_keeps_its_workloads(tmp_path):
    server = make_server(str(tmp_path / "store"))
    guest = FakeGuest(server.make_manifest())
    assert server.register(guest.manifest).status == 201
    server.broker.database.close()
    with sqlite3.connect(tmp_path / "store" / "store.sqlite3") as connection:
        connection.executescript("DROP TABLE invitations; DROP TABLE answers")
        connection.execute("ALTER TABLE workloads DROP COLUMN manifest_in")
        connection.execute("PRAGMA user_version=2")

    server = make_server(str(tmp_path / "store"))

    assert server.admin("GET", "/v1/workloads/web").json["manifest_in"] == "initrd"
    assert server.run_guest(guest).status == 200


def test_a_store_of_a_later_krunpy_is_not_touched(server, tmp_path):
    with sqlite3.connect(tmp_path / "store" / "store.sqlite3") as connection:
        connection.execute("PRAGMA user_version=99")

    with pytest.raises(HostError, match="seen schema version 99, wanted 4"):
        make_server(str(tmp_path / "store"))
