"""One attestation by the reference-kbs dialect: from the session to the passphrase, encrypted to the guest's key."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15

from krunpy.formats.snp_certs import pack_evidence
from krunpy.server.appraiser import Wanted
from krunpy.server.course import (
    Asked,
    Course,
    check_evidence,
    is_forgotten,
    keep_record,
    note_record,
    take_key,
    use_up,
)
from krunpy.server.mode import Mode
from krunpy.server.reference_kbs_messages import make_kbs_report_data, make_nonce
from krunpy.server.reference_kbs_store import keep_answer
from krunpy.server.refusals import Refusal
from krunpy.server.release import is_hardware
from krunpy.server.sessions import was_used
from krunpy.server.workloads import find_without_manifest

if TYPE_CHECKING:
    from krunpy.attest.tdx_claims import TdxClaims
    from krunpy.attest.verify import SnpClaims
    from krunpy.core.octets import Digest32, Secret
    from krunpy.formats.snp_tcb import Product
    from krunpy.server.broker import Broker
    from krunpy.server.reference_kbs_messages import KbsEvidence, TeeKey

_TEE = "snp"
_FIRST_WITH_CPUID = 3  # report version


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What a guest sends. session, name_hash: its cookie; invited: the workload of its URL, empty for any."""

    session: bytes
    name_hash: Digest32
    evidence: KbsEvidence
    invited: str
    remote: str


@dataclass(frozen=True, slots=True, kw_only=True)
class KbsOutcome:
    """How an attestation ended. id: names its record, empty if none was kept; refusal: None if it succeeded."""

    id: str
    refusal: Refusal | None


def attest_kbs(broker: Broker, attempt: Attempt) -> KbsOutcome:
    """Keep the passphrase of the session's workload for its guest, encrypted to the key it attested; or refuse.

    1. The session is one that this store's servers gave out; it is fresh and was never used.
    2. Its workload is the one of the URL, and registered: not revoked.
    3. This server is in mode production, and has roots for SEV-SNP.
    4. The report verifies, below AMD's roots; report_data is that of nonce and key; the launch digest is the
       workload's; the policy holds: the server's, the invitation's and the registration's.
    5. Hardware has signed it.
    6. Where the report does not name its product, the chain is for the one that the guest names.
    7. The session is used up: who comes second, however close, gets nothing.
    8. The passphrase is opened, encrypted and kept for `take_answer`.

    7, 8 and the record are one transaction; what leaves no record is as for `attestation.attest`.
    Raises HostError if the store cannot be used.
    """
    begin = time.perf_counter()
    course = _check_attempt(broker, attempt)
    course = replace(course, marks=(("session", time.perf_counter() - begin),))
    if course.refusal is None:
        course = _check_report(broker, attempt, course)
        course = replace(course, marks=(*course.marks, ("evidence", time.perf_counter() - begin)))
    if is_forgotten(broker, course, remote=attempt.remote):
        return KbsOutcome(id="", refusal=course.refusal)
    now_s = int(broker.now_s())
    with broker.database.change() as connection:
        course = use_up(course, connection, now_s=now_s)  # 7
        if course.refusal is None:
            course, passphrase = take_key(broker, course, connection)  # 8
            if passphrase is not None:
                assert course.session is not None
                assert course.workload is not None
                assert course.appraisal is not None
                answer = encrypt_passphrase(course.appraisal.claims, passphrase, attempt.evidence.key)
                keep_answer(connection, course.session, course.workload.id, answer, now_s=now_s)
        course = replace(course, marks=(*course.marks, ("total", time.perf_counter() - begin)))
        record = keep_record(broker, course, _describe(attempt), connection)
    note_record(broker, course, record)
    return KbsOutcome(id=str(record["id"]), refusal=course.refusal)


def encrypt_passphrase(claims: SnpClaims | TdxClaims | None, passphrase: Secret, key: TeeKey) -> bytes:
    """Return a passphrase encrypted by RSAES-PKCS1-v1_5, 256 bytes, for a guest that hardware vouches for.

    Raises TypeError if the claims are not hardware's.
    """
    if not is_hardware(claims):
        msg = f"a passphrase is released to hardware's claims, seen {type(claims).__name__}"
        raise TypeError(msg)
    return key.public.encrypt(passphrase.reveal(), PKCS1v15())


def _check_attempt(broker: Broker, attempt: Attempt) -> Course:
    now_s = int(broker.now_s())
    session = broker.challenger.verify_session(attempt.session, attempt.name_hash, now_s=now_s)  # 1
    if session is Refusal.SESSION_UNKNOWN or session is Refusal.MANIFEST_MISMATCH:
        return Course(refusal=Refusal.SESSION_UNKNOWN)  # before the store is asked for anything
    with broker.database.look() as connection:
        workload = find_without_manifest(connection, attempt.name_hash, now_s=now_s)
        is_used = not isinstance(session, Refusal) and was_used(connection, session)
    course = Course(workload=workload)
    if isinstance(session, Refusal):
        return replace(course, refusal=session)
    if is_used:
        return replace(course, refusal=Refusal.SESSION_USED)
    course = replace(course, session=session)
    if workload is None:  # 2
        return replace(course, refusal=Refusal.WORKLOAD_UNKNOWN, detail="no image registered its id here")
    if attempt.invited not in ("", workload.id):
        detail = f'the URL is that of workload "{attempt.invited}"'
        return replace(course, refusal=Refusal.WORKLOAD_UNKNOWN, detail=detail)
    if refusal := workload.find_refusal():
        return replace(course, refusal=refusal)
    if broker.mode is not Mode.PRODUCTION or not broker.appraiser.allows_tee(_TEE):  # 3
        detail = f"a server in mode {broker.mode} with its roots does not serve this dialect"
        return replace(course, refusal=Refusal.TEE_NOT_ALLOWED, detail=detail)
    return course


def _check_report(broker: Broker, attempt: Attempt, course: Course) -> Course:
    session, workload, evidence = course.session, course.workload, attempt.evidence
    assert session is not None
    assert workload is not None
    named = _find_product(evidence)
    wanted = Wanted(
        tee=_TEE,
        report_data=make_kbs_report_data(make_nonce(session), evidence.key),
        manifest_hash=attempt.name_hash,
        manifest_in=None,
        product=named,
        reference_values=workload.reference_values,
        policy=workload.policy,
        now_s=broker.now_s(),
    )
    course = check_evidence(broker, course, pack_evidence(evidence.report, b""), wanted)  # 4, 5
    if course.refusal is not None or named is None:
        return course
    assert course.appraisal is not None
    seen = getattr(course.appraisal.claims, "product", None)
    if seen is not named:  # 6
        detail = f"the guest says {named}, its chain is {seen}'s"
        return replace(course, refusal=Refusal.EVIDENCE_NOT_VERIFIED, detail=detail)
    return course


def _find_product(evidence: KbsEvidence) -> Product | None:
    """Return the product that the guest names, if its report does not: buildah writes "milan" for every image."""
    version = int.from_bytes(evidence.report[:4], "little")
    return evidence.find_product() if version < _FIRST_WITH_CPUID else None


def _describe(attempt: Attempt) -> Asked:
    modulus = attempt.evidence.key.public.public_numbers().n
    return Asked(tee=_TEE, manifest_hash="", guest_key=f"{modulus:x}", remote=attempt.remote)
