"""The record of every attestation: who asked, what was seen, what was wanted, how it ended. Bounded.

The reference values of a record are kept once for all records that share them.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, cast

from krunpy.server.documents import encode_document

if TYPE_CHECKING:
    import sqlite3

SUMMARY = ("id", "time", "workload", "outcome", "error", "tee", "simulated", "launch_digest", "remote")


def add_record(
    connection: sqlite3.Connection,
    record: dict[str, object],
    reference_values: list[dict[str, object]],
    *,
    kept: int,
) -> None:
    """Store a record, and drop the oldest beyond `kept` of the same outcome.

    Refusals are counted apart: whoever makes the server refuse often cannot push releases out.
    """
    snapshot = encode_document(reference_values)
    name = hashlib.sha256(snapshot.encode()).digest()
    connection.execute("INSERT OR IGNORE INTO snapshots VALUES (?,?)", (name, snapshot))
    connection.execute(
        "INSERT INTO attestations (id,workload,outcome,document,snapshot) VALUES (?,?,?,?,?)",
        (record["id"], record["workload"], record["outcome"], encode_document(record), name),
    )
    dropped = connection.execute(
        "DELETE FROM attestations WHERE sequence IN (SELECT sequence FROM attestations WHERE outcome=?"
        " ORDER BY sequence DESC LIMIT -1 OFFSET ?)",
        (record["outcome"], kept),
    )
    if dropped.rowcount:
        connection.execute("DELETE FROM snapshots WHERE hash NOT IN (SELECT snapshot FROM attestations)")


def find_record(connection: sqlite3.Connection, name: str, *, workload: str = "") -> dict[str, object] | None:
    """Return a whole record by its id, or the newest one (of a workload) for "last"; None if none."""
    query = (
        "SELECT a.document,s.document AS reference_values FROM attestations a"
        " JOIN snapshots s ON s.hash=a.snapshot WHERE "
    )
    if name == "last":
        condition = "(:workload='' OR a.workload=:workload) ORDER BY a.sequence DESC LIMIT 1"
    else:
        condition = "a.id=:name"
    row = connection.execute(query + condition, {"name": name, "workload": workload}).fetchone()
    if row is None:
        return None
    record = cast("dict[str, object]", json.loads(row["document"]))
    return {**record, "reference_values": json.loads(row["reference_values"])}


def list_records(connection: sqlite3.Connection, *, workload: str, limit: int) -> list[dict[str, object]]:
    """Return short forms of the newest records, newest first. workload: empty for all."""
    rows = connection.execute(
        "SELECT document FROM attestations WHERE (?='' OR workload=?) ORDER BY sequence DESC LIMIT ?",
        (workload, workload, limit),
    )
    records = (cast("dict[str, object]", json.loads(row["document"])) for row in rows)
    return [{name: record.get(name) for name in SUMMARY} for record in records]
