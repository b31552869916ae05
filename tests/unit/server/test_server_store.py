from __future__ import annotations

import pytest

from krunpy.core.errors import FormatError, HostError
from krunpy.server.documents import parse_document


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
