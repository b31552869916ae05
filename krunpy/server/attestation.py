"""One attestation, from the session to the sealed answer. The order of its checks is the server's promise."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from krunpy.attest.verify import SimulatedClaims
from krunpy.core.errors import FormatError
from krunpy.formats.binding import make_report_data
from krunpy.formats.manifest import parse_manifest
from krunpy.server.appraiser import Appraisal, Wanted
from krunpy.server.course import Asked, Course, begin_course, check_evidence, run_course, take_key
from krunpy.server.mode import Mode
from krunpy.server.refusals import Refusal
from krunpy.server.release import (
    Recipient,
    Release,
    SimulatedSigner,
    is_hardware,
    make_release,
    make_simulated_release,
    require_guest_key,
)
from krunpy.server.workloads import find_by_manifest

if TYPE_CHECKING:
    import sqlite3

    from krunpy.core.octets import Digest32, PublicKey32, Secret
    from krunpy.server.broker import Broker


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
    record_id, course, release = run_course(
        broker,
        _describe_request(request),
        begin=lambda: _check_request(broker, request),
        check=lambda course: _check_evidence(broker, request, course),
        release=lambda course, connection: _release(broker, request, course, connection),
    )
    return Outcome(
        id=record_id,
        simulated=course.is_simulated(request.tee),
        hardware=course.is_hardware,
        release=release,
        refusal=course.refusal,
    )


def _describe_request(request: AttestRequest) -> Asked:
    return Asked(
        tee=request.tee,
        manifest_hash=request.manifest_hash.hex(),
        guest_key=request.guest_key.hex(),
        remote=request.remote,
    )


def _check_request(broker: Broker, request: AttestRequest) -> Course:
    course = begin_course(
        broker,
        request.session,
        request.manifest_hash,
        lambda connection, now_s: find_by_manifest(connection, request.manifest_hash, now_s=now_s),
    )  # 1
    if course.refusal is not None:
        return course
    try:
        require_guest_key(request.guest_key)  # 2
    except FormatError as error:
        return replace(course, refusal=Refusal.GUEST_KEY_BAD, detail=error.why)
    workload = course.workload
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


def _check_evidence(broker: Broker, request: AttestRequest, course: Course) -> Course:
    assert course.session is not None
    assert course.workload is not None
    wanted = Wanted(
        tee=request.tee,
        report_data=make_report_data(course.session.nonce, request.guest_key, request.manifest_hash),
        manifest_hash=request.manifest_hash,
        manifest_in=course.workload.manifest_in,
        product=None,
        reference_values=tuple(
            value for value in course.workload.reference_values if value.tee == request.tee
        ),
        policy=course.workload.policy,
        now_s=broker.now_s(),
    )
    return check_evidence(broker, course, request.evidence, wanted)  # 5 to 10


def _release(
    broker: Broker, request: AttestRequest, course: Course, connection: sqlite3.Connection
) -> tuple[Course, Release | None]:
    session = course.session
    assert session is not None
    course, disk_key = take_key(broker, course, connection)
    if disk_key is None:
        return course, None
    recipient = Recipient(
        nonce=session.nonce, guest_key=request.guest_key, manifest_hash=request.manifest_hash
    )
    return course, _make_release(broker, course.appraisal, disk_key, recipient)


def _make_release(
    broker: Broker, appraisal: Appraisal | None, disk_key: Secret, recipient: Recipient
) -> Release:
    claims, signer = appraisal.claims if appraisal else None, broker.signer
    if isinstance(claims, SimulatedClaims) and isinstance(signer, SimulatedSigner):
        return make_simulated_release(claims, signer, disk_key, recipient)
    assert is_hardware(claims)
    return make_release(claims, signer, disk_key, recipient)
