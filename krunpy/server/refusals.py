"""What a guest is told when it is refused: a short code and one line. The details stay in the record."""

from __future__ import annotations

from enum import StrEnum


class Refusal(StrEnum):
    """The codes, in the order of the checks."""

    SESSION_UNKNOWN = "session-unknown"
    SESSION_USED = "session-used"
    SESSION_EXPIRED = "session-expired"
    MANIFEST_MISMATCH = "manifest-mismatch"
    GUEST_KEY_BAD = "guest-key-bad"
    WORKLOAD_UNKNOWN = "workload-unknown"
    WORKLOAD_REVOKED = "workload-revoked"
    WORKLOAD_ENDED = "workload-ended"
    WORKLOAD_EXPIRED = "workload-expired"
    TEE_NOT_ALLOWED = "tee-not-allowed"
    EVIDENCE_MALFORMED = "evidence-malformed"
    EVIDENCE_NOT_VERIFIED = "evidence-not-verified"
    REPORT_DATA_MISMATCH = "report-data-mismatch"
    LAUNCH_DIGEST_UNKNOWN = "launch-digest-unknown"
    HOST_DATA_MISMATCH = "host-data-mismatch"
    POLICY_REFUSED = "policy-refused"
    HARDWARE_REQUIRED = "hardware-required"
    COULD_NOT_CHECK = "could-not-check"
    DISK_KEY_DAMAGED = "disk-key-damaged"


MESSAGES = {
    Refusal.SESSION_UNKNOWN: "no such session",
    Refusal.SESSION_USED: "the nonce was used before",
    Refusal.SESSION_EXPIRED: "the nonce has expired",
    Refusal.MANIFEST_MISMATCH: "the session is for another manifest",
    Refusal.GUEST_KEY_BAD: "nothing can be sealed to this guest key",
    Refusal.WORKLOAD_UNKNOWN: "no workload has this manifest",
    Refusal.WORKLOAD_REVOKED: "the workload was revoked",
    Refusal.WORKLOAD_ENDED: "the registration's uses are spent",
    Refusal.WORKLOAD_EXPIRED: "the registration has expired",
    Refusal.TEE_NOT_ALLOWED: "this TEE is not accepted here",
    Refusal.EVIDENCE_MALFORMED: "the evidence cannot be read",
    Refusal.EVIDENCE_NOT_VERIFIED: "the evidence's signature does not hold",
    Refusal.REPORT_DATA_MISMATCH: "report_data is not for this session",
    Refusal.LAUNCH_DIGEST_UNKNOWN: "the launch digest is not registered",
    Refusal.HOST_DATA_MISMATCH: "the machine was launched for another manifest",
    Refusal.POLICY_REFUSED: "the policy does not allow this guest",
    Refusal.HARDWARE_REQUIRED: "the workload is released to hardware only",
    Refusal.COULD_NOT_CHECK: "collateral is missing; try again",
    Refusal.DISK_KEY_DAMAGED: "the stored disk key is damaged",
}

# what the server's own checks wanted, and what helps; the appraiser's checks bring theirs
_WANTED = {
    Refusal.SESSION_UNKNOWN: (
        "a session of this store",
        "the challenge came from another server: start the machine again",
    ),
    Refusal.SESSION_USED: (
        "a session that was never used",
        "a nonce serves once: someone replays, or start the machine again",
    ),
    Refusal.SESSION_EXPIRED: (
        "evidence in time",
        "the machine took too long, or someone replays: start the machine again",
    ),
    Refusal.MANIFEST_MISMATCH: (
        "the manifest hash of the challenge",
        "the relay mixed two guests up, or someone swaps them",
    ),
    Refusal.GUEST_KEY_BAD: (
        "an X25519 key that is not of low order",
        "the guest key is not one that an agent makes",
    ),
    Refusal.WORKLOAD_UNKNOWN: (
        "a registered manifest",
        "register the workload, or boot the manifest that was registered",
    ),
    Refusal.WORKLOAD_REVOKED: (
        "a workload that is not revoked",
        "an administrator can register it again with restore",
    ),
    Refusal.WORKLOAD_ENDED: ("a use that is left", "register the workload again"),
    Refusal.WORKLOAD_EXPIRED: ("a registration that has not expired", "register the workload again"),
    Refusal.TEE_NOT_ALLOWED: (
        "a TEE that manifest and server allow",
        "use hardware, or a server in mode development",
    ),
    Refusal.EVIDENCE_NOT_VERIFIED: (
        "verified evidence, of the product that the guest names",
        "the image was made for another processor, or the host exchanged its settings",
    ),
    Refusal.POLICY_REFUSED: (
        "a policy that this krunpy can read",
        "register the workload again",
    ),
    Refusal.HARDWARE_REQUIRED: (
        "evidence that hardware signed",
        "run it on hardware; a software TEE protects nothing",
    ),
    Refusal.DISK_KEY_DAMAGED: (
        "the disk key as it was stored",
        "revoke the workload and register it with its disk key",
    ),
}


def make_refused_check(refusal: Refusal, detail: str) -> dict[str, object] | None:
    """Return the failed check of a refusal by the server itself, in a verdict's form; None for others."""
    if refusal not in _WANTED:
        return None
    wanted, hint = _WANTED[refusal]
    return {
        "name": refusal.value,
        "stage": "server",
        "seen": detail or MESSAGES[refusal],
        "wanted": wanted,
        "source": "the server's store and mode",
        "held": False,
        "hint": hint,
    }
