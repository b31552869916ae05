"""Challenges: a session and a nonce, both random, bound to a manifest hash, used once, forgotten soon."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from krunpy.core.errors import StateError
from krunpy.core.octets import Digest32, Nonce
from krunpy.server.refusals import Refusal

if TYPE_CHECKING:
    import sqlite3

SESSION_SIZE = 32  # bytes
_ROWS_PER_SESSION = 4  # used and expired ones are kept a while, to name the right reason


class BusyError(StateError):
    """Too many sessions are open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionLimits:
    """Bounds on what strangers can make the server remember."""

    ttl_s: int = 300
    open_sessions: int = 4096
    open_sessions_of_an_address: int = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A challenge as it was given out."""

    id: bytes
    nonce: Nonce
    manifest_hash: Digest32


def open_session(
    connection: sqlite3.Connection, manifest_hash: Digest32, remote: str, limits: SessionLimits, *, now_s: int
) -> Session:
    """Store and return a new session.

    remote: the peer's address; now_s: seconds since 1970.

    Raises BusyError if too many sessions are open, of this address or of all.
    """
    connection.execute("DELETE FROM sessions WHERE expires_at<=?", (now_s - limits.ttl_s,))
    is_open = "used=0 AND expires_at>?"
    (count,) = connection.execute(f"SELECT count(*) FROM sessions WHERE {is_open}", (now_s,)).fetchone()  # noqa: S608
    (of_address,) = connection.execute(
        f"SELECT count(*) FROM sessions WHERE {is_open} AND remote=?",  # noqa: S608
        (now_s, remote),
    ).fetchone()
    if count >= limits.open_sessions or of_address >= limits.open_sessions_of_an_address:
        raise BusyError("cannot open a session", why=f"{count} sessions are open, {of_address} of {remote}")
    connection.execute(
        f"DELETE FROM sessions WHERE id IN (SELECT id FROM sessions WHERE NOT ({is_open})"  # noqa: S608
        " ORDER BY expires_at DESC LIMIT -1 OFFSET ?)",
        (now_s, limits.open_sessions * _ROWS_PER_SESSION),
    )
    session = Session(
        id=secrets.token_bytes(SESSION_SIZE),
        nonce=Nonce(secrets.token_bytes(Nonce.size)),
        manifest_hash=manifest_hash,
    )
    connection.execute(
        "INSERT INTO sessions (id,nonce,manifest_hash,remote,expires_at) VALUES (?,?,?,?,?)",
        (session.id, session.nonce, manifest_hash, remote, now_s + limits.ttl_s),
    )
    return session


def consume_session(connection: sqlite3.Connection, session_id: bytes, *, now_s: int) -> Session | Refusal:
    """Return the session and mark it used, or the reason why it cannot be used. One caller gets it, ever."""
    row = connection.execute(
        "UPDATE sessions SET used=1 WHERE id=? AND used=0 AND expires_at>? RETURNING nonce,manifest_hash",
        (session_id, now_s),
    ).fetchone()
    if row is not None:
        return Session(id=session_id, nonce=Nonce(row["nonce"]), manifest_hash=Digest32(row["manifest_hash"]))
    row = connection.execute("SELECT used FROM sessions WHERE id=?", (session_id,)).fetchone()
    if row is None:
        return Refusal.SESSION_UNKNOWN
    return Refusal.SESSION_USED if row["used"] else Refusal.SESSION_EXPIRED
