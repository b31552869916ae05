"""Who may do what: bearer tokens. Only their SHA-256 is stored; a token is 32 random bytes in hex."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from enum import StrEnum
from typing import TYPE_CHECKING

from krunpy.core.errors import StateError
from krunpy.core.octets import Secret

if TYPE_CHECKING:
    import sqlite3

MAX_TOKENS = 64
_ID_SIZE = 4  # bytes


class Role(StrEnum):
    """What a token allows. Each role may do what the ones after it may."""

    ADMIN = "admin"
    REGISTRAR = "registrar"
    READER = "reader"


_RANKS = (Role.READER, Role.REGISTRAR, Role.ADMIN)


def allows(seen: Role, wanted: Role) -> bool:
    """Return whether a token of the role seen may do what the wanted role may."""
    return _RANKS.index(seen) >= _RANKS.index(wanted)


def make_token() -> Secret:
    """Return a new token: 64 hex digits."""
    return Secret(secrets.token_hex(32).encode())


def add_token(
    connection: sqlite3.Connection, token: Secret, role: Role, *, now_s: int, expires_at: int
) -> str:
    """Store a token's hash and return its name. expires_at: seconds since 1970, 0 for never.

    Raises StateError if the store holds MAX_TOKENS already.
    """
    connection.execute("DELETE FROM tokens WHERE expires_at>0 AND expires_at<=?", (now_s,))
    (count,) = connection.execute("SELECT count(*) FROM tokens").fetchone()
    if count >= MAX_TOKENS:
        raise StateError("cannot add a token", why=f"there are {count} already", next="remove one first")
    name = secrets.token_hex(_ID_SIZE)
    connection.execute(
        "INSERT INTO tokens VALUES (?,?,?,?,?)", (name, _hash(token.reveal()), role.value, now_s, expires_at)
    )
    return name


def remove_token(connection: sqlite3.Connection, name: str) -> None:
    """Remove a token by its name. Raises StateError if there is none."""
    if connection.execute("DELETE FROM tokens WHERE id=?", (name,)).rowcount == 0:
        raise StateError("cannot remove the token", why=f'there is no token "{name[:40]}"')


def list_tokens(connection: sqlite3.Connection) -> list[dict[str, str | int]]:
    """Return name, role and times of every token; the tokens themselves are not stored."""
    rows = connection.execute("SELECT id,role,created_at,expires_at FROM tokens ORDER BY created_at,id")
    return [dict(row) for row in rows]


def find_role(connection: sqlite3.Connection, token: Secret, *, now_s: int) -> Role | None:
    """Return the role of a token, or None if it is unknown or has expired."""
    seen = _hash(token.reveal())
    found: Role | None = None
    rows = connection.execute("SELECT hash,role,expires_at FROM tokens LIMIT ?", (MAX_TOKENS,))
    for row in rows:  # all of them: the time says nothing about which one fits
        is_same = hmac.compare_digest(bytes(row["hash"]), seen)
        if is_same and (row["expires_at"] == 0 or row["expires_at"] > now_s):
            found = Role(row["role"])
    return found


def _hash(token: bytes) -> bytes:
    return hashlib.sha256(b"krunpy token v1" + token).digest()
