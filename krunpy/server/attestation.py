"""One attestation, from the session to the sealed answer. The order of its checks is the server's promise."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from krunpy.attest.verdict import SIMULATED_HEADING
from krunpy.attest.verify import SimulatedClaims
from krunpy.core.errors import FormatError, HostError
from krunpy.formats.binding import make_report_data
from krunpy.formats.manifest import parse_manifest
from krunpy.server.appraiser import Appraisal, Wanted
from krunpy.server.ids import make_id
from krunpy.server.mode import Mode
from krunpy.server.records import add_record
from krunpy.server.refusals import MESSAGES, Refusal, make_refused_check
from krunpy.server.release import (
    Recipient,
    Release,
    SimulatedSigner,
    is_hardware,
    make_release,
    make_simulated_release,
    require_guest_key,
)
from krunpy.server.sessions import use_session, was_used
from krunpy.server.workloads import count_release, find_by_manifest, find_sealed_key

if TYPE_CHECKING:
    import sqlite3

    from krunpy.core.octets import Digest32, PublicKey32, Secret
    from krunpy.server.broker import Broker
    from krunpy.server.sessions import Session
    from krunpy.server.workloads import Workload


_NOTED = (
    "id", "time", "workload", "outcome", "error", "detail", "tee", "simulated", "remote", "timings_us",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestRequest:
    """What a guest sends through its relay. evidence: the EVIDENCE payload; remote: the relay's address."""

    session: bytes
    tee: str
    guest_key: PublicKey32
    manifest_hash: Digest32
    evidence: bytes
    remote: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How an attestation ended: a release or a refusal, never both.

    id:       names its record; empty if none was kept.
    hardware: verified evidence that hardware signed. Not the opposite of simulated: evidence may be neither.
    """

    id: str
    simulated: bool
    hardware: bool
    release: Release | None
    refusal: Refusal | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Course:
    """What is known so far; each step returns a fuller one. The first refusal ends it."""

    refusal: Refusal | None = None
    detail: str = ""
    session: Session | None = None
    workload: Workload | None = None
    appraisal: Appraisal | None = None
    release: Release | None = None
    marks: tuple[tuple[str, float], ...] = ()


def attest(broker: Broker, request: AttestRequest) -> Outcome:
    """Return the sealed disk key of the one workload whose manifest was attested, or a refusal.

    1. The session is one that this store's servers gave out, for this manifest; it is fresh and was never used.
    2. A secret can be sealed to the guest key.
    3. A workload is registered for the manifest: not revoked, not expired, uses left.
    4. The TEE is one that the manifest, this server's mode and its roots allow.
    5. The evidence verifies: signature and chain, to a root of this server.
    6. report_data is that of this nonce, guest key and manifest.
    7. The launch digest is a reference value of this workload, for this TEE.
    8. Where that digest names only a class: host_data or mrconfigid names this workload's manifest.
    9. The policy holds: server's and registration's. (5 to 9: the appraiser, in this order.)
    10. Hardware has signed it; or the mode, the workload and the server's own key are all for simulation.
    11. The session is used up: who comes second, however close, gets nothing.
    12. A use is taken, the disk key opened, sealed to the guest key and signed.

    11, 12 and the record are one transaction. A refusal is recorded and uses its session up as well, but for
    two kinds that would let strangers fill the store: a session that no server gave out leaves no trace, and
    neither do refusals of an address beyond `BrokerLimits.refused`. Nothing can be released in either case.
    Raises HostError if the store cannot be used.
    """
    begin = time.perf_counter()
    course = _check_request(broker, request)
    course = replace(course, marks=(("session", time.perf_counter() - begin),))
    if course.refusal is None:
        course = _check_evidence(broker, request, course)
        course = replace(course, marks=(*course.marks, ("evidence", time.perf_counter() - begin)))
    if _is_forgotten(broker, request, course):
        return _make_outcome("", request, course)
    with broker.database.change() as connection:
        course = _use_session(course, connection, now_s=int(broker.now_s()))  # 11
        if course.refusal is None:
            course = _release(broker, request, course, connection)  # 12
        course = replace(course, marks=(*course.marks, ("total", time.perf_counter() - begin)))
        record = _make_record(broker, request, course)
        known = course.workload.reference_values if course.workload else ()
        values = [value.to_document() for value in known]
        add_record(connection, record, values, kept=broker.limits.records_kept)
    broker.note({"event": "attest", **{name: record[name] for name in _NOTED}})
    if course.appraisal is not None and course.appraisal.simulated:
        broker.note_simulated(f"attestation {record['id']} was {record['outcome']}")
    return _make_outcome(str(record["id"]), request, course)


def _is_forgotten(broker: Broker, request: AttestRequest, course: _Course) -> bool:
    if course.refusal is None:
        return False
    return course.refusal is Refusal.SESSION_UNKNOWN or broker.refused.count_failure(request.remote)


def _make_outcome(record_id: str, request: AttestRequest, course: _Course) -> Outcome:
    return Outcome(
        id=record_id,
        simulated=_is_simulated(request, course),
        hardware=_is_hardware(course),
        release=course.release,
        refusal=course.refusal,
    )


def _is_simulated(request: AttestRequest, course: _Course) -> bool:
    return course.appraisal.simulated if course.appraisal is not None else request.tee == "software"


def _is_hardware(course: _Course) -> bool:
    return course.appraisal is not None and is_hardware(course.appraisal.claims)


def _check_request(broker: Broker, request: AttestRequest) -> _Course:
    now_s = int(broker.now_s())
    session = broker.challenger.verify_session(request.session, request.manifest_hash, now_s=now_s)  # 1
    if session is Refusal.SESSION_UNKNOWN:  # before the store is asked for anything
        return _Course(refusal=session)
    with broker.database.look() as connection:
        workload = find_by_manifest(connection, request.manifest_hash, now_s=now_s)
        is_used = not isinstance(session, Refusal) and was_used(connection, session)
    course = _Course(workload=workload)
    if isinstance(session, Refusal):
        return replace(course, refusal=session)
    if is_used:
        return replace(course, refusal=Refusal.SESSION_USED)
    course = replace(course, session=session)
    try:
        require_guest_key(request.guest_key)  # 2
    except FormatError as error:
        return replace(course, refusal=Refusal.GUEST_KEY_BAD, detail=error.why)
    if workload is None:  # 3
        return replace(course, refusal=Refusal.WORKLOAD_UNKNOWN)
    if refusal := workload.find_refusal():
        return replace(course, refusal=refusal)
    detail = _find_tee_fault(broker, request.tee, parse_manifest(workload.manifest).tees)  # 4
    return replace(course, refusal=Refusal.TEE_NOT_ALLOWED, detail=detail) if detail else course


def _find_tee_fault(broker: Broker, tee: str, tees: tuple[str, ...]) -> str:
    if tee not in tees:
        return f'seen "{tee}", the manifest allows {", ".join(tees)}'
    is_simulation = tee == "software" and broker.mode is not Mode.DEVELOPMENT
    if is_simulation or not broker.appraiser.allows_tee(tee):
        return f'seen "{tee}", which a server in mode {broker.mode} with its roots does not accept'
    return ""


def _check_evidence(broker: Broker, request: AttestRequest, course: _Course) -> _Course:
    assert course.session is not None
    assert course.workload is not None
    wanted = Wanted(
        tee=request.tee,
        report_data=make_report_data(course.session.nonce, request.guest_key, request.manifest_hash),
        manifest_hash=request.manifest_hash,
        manifest_in=course.workload.manifest_in,
        reference_values=tuple(
            value for value in course.workload.reference_values if value.tee == request.tee
        ),
        policy=course.workload.policy,
        now_s=broker.now_s(),
    )
    try:
        appraisal = broker.appraiser.appraise(request.evidence, wanted)  # 5 to 9
    except FormatError as error:  # the stored policy is of another version of krunpy
        return replace(course, refusal=Refusal.POLICY_REFUSED, detail=f"{error.what}: {error.why}")
    course = replace(course, appraisal=appraisal, refusal=appraisal.refusal)
    return course if course.refusal is not None else _check_signatory(broker, course)  # 10


def _check_signatory(broker: Broker, course: _Course) -> _Course:
    assert course.appraisal is not None
    assert course.workload is not None
    claims = course.appraisal.claims
    if is_hardware(claims):
        return course
    if not isinstance(claims, SimulatedClaims):
        return replace(course, refusal=Refusal.EVIDENCE_NOT_VERIFIED, detail="it has no claims")
    if course.workload.requires_hardware:
        return replace(course, refusal=Refusal.HARDWARE_REQUIRED, detail="seen a software TEE's claims")
    if broker.mode is not Mode.DEVELOPMENT:
        why = f"seen simulated evidence, and the server is in mode {broker.mode}"
        return replace(course, refusal=Refusal.TEE_NOT_ALLOWED, detail=why)
    if not isinstance(broker.signer, SimulatedSigner):
        why = f'seen simulated evidence, and this server signs as "{broker.signer.issuer}"'
        return replace(course, refusal=Refusal.TEE_NOT_ALLOWED, detail=why)
    return course


def _use_session(course: _Course, connection: sqlite3.Connection, *, now_s: int) -> _Course:
    if course.session is None or use_session(connection, course.session, now_s=now_s):
        return course
    return course if course.refusal is not None else replace(course, refusal=Refusal.SESSION_USED)


def _release(
    broker: Broker, request: AttestRequest, course: _Course, connection: sqlite3.Connection
) -> _Course:
    workload, session = course.workload, course.session
    assert workload is not None
    assert session is not None
    now_s = int(broker.now_s())
    sealed_key = find_sealed_key(connection, workload, now_s=now_s)
    if isinstance(sealed_key, Refusal):
        return replace(course, refusal=sealed_key)
    try:
        disk_key = broker.vault.open(sealed_key, workload=workload.id, manifest_hash=workload.manifest_hash)
    except HostError as error:
        return replace(course, refusal=Refusal.DISK_KEY_DAMAGED, detail=f"{error.what}: {error.why}")
    count_release(connection, workload, now_s=now_s)
    recipient = Recipient(
        nonce=session.nonce, guest_key=request.guest_key, manifest_hash=workload.manifest_hash
    )
    return replace(course, release=_make_release(broker, course.appraisal, disk_key, recipient))


def _make_release(
    broker: Broker, appraisal: Appraisal | None, disk_key: Secret, recipient: Recipient
) -> Release:
    claims, signer = appraisal.claims if appraisal else None, broker.signer
    if isinstance(claims, SimulatedClaims) and isinstance(signer, SimulatedSigner):
        return make_simulated_release(claims, signer, disk_key, recipient)
    assert is_hardware(claims)
    return make_release(claims, signer, disk_key, recipient)


def _make_record(broker: Broker, request: AttestRequest, course: _Course) -> dict[str, object]:
    now_s = broker.now_s()
    appraisal = course.appraisal
    is_simulated = _is_simulated(request, course)
    return {
        "id": make_id(now_s),
        "time": datetime.fromtimestamp(now_s, tz=UTC).isoformat(timespec="milliseconds"),
        "mode": broker.mode.value,
        "issuer": broker.signer.issuer,
        "simulated": is_simulated,
        "hardware": _is_hardware(course),
        "outcome": "released" if course.refusal is None else "refused",
        "error": course.refusal.value if course.refusal else "",
        "message": MESSAGES[course.refusal] if course.refusal else "",
        "detail": course.detail,
        "workload": course.workload.id if course.workload else "",
        "manifest_hash": request.manifest_hash.hex(),
        "manifest_in": course.workload.manifest_in if course.workload else "",
        "guest_public_key": request.guest_key.hex(),
        "tee": request.tee,
        "launch_digest": appraisal.launch_digest if appraisal else "",
        "verdict": _complete_verdict(course, request.tee, simulated=is_simulated),
        "remote": request.remote,
        "timings_us": {name: int(mark * 1e6) for name, mark in course.marks},
    }


def _complete_verdict(course: _Course, tee: str, *, simulated: bool) -> dict[str, object]:
    """Return the appraiser's verdict; where the server itself refused, one that says so in the same form."""
    verdict = course.appraisal.verdict if course.appraisal else {}
    is_appraisers = course.appraisal is not None and course.appraisal.refusal is not None
    check = make_refused_check(course.refusal, course.detail) if course.refusal else None
    if check is None or (is_appraisers and verdict):
        return verdict
    found = verdict.get("checks")
    checks = [*found, check] if isinstance(found, list) else [check]
    outcome = f"refused: {check['name']}"
    return {
        "tee": tee,
        "simulated": simulated,
        **verdict,
        "trusted": False,
        "code": check["name"],
        "heading": f"{SIMULATED_HEADING}: {outcome}" if simulated else outcome,
        "checks": checks,
    }
