"""The store: one SQLite file in WAL mode, shared by every server process that works on it.

One connection per process behind one lock; each change is one immediate transaction, so that a nonce or a
use is taken once however many processes race for it. What the tables mean is in sessions, workloads,
records, tokens and reference_kbs_store.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from typing import TYPE_CHECKING

from krunpy.core.errors import HostError

if TYPE_CHECKING:
    from collections.abc import Iterator

SCHEMA_VERSION = 4
BUSY_TIMEOUT_S = 10
_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE tokens (
  id TEXT PRIMARY KEY, hash BLOB NOT NULL UNIQUE, role TEXT NOT NULL,
  created_at INTEGER NOT NULL, expires_at INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE used_sessions (id BLOB PRIMARY KEY, expires_at INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX used_sessions_by_expiry ON used_sessions (expires_at);
CREATE TABLE workloads (
  id TEXT PRIMARY KEY, manifest_hash BLOB NOT NULL UNIQUE, manifest BLOB NOT NULL, sealed_key BLOB NOT NULL,
  reference_values TEXT NOT NULL, policy TEXT NOT NULL, status TEXT NOT NULL, uses_left INTEGER,
  released INTEGER NOT NULL, created_at INTEGER NOT NULL, updated_at INTEGER NOT NULL,
  expires_at INTEGER NOT NULL, requires_hardware INTEGER NOT NULL, manifest_in TEXT NOT NULL);
CREATE TABLE snapshots (hash BLOB PRIMARY KEY, document TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE attestations (
  sequence INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, workload TEXT NOT NULL,
  outcome TEXT NOT NULL, document TEXT NOT NULL, snapshot BLOB NOT NULL);
CREATE INDEX attestations_by_outcome ON attestations (outcome, sequence);
CREATE INDEX attestations_by_workload ON attestations (workload, sequence);
CREATE INDEX attestations_by_snapshot ON attestations (snapshot);
"""
# version 3 did not speak the reference-kbs dialect
_UPGRADE_3 = """
CREATE TABLE invitations (
  hash BLOB PRIMARY KEY, id TEXT NOT NULL UNIQUE, workload TEXT NOT NULL, policy TEXT NOT NULL,
  created_at INTEGER NOT NULL, expires_at INTEGER NOT NULL, used_at INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE answers (
  session BLOB PRIMARY KEY, workload TEXT NOT NULL, answer BLOB NOT NULL, expires_at INTEGER NOT NULL) WITHOUT ROWID;
"""
# version 2 knew manifests in the initrd alone
_UPGRADE_2 = """
ALTER TABLE workloads ADD COLUMN manifest_in TEXT NOT NULL DEFAULT 'initrd';
"""
# version 1 knew who may have a key by the manifest alone
_UPGRADE_1 = """
DROP TABLE sessions;
CREATE TABLE used_sessions (id BLOB PRIMARY KEY, expires_at INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX used_sessions_by_expiry ON used_sessions (expires_at);
ALTER TABLE workloads ADD COLUMN requires_hardware INTEGER NOT NULL DEFAULT 1;
UPDATE workloads SET requires_hardware=0 WHERE instr(manifest,CAST('"software"' AS BLOB))>0;
"""
_SCRIPTS = {
    0: _SCHEMA + _UPGRADE_3,
    1: _UPGRADE_1 + _UPGRADE_2 + _UPGRADE_3,
    2: _UPGRADE_2 + _UPGRADE_3,
    3: _UPGRADE_3,
}  # by the version found


class Database:
    """An open store. Every method may be called from any thread."""

    def __init__(self, path: str) -> None:
        """Open the store, making it if it is missing; the caller keeps other first openers away.

        Raises HostError if the file cannot be opened, is damaged, or has another schema.
        """
        self._path = path
        self._lock = threading.RLock()
        with _described(path):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._connection = sqlite3.connect(
                path, isolation_level=None, check_same_thread=False, timeout=BUSY_TIMEOUT_S
            )
            self._connection.row_factory = sqlite3.Row
            # WAL lets readers pass writers; FULL, because a consumed nonce must survive a power cut
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON", "trusted_schema=OFF"):
                self._connection.execute(f"PRAGMA {pragma}").fetchall()
            self._require_schema()

    @contextlib.contextmanager
    def change(self) -> Iterator[sqlite3.Connection]:
        """Hold the store's one write transaction while the block runs; an exception undoes it.

        Raises HostError if the store cannot be used, or stays locked for BUSY_TIMEOUT_S.
        """
        with self._lock, _described(self._path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.commit()  # a failed one leaves the transaction open: it is undone as well
            except BaseException:
                self._connection.rollback()
                raise

    @contextlib.contextmanager
    def look(self) -> Iterator[sqlite3.Connection]:
        """Hold one consistent view for reading. Raises HostError if the store cannot be used."""
        with self._lock, _described(self._path):
            self._connection.execute("BEGIN")
            try:
                yield self._connection
            finally:
                self._connection.rollback()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def _require_schema(self) -> None:
        (version,) = self._connection.execute("PRAGMA user_version").fetchone()
        if version in _SCRIPTS:
            self._connection.executescript(
                f"BEGIN IMMEDIATE;{_SCRIPTS[version]}PRAGMA user_version={SCHEMA_VERSION};COMMIT;"
            )
        elif version != SCHEMA_VERSION:
            raise HostError(
                f"cannot open the store {self._path}",
                why=f"seen schema version {version}, wanted {SCHEMA_VERSION}",
                next="use the krunpy that wrote it, or another data directory",
            )


def find_meta(connection: sqlite3.Connection, name: str) -> bytes | None:
    """Return a value that belongs to the whole store, or None."""
    row = connection.execute("SELECT value FROM meta WHERE name=?", (name,)).fetchone()
    return None if row is None else bytes(row["value"])


def set_meta(connection: sqlite3.Connection, name: str, value: bytes) -> None:
    """Set a value that belongs to the whole store."""
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?,?)", (name, value))


@contextlib.contextmanager
def _described(path: str) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise HostError(f"cannot use the store {path}", why=f"SQLite says: {error}") from error
    except OSError as error:
        raise HostError(f"cannot open the store {path}", why=error.strerror or "error") from error
