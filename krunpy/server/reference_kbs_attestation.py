"""One attestation by the reference-kbs dialect: from the session to the passphrase, encrypted to the guest's key."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15

from krunpy.formats.snp_certs import pack_evidence
from krunpy.server.appraiser import Wanted
from krunpy.server.course import Asked, Course, begin_course, check_evidence, run_course, take_key
from krunpy.server.mode import Mode
from krunpy.server.reference_kbs_messages import make_kbs_report_data, make_nonce
from krunpy.server.reference_kbs_store import keep_answer
from krunpy.server.refusals import Refusal
from krunpy.server.release import is_hardware
from krunpy.server.workloads import find_without_manifest

if TYPE_CHECKING:
    import sqlite3

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
    record_id, course, _ = run_course(
        broker,
        _describe(attempt),
        begin=lambda: _check_attempt(broker, attempt),
        check=lambda course: _check_report(broker, attempt, course),
        release=lambda course, connection: _keep_answer(broker, attempt, course, connection),
    )
    return KbsOutcome(id=record_id, refusal=course.refusal)


def encrypt_passphrase(claims: SnpClaims | TdxClaims | None, passphrase: Secret, key: TeeKey) -> bytes:
    """Return a passphrase encrypted by RSAES-PKCS1-v1_5, 256 bytes, for a guest that hardware vouches for.

    Raises TypeError if the claims are not hardware's.
    """
    if not is_hardware(claims):
        msg = f"a passphrase is released to hardware's claims, seen {type(claims).__name__}"
        raise TypeError(msg)
    return key.public.encrypt(passphrase.reveal(), PKCS1v15())


def _check_attempt(broker: Broker, attempt: Attempt) -> Course:
    course = begin_course(
        broker,
        attempt.session,
        attempt.name_hash,
        lambda connection, now_s: find_without_manifest(connection, attempt.name_hash, now_s=now_s),
    )  # 1
    if course.refusal is Refusal.MANIFEST_MISMATCH:  # the cookie holds both: it is none that was given out
        return Course(refusal=Refusal.SESSION_UNKNOWN)
    if course.refusal is not None:
        return course
    workload = course.workload
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


def _keep_answer(
    broker: Broker, attempt: Attempt, course: Course, connection: sqlite3.Connection
) -> tuple[Course, None]:
    course, passphrase = take_key(broker, course, connection)  # 8
    if passphrase is not None:
        assert course.session is not None
        assert course.workload is not None
        assert course.appraisal is not None
        answer = encrypt_passphrase(course.appraisal.claims, passphrase, attempt.evidence.key)
        keep_answer(connection, course.session, course.workload.id, answer, now_s=int(broker.now_s()))
    return course, None


def _find_product(evidence: KbsEvidence) -> Product | None:
    """Return the product that the guest names, if its report does not: buildah writes "milan" for every image."""
    version = int.from_bytes(evidence.report[:4], "little")
    return evidence.find_product() if version < _FIRST_WITH_CPUID else None


def _describe(attempt: Attempt) -> Asked:
    modulus = attempt.evidence.key.public.public_numbers().n
    return Asked(tee=_TEE, manifest_hash="", guest_key=f"{modulus:x}", remote=attempt.remote)
