"""What the store keeps for the reference-kbs dialect: workloads without a manifest, invitations, answers.

An invitation is a URL that registers one workload, once; afterwards the same URL is that workload's attestation
URL, because `buildah mkcw` writes it into the image. Only its token's hash is stored. An answer is the encrypted
passphrase of a guest that was attested, until it asks for it. See docs/decisions/0008.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from krunpy.core.errors import FormatError, StateError
from krunpy.core.octets import Secret
from krunpy.server.documents import encode_document
from krunpy.server.reference import SnpReferenceValue
from krunpy.server.reference_kbs_messages import hash_name
from krunpy.server.workloads import Workload, find_workload, put_workload

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

    from krunpy.server.reference_kbs_messages import KbsRegistration
    from krunpy.server.sessions import Session
    from krunpy.server.vault import Vault

TOKEN_SIZE = 8  # bytes: 11 characters, of which the guest's buffer for the URL has few
MAX_INVITATIONS = 64  # that are open at a time
ANSWER_TTL_S = 60  # the guest asks at once
_MAX_ANSWERS = 1000
_ID_SIZE = 4  # bytes
_LONGEST_TOKEN = 64  # characters
_DIALECT = "reference-kbs"
_NEVER = ("allow_debug", "allow_migrate_ma")  # as tee_config cannot either


@dataclass(frozen=True, slots=True, kw_only=True)
class Invitation:
    """One row. workload: the only id it registers, empty for any; once used, the one it did. Times: seconds.

    policy: what the operator demands of the workload's evidence, before what the registration demands.
    """

    id: str
    workload: str
    policy: Mapping[str, object]
    expires_at: int
    is_used: bool


def make_invitation_token() -> Secret:
    """Return a new token: 11 characters for a URL, 64 random bits."""
    return Secret(secrets.token_urlsafe(TOKEN_SIZE).encode())


def add_invitation(
    connection: sqlite3.Connection,
    token: Secret,
    *,
    workload: str,
    policy: Mapping[str, object],
    now_s: int,
    expires_at: int,
) -> str:
    """Store an invitation and return its name; only the token's hash is kept.

    workload: the only id that it registers, empty for any.

    Raises StateError if MAX_INVITATIONS are open already, or the workload exists, FormatError if the policy allows
    what this dialect never does.
    """
    what = "cannot make an invitation"
    for member in _NEVER:
        if policy.get(member):
            raise FormatError(what, why=f"its policy has {member}, which this dialect never allows")
    _forget_invitations(connection, now_s=now_s)
    (count,) = connection.execute("SELECT count(*) FROM invitations WHERE used_at=0").fetchone()
    if count >= MAX_INVITATIONS:
        raise StateError(what, why=f"{count} are open already", next="remove one, or wait until they expire")
    if workload and find_workload(connection, workload, now_s=now_s) is not None:
        raise StateError(what, why=f'there is a workload "{workload}"', next="choose another id")
    name = secrets.token_hex(_ID_SIZE)
    connection.execute(
        "INSERT INTO invitations VALUES (?,?,?,?,?,?,0)",
        (_hash(token.reveal()), name, workload, encode_document(policy), now_s, expires_at),
    )
    return name


def remove_invitation(connection: sqlite3.Connection, name: str) -> None:
    """Remove an open invitation by its name. Raises StateError if there is none.

    One that was used stays: guests of its workload have its URL. They end with the workload.
    """
    if connection.execute("DELETE FROM invitations WHERE id=? AND used_at=0", (name,)).rowcount == 0:
        raise StateError(
            "cannot remove the invitation",
            why=f'no open one is called "{name[:40]}"',
            next="one that was used ends with its workload: `krunpy workload revoke`",
        )


def list_invitations(connection: sqlite3.Connection, *, now_s: int) -> list[dict[str, str | int]]:
    """Return name, workload and times of every invitation; the tokens themselves are not stored."""
    rows = connection.execute(
        "SELECT id,workload,created_at,expires_at,used_at FROM invitations WHERE used_at>0 OR expires_at>?"
        " ORDER BY created_at,id",
        (now_s,),
    )
    return [dict(row) for row in rows]


def find_invitation(connection: sqlite3.Connection, token: str, *, now_s: int) -> Invitation | None:
    """Return the invitation of a token that is open or was used, None if it is unknown or has expired unused."""
    if not token.isascii() or len(token) > _LONGEST_TOKEN:
        return None
    row = connection.execute(
        "SELECT id,workload,policy,expires_at,used_at FROM invitations WHERE hash=?", (_hash(token.encode()),)
    ).fetchone()
    if row is None or (row["used_at"] == 0 and row["expires_at"] <= now_s):
        return None
    return Invitation(
        id=row["id"],
        workload=row["workload"],
        policy=cast("dict[str, object]", json.loads(row["policy"])),
        expires_at=row["expires_at"],
        is_used=row["used_at"] > 0,
    )


def use_invitation(
    connection: sqlite3.Connection, invitation: Invitation, workload: str, *, now_s: int
) -> None:
    """Use an invitation for a workload, in the same change as its registration. Once used, for the same again.

    Raises StateError if it is for another workload, or has expired.
    """
    what = f'cannot register workload "{workload}"'
    if invitation.workload not in ("", workload):
        raise StateError(what, why=f'the invitation is for workload "{invitation.workload}"')
    if invitation.expires_at <= now_s:
        raise StateError(what, why="the invitation was used, and has expired")
    connection.execute(
        "UPDATE invitations SET workload=?,used_at=max(used_at,?) WHERE id=?",
        (workload, now_s, invitation.id),
    )


def register_without_manifest(
    connection: sqlite3.Connection,
    registration: KbsRegistration,
    policy: Mapping[str, object],
    vault: Vault,
    *,
    now_s: int,
) -> bool:
    """Store a registration; return whether the workload is new. The same again changes nothing.

    policy: what the evidence has to fulfil.

    Raises StateError if there is a workload of that id, in whatever state, that differs in anything.
    """
    name = registration.workload
    known = find_workload(connection, name, now_s=now_s)
    name_hash = hash_name(name)
    value = SnpReferenceValue(
        tee="snp", launch_digest=registration.launch_digest, inputs={"dialect": _DIALECT}
    )
    if known is not None:
        _require_same(known, registration, value, policy, vault)
        return False
    put_workload(
        connection,
        Workload(
            id=name,
            manifest_hash=name_hash,
            manifest=b"",
            sealed_key=vault.seal(registration.passphrase, workload=name, manifest_hash=name_hash),
            reference_values=(value,),
            policy=dict(policy),
            status="active",
            uses_left=None,
            released=0,
            created_at=now_s,
            updated_at=now_s,
            expires_at=0,
            requires_hardware=True,
            manifest_in=None,
        ),
    )
    return True


def _require_same(
    known: Workload,
    registration: KbsRegistration,
    value: SnpReferenceValue,
    policy: Mapping[str, object],
    vault: Vault,
) -> None:
    what = f'cannot register workload "{known.id}"'
    if known.manifest_in is not None or known.status != "active":
        raise StateError(what, why=f"there is one of that id, {known.status}", next="choose another id")
    passphrase = vault.open(known.sealed_key, workload=known.id, manifest_hash=known.manifest_hash)
    is_same = passphrase == registration.passphrase
    if not is_same or known.reference_values != (value,) or known.policy != policy:
        raise StateError(what, why="it was registered with other values", next="choose another id")


def keep_answer(
    connection: sqlite3.Connection, session: Session, workload: str, answer: bytes, *, now_s: int
) -> None:
    """Keep what an attested guest may fetch. answer: encrypted to the guest's key."""
    connection.execute("DELETE FROM answers WHERE expires_at<=?", (now_s,))
    connection.execute(
        "INSERT INTO answers VALUES (?,?,?,?)", (session.id, workload, answer, now_s + ANSWER_TTL_S)
    )
    connection.execute(
        "DELETE FROM answers WHERE session IN"
        " (SELECT session FROM answers ORDER BY expires_at DESC,session LIMIT -1 OFFSET ?)",
        (_MAX_ANSWERS,),
    )


def take_answer(connection: sqlite3.Connection, session: bytes, workload: str, *, now_s: int) -> bytes | None:
    """Return a session's answer, once; None if it has none for this workload, or the workload was revoked since."""
    row = connection.execute(
        "SELECT answer FROM answers WHERE session=? AND workload=? AND expires_at>?",
        (session, workload, now_s),
    ).fetchone()
    known = find_workload(connection, workload, now_s=now_s)
    if row is None or known is None or known.manifest_in is not None or known.status != "active":
        return None
    connection.execute("DELETE FROM answers WHERE session=?", (session,))
    return bytes(row["answer"])


def _forget_invitations(connection: sqlite3.Connection, *, now_s: int) -> None:
    connection.execute(
        "DELETE FROM invitations WHERE (used_at=0 AND expires_at<=?)"
        " OR (used_at>0 AND workload NOT IN (SELECT id FROM workloads))",
        (now_s,),
    )


def _hash(token: bytes) -> bytes:
    return hashlib.sha256(b"krunpy invitation v1" + token).digest()
