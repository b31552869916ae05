"""Challenges that cost the server nothing: session and nonce are made from a key, and nothing is stored.

A session says of itself that this store's servers gave it out, for which manifest and until when; its nonce
can be computed again by them alone. Only a session that an attempt has used is remembered, until well after
it has expired: so a nonce serves once, whichever server of the store is asked, and strangers who ask for
challenges fill no table.
"""

from __future__ import annotations

import hmac
import secrets
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from krunpy.core.octets import Digest32, Nonce
from krunpy.server.refusals import Refusal

if TYPE_CHECKING:
    import sqlite3

    from krunpy.core.octets import Secret

SESSION_SIZE = 32  # bytes
TTL_S = 300
_LAYOUT = struct.Struct(">I8s12s8s")  # expires at, salt, tag of those two, tag of the manifest hash
_LATEST = 2**32 - 1  # seconds since 1970: a session that would end later ends then
_TAG_SIZE, _MANIFEST_TAG_SIZE, _SALT_SIZE = 12, 8, 8  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A challenge as it was given out. expires_at: seconds since 1970."""

    id: bytes
    nonce: Nonce
    manifest_hash: Digest32
    expires_at: int


class Challenger:
    """Makes sessions under one key, and knows its own again. Touches no store."""

    __slots__ = ("_key",)

    def __init__(self, key: Secret) -> None:
        """Take a key of 32 bytes, the same for every server of a store."""
        self._key = key

    def make_session(self, manifest_hash: Digest32, *, expires_at: int) -> Session:
        """Return a new session for a manifest. expires_at: seconds since 1970."""
        begin = struct.pack(">I", min(expires_at, _LATEST)) + secrets.token_bytes(_SALT_SIZE)
        session_id = (
            begin
            + self._mac(b"issued", begin)[:_TAG_SIZE]
            + self._mac(b"manifest", begin, manifest_hash)[:_MANIFEST_TAG_SIZE]
        )
        return self._describe(session_id, manifest_hash)

    def verify_session(self, session_id: bytes, manifest_hash: Digest32, *, now_s: int) -> Session | Refusal:
        """Return a session that was given out for the manifest and is fresh, or why it is none.

        session_id: 32 bytes. Whether it was used before is for `use_session`.
        """
        expires_at, salt, tag, manifest_tag = _LAYOUT.unpack(session_id)
        begin = session_id[: 4 + len(salt)]
        if not hmac.compare_digest(tag, self._mac(b"issued", begin)[:_TAG_SIZE]):
            return Refusal.SESSION_UNKNOWN
        if expires_at <= now_s:
            return Refusal.SESSION_EXPIRED
        wanted = self._mac(b"manifest", begin, manifest_hash)[:_MANIFEST_TAG_SIZE]
        if not hmac.compare_digest(manifest_tag, wanted):
            return Refusal.MANIFEST_MISMATCH
        return self._describe(session_id, manifest_hash)

    def _describe(self, session_id: bytes, manifest_hash: Digest32) -> Session:
        return Session(
            id=session_id,
            nonce=Nonce(self._mac(b"nonce", session_id, manifest_hash)),
            manifest_hash=manifest_hash,
            expires_at=_LAYOUT.unpack(session_id)[0],
        )

    def _mac(self, *parts: bytes) -> bytes:
        framed = b"".join(len(part).to_bytes(4, "little") + part for part in parts)
        return hmac.digest(self._key.reveal(), b"krunpy session v1" + framed, "sha256")


def was_used(connection: sqlite3.Connection, session: Session) -> bool:
    """Return whether an attempt has used the session. Only `use_session` decides a race."""
    row = connection.execute("SELECT 1 FROM used_sessions WHERE id=?", (session.id,)).fetchone()
    return row is not None


def use_session(connection: sqlite3.Connection, session: Session, *, now_s: int) -> bool:
    """Use a session up; return whether this caller is the first. One caller is, ever.

    Used sessions are forgotten TTL_S after they expired: clocks of servers that share a store may differ.
    """
    connection.execute("DELETE FROM used_sessions WHERE expires_at<=?", (now_s - TTL_S,))
    found = connection.execute(
        "INSERT OR IGNORE INTO used_sessions VALUES (?,?)", (session.id, session.expires_at)
    )
    return found.rowcount == 1
