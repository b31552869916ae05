"""What each route does: a call in, an answer out. Nothing here knows of sockets or of ASGI."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from krunpy import __version__
from krunpy.core.errors import FormatError
from krunpy.core.octets import Digest32, PublicKey32
from krunpy.formats.frames import MAX_PAYLOAD
from krunpy.formats.manifest import TEES, require_workload_id
from krunpy.server.attestation import AttestRequest, attest
from krunpy.server.database import find_meta
from krunpy.server.documents import parse_document, take_base64
from krunpy.server.http import Answer, NotFoundError, RefusedCallError
from krunpy.server.ids import is_id
from krunpy.server.mode import Mode
from krunpy.server.records import find_record, list_records
from krunpy.server.reference_kbs_messages import is_kbs_id
from krunpy.server.refusals import MESSAGES, Refusal
from krunpy.server.registration import parse_registration
from krunpy.server.sessions import SESSION_SIZE, TTL_S
from krunpy.server.tokens import Role, allows
from krunpy.server.workloads import (
    Workload,
    find_workload,
    forget_ended,
    give_back_use,
    list_workloads,
    register,
    revoke,
)

if TYPE_CHECKING:
    import sqlite3
    from typing import Protocol

    from krunpy.server.broker import Broker
    from krunpy.server.http import Call
    from krunpy.server.registration import Registration

    class Change(Protocol):
        """A change of one workload in the store."""

        def __call__(self, connection: sqlite3.Connection, workload: str, /, *, now_s: int) -> None: ...


MAX_LISTED_WORKLOADS = 1000
MAX_LISTED_RECORDS = 500
_STATUSES = {Refusal.DISK_KEY_DAMAGED: 500, Refusal.COULD_NOT_CHECK: 503}  # all other refusals: 403
_LISTED = 50  # records, if the caller does not say


def show_info(broker: Broker, _call: Call, _role: Role | None) -> Answer:
    """Say who this server is."""
    document = {
        "key": broker.signer.public_key.hex(),
        "mode": broker.mode.value,
        "issuer": broker.signer.issuer,
        "version": __version__,
    }
    return Answer(status=200, document=document, simulated=broker.mode is Mode.DEVELOPMENT)


def show_health(_broker: Broker, _call: Call, _role: Role | None) -> Answer:
    """Say that the process answers."""
    return Answer(status=200, document={"status": "ok"})


def show_readiness(broker: Broker, _call: Call, _role: Role | None) -> Answer:
    """Say whether the store can be read and is still the one whose keys are open."""
    with broker.database.look() as connection:
        is_same = find_meta(connection, "kek") == broker.vault.name
    if not is_same:
        raise RefusedCallError(503, "store", "the store was replaced")
    return Answer(status=200, document={"status": "ready"})


def challenge(broker: Broker, call: Call, _role: Role | None) -> Answer:
    """Make a session for a manifest hash, known or not: who asks learns nothing, and the store keeps nothing."""
    fields = parse_document(call.body)
    manifest_hash = Digest32(fields.take_hex("manifest_hash", Digest32.size))
    fields.require_no_more()
    session = broker.challenger.make_session(manifest_hash, expires_at=int(broker.now_s()) + TTL_S)
    document = {"session": session.id.hex(), "nonce": session.nonce.hex(), "expires_in_s": TTL_S}
    return Answer(status=200, document=document)


def attest_guest(broker: Broker, call: Call, _role: Role | None) -> Answer:
    """Appraise evidence and release, or refuse with a code."""
    fields = parse_document(call.body)
    tee = fields.take_string("tee")
    if tee not in TEES:
        raise FormatError("cannot read body.tee", why=f'"{tee[:40]}" is not one of {", ".join(TEES)}')
    request = AttestRequest(
        session=fields.take_hex("session", SESSION_SIZE),
        tee=tee,
        guest_key=PublicKey32(fields.take_hex("guest_public_key", PublicKey32.size)),
        manifest_hash=Digest32(fields.take_hex("manifest_hash", Digest32.size)),
        evidence=take_base64(fields, "evidence", limit=MAX_PAYLOAD),
        remote=call.remote,
    )
    fields.require_no_more()
    outcome = attest(broker, request)
    if outcome.release is not None:
        document: dict[str, object] = {
            "attestation": outcome.id,
            "signature": base64.b64encode(outcome.release.signature).decode(),
            "sealed": base64.b64encode(outcome.release.sealed).decode(),
            "simulated": outcome.simulated,
            "hardware": outcome.hardware,
            "issuer": broker.signer.issuer,
        }
        return Answer(status=200, document=document, simulated=outcome.simulated)
    refusal = outcome.refusal or Refusal.EVIDENCE_NOT_VERIFIED
    status = _STATUSES.get(refusal, 403)
    document = {"attestation": outcome.id, "error": refusal.value, "message": MESSAGES[refusal]}
    return Answer(status=status, document=document, simulated=outcome.simulated)


def register_workload(broker: Broker, call: Call, role: Role | None) -> Answer:
    """Store a registration: 201 if the workload is new or begins anew, else 200."""
    registration = parse_registration(
        parse_document(call.body),
        workload=require_workload_id(call.names["id"]),
        server_key=broker.signer.public_key,
        requires_hardware=broker.mode is Mode.PRODUCTION,
    )
    if registration.restores and (role is None or not allows(role, Role.ADMIN)):
        raise RefusedCallError(403, "forbidden", "restoring a revoked workload needs an admin token")
    _require_mode(broker, registration)
    broker.appraiser.require_policy(registration.policy)
    now_s = int(broker.now_s())
    with broker.database.change() as connection:
        is_new = register(connection, registration, broker.vault, now_s=now_s)
        forget_ended(connection, now_s=now_s)
        workload = find_workload(connection, registration.manifest.workload, now_s=now_s)
    return Answer(status=201 if is_new else 200, document=_describe(_require(workload)))


def _require_mode(broker: Broker, registration: Registration) -> None:
    """Raise FormatError if a workload does not belong on a server of this mode."""
    what = "cannot register the workload"
    is_hardware_only = registration.requires_hardware or "software" not in registration.manifest.tees
    if broker.mode is Mode.DEVELOPMENT and is_hardware_only:
        raise FormatError(
            what,
            why="it is for hardware only, and this server in mode development accepts simulated evidence",
        )
    if broker.mode is Mode.PRODUCTION and not registration.requires_hardware:
        raise FormatError(
            what,
            why="require_hardware is false, and this server in mode production releases to hardware only",
        )
    for value in registration.reference_values:
        is_simulation = value.tee == "software" and broker.mode is not Mode.DEVELOPMENT
        if is_simulation or not broker.appraiser.allows_tee(value.tee):
            raise FormatError(
                "cannot use the reference values",
                why=f'one is for TEE "{value.tee}", which this server in mode {broker.mode} never accepts',
            )


def show_workload(broker: Broker, call: Call, _role: Role | None) -> Answer:
    """Show everything about a workload but its key."""
    with broker.database.look() as connection:
        workload = find_workload(connection, _require_id(call), now_s=int(broker.now_s()))
    return Answer(status=200, document=_describe(_require(workload)))


def show_workloads(broker: Broker, call: Call, _role: Role | None) -> Answer:
    """Show the workloads in short, at most `limit` after the id `after`."""
    _require_query(call, "limit", "after")
    limit = _take_limit(call, MAX_LISTED_WORKLOADS, MAX_LISTED_WORKLOADS)
    with broker.database.look() as connection:
        found = list_workloads(
            connection, limit=limit, after=call.query.get("after", ""), now_s=int(broker.now_s())
        )
    return Answer(status=200, document={"workloads": found})


def revoke_workload(broker: Broker, call: Call, _role: Role | None) -> Answer:
    """Release nothing more to a workload."""
    return _change_workload(broker, call, revoke)


def end_use(broker: Broker, call: Call, _role: Role | None) -> Answer:
    """Give back a use that a run did not take."""
    return _change_workload(broker, call, give_back_use)


def _change_workload(broker: Broker, call: Call, change: Change) -> Answer:
    """Change a workload that there is, and show how it then stands."""
    name, now_s = _require_id(call), int(broker.now_s())
    with broker.database.change() as connection:
        _require(find_workload(connection, name, now_s=now_s))
        change(connection, name, now_s=now_s)
        workload = find_workload(connection, name, now_s=now_s)
    return Answer(status=200, document=_describe(_require(workload)))


def show_attestations(broker: Broker, call: Call, _role: Role | None) -> Answer:
    """Show the newest records in short."""
    _require_query(call, "workload", "limit")
    limit = _take_limit(call, _LISTED, MAX_LISTED_RECORDS)
    with broker.database.look() as connection:
        found = list_records(connection, workload=call.query.get("workload", ""), limit=limit)
    return Answer(status=200, document={"attestations": found})


def show_attestation(broker: Broker, call: Call, _role: Role | None) -> Answer:
    """Show one record whole; `last` is the newest, of one workload if the query names it."""
    _require_query(call, "workload")
    name = call.names["id"]
    if name != "last" and not is_id(name):
        raise NotFoundError("cannot show the attestation", why=f'"{name[:40]}" is no attestation id')
    with broker.database.look() as connection:
        record = find_record(connection, name, workload=call.query.get("workload", ""))
    if record is None:
        raise NotFoundError("cannot show the attestation", why=f'there is no record "{name}"')
    return Answer(status=200, document=record, simulated=bool(record["simulated"]))


def _describe(workload: Workload) -> dict[str, object]:
    return {
        "id": workload.id,
        "manifest_hash": workload.manifest_hash.hex() if workload.manifest_in is not None else "",
        "manifest": base64.b64encode(workload.manifest).decode(),
        "reference_values": [value.to_document() for value in workload.reference_values],
        "policy": workload.policy,
        "require_hardware": workload.requires_hardware,
        "manifest_in": workload.manifest_in or "",
        "status": workload.status,
        "uses_left": workload.uses_left,
        "released": workload.released,
        "created_at": workload.created_at,
        "updated_at": workload.updated_at,
        "expires_at": workload.expires_at,
    }


def _require(workload: Workload | None) -> Workload:
    if workload is None:
        raise NotFoundError("cannot show the workload", why="there is no workload of that id")
    return workload


def _require_id(call: Call) -> str:
    name = call.names["id"]
    return name if is_kbs_id(name) else require_workload_id(name)


def _require_query(call: Call, *known: str) -> None:
    unknown = set(call.query) - set(known)
    if unknown:
        raise FormatError(
            "cannot read the query",
            why=f"unknown: {', '.join(sorted(unknown))[:80]}, known: {', '.join(known)}",
        )


def _take_limit(call: Call, default: int, maximum: int) -> int:
    text = call.query.get("limit", str(default))
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(maximum))):
        raise FormatError("cannot read the query", why=f"limit is 1 to {maximum}")
    return min(max(int(text), 1), maximum)
