"""The course of one attestation, whatever protocol it came by: who signed, the session's one use, the key, the record.

What a protocol asks and how it answers is in `attestation` and `reference_kbs_attestation`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

from krunpy.attest.verdict import SIMULATED_HEADING
from krunpy.attest.verify import SimulatedClaims
from krunpy.core.errors import FormatError, HostError
from krunpy.server.ids import make_id
from krunpy.server.mode import Mode
from krunpy.server.records import add_record
from krunpy.server.refusals import MESSAGES, Refusal, make_refused_check
from krunpy.server.release import SimulatedSigner, is_hardware
from krunpy.server.sessions import use_session, was_used
from krunpy.server.workloads import count_release, find_sealed_key

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

    from krunpy.core.octets import Digest32, Secret
    from krunpy.server.appraiser import Appraisal, Wanted
    from krunpy.server.broker import Broker
    from krunpy.server.sessions import Session
    from krunpy.server.workloads import Workload

_Released = TypeVar("_Released")
_NOTED = (
    "id", "time", "workload", "outcome", "error", "detail", "tee", "simulated", "remote", "timings_us",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a guest said of itself, as the record shows it. manifest_hash: empty where the protocol has none.

    guest_key: in hex, what a secret would be sealed to; remote: the peer's address.
    """

    tee: str
    manifest_hash: str
    guest_key: str
    remote: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What is known so far; each step returns a fuller one. The first refusal ends it."""

    refusal: Refusal | None = None
    detail: str = ""
    session: Session | None = None
    workload: Workload | None = None
    appraisal: Appraisal | None = None
    marks: tuple[tuple[str, float], ...] = ()

    @property
    def is_hardware(self) -> bool:
        """Whether hardware has signed verified evidence."""
        return self.appraisal is not None and is_hardware(self.appraisal.claims)

    def is_simulated(self, tee: str) -> bool:
        """Return whether the evidence is a simulation's; before an appraisal, what the guest says."""
        return self.appraisal.simulated if self.appraisal is not None else tee == "software"


def begin_course(
    broker: Broker,
    session: bytes,
    name_hash: Digest32,
    find: Callable[[sqlite3.Connection, int], Workload | None],
) -> Course:
    """Find session and workload; refuse a session that is not fresh, or was used.

    name_hash: what the session was made for; find: given the time in seconds, returns the workload or None.
    """
    now_s = int(broker.now_s())
    found = broker.challenger.verify_session(session, name_hash, now_s=now_s)
    if found is Refusal.SESSION_UNKNOWN:  # before the store is asked for anything
        return Course(refusal=found)
    with broker.database.look() as connection:
        workload = find(connection, now_s)
        is_used = not isinstance(found, Refusal) and was_used(connection, found)
    course = Course(workload=workload)
    if isinstance(found, Refusal):
        return replace(course, refusal=found)
    return replace(course, refusal=Refusal.SESSION_USED) if is_used else replace(course, session=found)


def run_course(
    broker: Broker,
    asked: Asked,
    *,
    begin: Callable[[], Course],
    check: Callable[[Course], Course],
    release: Callable[[Course, sqlite3.Connection], tuple[Course, _Released | None]],
) -> tuple[str, Course, _Released | None]:
    """Run an attestation to its end; return its record's ID, how it ended, and what was released.

    begin and check end with a refusal, or do not; release is called if they did not. It, the session's one use and
    the record are one transaction. The ID is empty if no record was kept.
    Raises HostError if the store cannot be used.
    """
    start = time.perf_counter()
    course = begin()
    course = replace(course, marks=(("session", time.perf_counter() - start),))
    if course.refusal is None:
        course = check(course)
        course = replace(course, marks=(*course.marks, ("evidence", time.perf_counter() - start)))
    if _is_forgotten(broker, course, remote=asked.remote):
        return "", course, None
    released = None
    with broker.database.change() as connection:
        course = _use_up(course, connection, now_s=int(broker.now_s()))
        if course.refusal is None:
            course, released = release(course, connection)
        course = replace(course, marks=(*course.marks, ("total", time.perf_counter() - start)))
        record = _keep_record(broker, course, asked, connection)
    _note_record(broker, course, record)
    return str(record["id"]), course, released


