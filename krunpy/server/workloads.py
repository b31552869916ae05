"""The registered workloads: which manifest, which launch digests, how often, until when, and the sealed key.

A registration never takes away: reference values and uses add up, the later expiry wins, and an empty policy
leaves the one there is (a run registers with none). Only revoking, the last use and the expiry end a workload,
and its sealed key is then erased. See docs/decisions/0004. A workload of the reference-kbs dialect has no manifest
(`reference_kbs_store`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from krunpy.core.errors import StateError
from krunpy.core.octets import Digest32
from krunpy.formats.manifest import ManifestIn
from krunpy.formats.narrow import Fields
from krunpy.server.documents import encode_document
from krunpy.server.reference import parse_reference_value
from krunpy.server.refusals import Refusal
from krunpy.server.registration import MAX_REFERENCE_VALUES

if TYPE_CHECKING:
    import sqlite3

    from krunpy.server.reference import ReferenceValue
    from krunpy.server.registration import Registration
    from krunpy.server.vault import Vault

ENDED_KEPT = 1000  # ended, revoked and expired workloads that stay for show
_USABLE = "status='active' AND (expires_at=0 OR expires_at>:now)"
_COLUMNS = (
    "id,manifest_hash,manifest,sealed_key,reference_values,policy,status,uses_left,released,"
    "created_at,updated_at,expires_at,requires_hardware,manifest_in"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One row. status: active, ended, revoked or expired. uses_left: None for unlimited. Times: seconds.

    requires_hardware: the key is released to hardware alone, whatever the server's mode.
    manifest_in: what evidence has to name the manifest by; it never changes while the workload is active. None if
    there is no manifest: manifest is then empty, and manifest_hash is made from the id.
    """

    id: str
    manifest_hash: Digest32
    manifest: bytes
    sealed_key: bytes
    reference_values: tuple[ReferenceValue, ...]
    policy: dict[str, object]
    status: str
    uses_left: int | None
    released: int
    created_at: int
    updated_at: int
    expires_at: int
    requires_hardware: bool
    manifest_in: ManifestIn | None

    def find_refusal(self) -> Refusal | None:
        """Return why nothing is released to this workload, or None."""
        return _REFUSALS.get(self.status)


_REFUSALS = {
    "revoked": Refusal.WORKLOAD_REVOKED,
    "ended": Refusal.WORKLOAD_ENDED,
    "expired": Refusal.WORKLOAD_EXPIRED,
}


def find_workload(connection: sqlite3.Connection, workload: str, *, now_s: int) -> Workload | None:
    """Return a workload by its id, or None."""
    row = connection.execute(f"SELECT {_COLUMNS} FROM workloads WHERE id=?", (workload,)).fetchone()  # noqa: S608
    return None if row is None else _from_row(row, now_s)


def find_by_manifest(
    connection: sqlite3.Connection, manifest_hash: Digest32, *, now_s: int
) -> Workload | None:
    """Return the one workload of a manifest, or None."""
    workload = _find_by_hash(connection, manifest_hash, now_s=now_s)
    return workload if workload is not None and workload.manifest_in is not None else None


def find_without_manifest(
    connection: sqlite3.Connection, name_hash: Digest32, *, now_s: int
) -> Workload | None:
    """Return the one workload that has no manifest and this hash in its place, or None."""
    workload = _find_by_hash(connection, name_hash, now_s=now_s)
    return workload if workload is not None and workload.manifest_in is None else None


def _find_by_hash(connection: sqlite3.Connection, manifest_hash: Digest32, *, now_s: int) -> Workload | None:
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM workloads WHERE manifest_hash=?",  # noqa: S608 - fixed names
        (manifest_hash,),
    ).fetchone()
    return None if row is None else _from_row(row, now_s)


def find_hardware_only(connection: sqlite3.Connection) -> str | None:
    """Return the id of a workload with a key that only hardware may have, or None."""
    rows = connection.execute(
        "SELECT id,manifest,requires_hardware FROM workloads WHERE status='active' AND sealed_key<>x''"
    )
    for row in rows:
        if row["requires_hardware"]:
            return str(row["id"])
        # canonical JSON: this key stands once, and in no string without backslashes; reading them whole takes long
        tees = bytes(row["manifest"]).partition(b'"tees":[')[2].partition(b"]")[0]
        if b'"software"' not in tees:
            return str(row["id"])
    return None