def _is_forgotten(broker: Broker, course: Course, *, remote: str) -> bool:
    """Return whether a refusal leaves no trace: strangers do not fill the store."""
    if course.refusal is None:
        return False
    return course.refusal is Refusal.SESSION_UNKNOWN or broker.refused.count_failure(remote)


def check_evidence(broker: Broker, course: Course, evidence: bytes, wanted: Wanted) -> Course:
    """Appraise evidence, then refuse unless its signatory may have a key.

    evidence: an EVIDENCE payload.

    1. The appraiser: signature, chain, report_data, launch digest, host_data, policy, in this order.
    2. Hardware has signed it; or mode, workload and the server's own key are all for simulation.
    """
    # 1
    try:
        appraisal = broker.appraiser.appraise(evidence, wanted)
    except FormatError as error:  # the stored policy is of another version of krunpy
        return replace(course, refusal=Refusal.POLICY_REFUSED, detail=f"{error.what}: {error.why}")
    course = replace(course, appraisal=appraisal, refusal=appraisal.refusal)
    # 2
    return course if course.refusal is not None else _check_signatory(broker, course)


def _check_signatory(broker: Broker, course: Course) -> Course:
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


def _use_up(course: Course, connection: sqlite3.Connection, *, now_s: int) -> Course:
    """Use the session up; refuse whoever comes second."""
    if course.session is None or use_session(connection, course.session, now_s=now_s):
        return course
    return course if course.refusal is not None else replace(course, refusal=Refusal.SESSION_USED)


def take_key(broker: Broker, course: Course, connection: sqlite3.Connection) -> tuple[Course, Secret | None]:
    """Take one use and return the workload's key, or a refused course and no key."""
    workload = course.workload
    assert workload is not None
    now_s = int(broker.now_s())
    sealed_key = find_sealed_key(connection, workload, now_s=now_s)
    if isinstance(sealed_key, Refusal):
        return replace(course, refusal=sealed_key), None
    try:
        key = broker.vault.open(sealed_key, workload=workload.id, manifest_hash=workload.manifest_hash)
    except HostError as error:
        detail = f"{error.what}: {error.why}"
        return replace(course, refusal=Refusal.DISK_KEY_DAMAGED, detail=detail), None
    count_release(connection, workload, now_s=now_s)
    return course, key


def _keep_record(
    broker: Broker, course: Course, asked: Asked, connection: sqlite3.Connection
) -> dict[str, object]:
    """Store the record of an attestation that has ended, and return it; `_note_record` then tells the log."""
    record = _make_record(broker, course, asked)
    known = course.workload.reference_values if course.workload else ()
    values = [value.to_document() for value in known]
    add_record(connection, record, values, kept=broker.limits.records_kept)
    return record


def _note_record(broker: Broker, course: Course, record: dict[str, object]) -> None:
    """Tell the log how an attestation ended."""
    broker.note({"event": "attest", **{name: record[name] for name in _NOTED}})
    if course.appraisal is not None and course.appraisal.simulated:
        broker.note_simulated(f"attestation {record['id']} was {record['outcome']}")


def _make_record(broker: Broker, course: Course, asked: Asked) -> dict[str, object]:
    now_s = broker.now_s()
    appraisal = course.appraisal
    is_simulated = course.is_simulated(asked.tee)
    return {
        "id": make_id(now_s),
        "time": datetime.fromtimestamp(now_s, tz=UTC).isoformat(timespec="milliseconds"),
        "mode": broker.mode.value,
        "issuer": broker.signer.issuer,
        "simulated": is_simulated,
        "hardware": course.is_hardware,
        "outcome": "released" if course.refusal is None else "refused",
        "error": course.refusal.value if course.refusal else "",
        "message": MESSAGES[course.refusal] if course.refusal else "",
        "detail": course.detail,
        "workload": course.workload.id if course.workload else "",
        "manifest_hash": asked.manifest_hash,
        "manifest_in": (course.workload.manifest_in or "") if course.workload else "",
        "guest_public_key": asked.guest_key,
        "tee": asked.tee,
        "launch_digest": appraisal.launch_digest if appraisal else "",
        "verdict": _complete_verdict(course, asked.tee, simulated=is_simulated),
        "remote": asked.remote,
        "timings_us": {name: int(mark * 1e6) for name, mark in course.marks},
    }


def _complete_verdict(course: Course, tee: str, *, simulated: bool) -> dict[str, object]:
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