def list_workloads(
    connection: sqlite3.Connection, *, limit: int, after: str, now_s: int
) -> list[dict[str, object]]:
    """Return short forms of at most `limit` workloads, in the order of their ids, after one id."""
    rows = connection.execute(
        "SELECT id,CASE WHEN manifest_in='' THEN x'' ELSE manifest_hash END AS manifest_hash,"
        "CASE WHEN status='active' AND expires_at>0 AND expires_at<=:now"
        " THEN 'expired' ELSE status END AS status,uses_left,released,created_at,updated_at,expires_at"
        " FROM workloads WHERE id>:after ORDER BY id LIMIT :limit",
        {"now": now_s, "after": after, "limit": limit},
    )
    return [{**dict(row), "manifest_hash": bytes(row["manifest_hash"]).hex()} for row in rows]


def register(connection: sqlite3.Connection, registration: Registration, vault: Vault, *, now_s: int) -> bool:
    """Store a registration; return whether the workload is new or begins anew.

    Raises StateError if the id is active with another manifest, binding of it or disk key, or revoked.
    """
    known = find_workload(connection, registration.manifest.workload, now_s=now_s)
    if known is not None and known.status == "active":
        _require_same(known, registration, vault)
        _add(connection, known, registration, now_s=now_s)
        return False
    if known is not None and known.status == "revoked" and not registration.restores:
        raise StateError(
            f'cannot register workload "{known.id}"',
            why="it was revoked",
            next='an administrator can register it with "restore": true',
        )
    _start(connection, registration, vault, now_s=now_s)
    return True


def revoke(connection: sqlite3.Connection, workload: str, *, now_s: int) -> None:
    """Release nothing more to a workload, and erase its key. Raises StateError if there is none."""
    found = connection.execute(
        "UPDATE workloads SET status='revoked',sealed_key=x'',updated_at=? WHERE id=?", (now_s, workload)
    )
    if found.rowcount == 0:
        raise StateError("cannot revoke the workload", why=f'there is no workload "{workload[:80]}"')


def find_sealed_key(connection: sqlite3.Connection, workload: Workload, *, now_s: int) -> Refusal | bytes:
    """Return the sealed key if there is a use left, or why nothing is released.

    Looks at the row again: since the guest was appraised, others may have revoked it or used it up.
    """
    row = connection.execute(
        f"SELECT sealed_key FROM workloads WHERE id=:id AND manifest_hash=:manifest AND {_USABLE}"  # noqa: S608
        " AND (uses_left IS NULL OR uses_left>0)",
        {"id": workload.id, "manifest": workload.manifest_hash, "now": now_s},
    ).fetchone()
    if row is not None:
        return bytes(row["sealed_key"])
    known = find_workload(connection, workload.id, now_s=now_s)
    return (known and known.find_refusal()) or Refusal.WORKLOAD_UNKNOWN


def count_release(connection: sqlite3.Connection, workload: Workload, *, now_s: int) -> None:
    """Take one use, in the same change as `find_sealed_key`; the last one ends the workload."""
    connection.execute(
        "UPDATE workloads SET released=released+1,updated_at=?,uses_left=uses_left-1 WHERE id=?",
        (now_s, workload.id),
    )
    connection.execute(
        "UPDATE workloads SET status='ended',sealed_key=x'' WHERE id=? AND uses_left=0", (workload.id,)
    )


def give_back_use(connection: sqlite3.Connection, workload: str, *, now_s: int) -> None:
    """Take away one use of an active workload that counts them; the last one ends it."""
    connection.execute(
        "UPDATE workloads SET uses_left=uses_left-1,updated_at=? WHERE id=? AND status='active' AND uses_left>0",
        (now_s, workload),
    )
    connection.execute(
        "UPDATE workloads SET status='ended',sealed_key=x'' WHERE id=? AND status='active' AND uses_left=0",
        (workload,),
    )


def forget_ended(connection: sqlite3.Connection, *, now_s: int) -> None:
    """Erase the keys of expired workloads, and drop all but the last ENDED_KEPT that are over.

    Revoked ones are never dropped: they would come back to life.
    """
    over = "expires_at>0 AND expires_at<=:now"
    connection.execute(
        f"UPDATE workloads SET sealed_key=x'' WHERE status='active' AND {over} AND sealed_key<>x''",  # noqa: S608
        {"now": now_s},
    )
    connection.execute(
        f"DELETE FROM workloads WHERE id IN (SELECT id FROM workloads WHERE status='ended'"  # noqa: S608
        f" OR (status='active' AND {over}) ORDER BY updated_at DESC LIMIT -1 OFFSET :kept)",
        {"now": now_s, "kept": ENDED_KEPT},
    )


def _require_same(known: Workload, registration: Registration, vault: Vault) -> None:
    what = f'cannot register workload "{known.id}"'
    if known.manifest_hash != registration.manifest_hash:
        raise StateError(
            what,
            why=f"it is active with manifest {known.manifest_hash.hex()[:16]}, "
            f"seen {registration.manifest_hash.hex()[:16]}",
            next="revoke it first, or use another id",
        )
    if known.manifest_in != registration.manifest_in:
        raise StateError(
            what,
            why=f"it is active with its manifest in {known.manifest_in}, seen {registration.manifest_in}",
            next="revoke it first, or use another id",
        )
    disk_key = vault.open(known.sealed_key, workload=known.id, manifest_hash=known.manifest_hash)
    if disk_key != registration.disk_key:
        raise StateError(what, why="it is active with another disk key", next="revoke it first")


def _add(connection: sqlite3.Connection, known: Workload, registration: Registration, *, now_s: int) -> None:
    values = {(value.tee, value.name): value for value in known.reference_values}
    for value in registration.reference_values:
        values.pop((value.tee, value.name), None)  # the newest goes to the end
        values[value.tee, value.name] = value
    is_unlimited = known.uses_left is None or registration.uses == 0
    expiries = (known.expires_at, _expiry(registration, now_s))
    connection.execute(
        "UPDATE workloads SET reference_values=?,policy=?,uses_left=?,expires_at=?,updated_at=?,"
        "requires_hardware=requires_hardware OR ? WHERE id=?",
        (
            _encode_values(list(values.values())[-MAX_REFERENCE_VALUES:]),
            encode_document(registration.policy or known.policy),
            None if is_unlimited else (known.uses_left or 0) + registration.uses,
            0 if 0 in expiries else max(expiries),
            now_s,
            registration.requires_hardware,
            known.id,
        ),
    )


def _start(connection: sqlite3.Connection, registration: Registration, vault: Vault, *, now_s: int) -> None:
    workload = registration.manifest.workload
    manifest_hash = registration.manifest_hash
    put_workload(
        connection,
        Workload(
            id=workload,
            manifest_hash=manifest_hash,
            manifest=registration.manifest_bytes,
            sealed_key=vault.seal(registration.disk_key, workload=workload, manifest_hash=manifest_hash),
            reference_values=registration.reference_values,
            policy=registration.policy,
            status="active",
            uses_left=registration.uses or None,
            released=0,
            created_at=now_s,
            updated_at=now_s,
            expires_at=_expiry(registration, now_s),
            requires_hardware=registration.requires_hardware,
            manifest_in=registration.manifest_in,
        ),
    )


def put_workload(connection: sqlite3.Connection, workload: Workload) -> None:
    """Store a workload in the place of the one of its id, if any."""
    connection.execute(
        f"INSERT OR REPLACE INTO workloads ({_COLUMNS}) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)",  # noqa: S608
        (
            workload.id,
            workload.manifest_hash,
            workload.manifest,
            workload.sealed_key,
            _encode_values(list(workload.reference_values)),
            encode_document(workload.policy),
            workload.status,
            workload.uses_left,
            workload.released,
            workload.created_at,
            workload.updated_at,
            workload.expires_at,
            workload.requires_hardware,
            workload.manifest_in or "",
        ),
    )


def _expiry(registration: Registration, now_s: int) -> int:
    return now_s + registration.expires_in_s if registration.expires_in_s else 0


def _encode_values(values: list[ReferenceValue]) -> str:
    return encode_document([value.to_document() for value in values])


def _from_row(row: sqlite3.Row, now_s: int) -> Workload:
    values = cast("list[object]", json.loads(row["reference_values"]))
    has_expired = row["status"] == "active" and 0 < row["expires_at"] <= now_s
    return Workload(
        id=row["id"],
        manifest_hash=Digest32(row["manifest_hash"]),
        manifest=bytes(row["manifest"]),
        sealed_key=bytes(row["sealed_key"]),
        reference_values=tuple(
            parse_reference_value(Fields(value, f"reference_values[{index}]"))
            for index, value in enumerate(values)
        ),
        policy=cast("dict[str, object]", json.loads(row["policy"])),
        status="expired" if has_expired else row["status"],
        uses_left=row["uses_left"],
        released=row["released"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        expires_at=row["expires_at"],
        requires_hardware=bool(row["requires_hardware"]),
        manifest_in=ManifestIn(row["manifest_in"]) if row["manifest_in"] else None,
    )
