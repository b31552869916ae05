"""The reference-kbs dialect's routes: what guests of libkrun 1.7 to 1.19 and `buildah mkcw` ask for.

Answers have the form that the guest's C program can take: one small body, its length in a header. It ignores the
status; to its attest request any body is a failure, and has to be shorter than its buffer of 200 bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from krunpy.core.errors import FormatError, KrunpyError, StateError
from krunpy.server.documents import encode_document
from krunpy.server.http import Answer, PlainAnswer, RefusedCallError, describe_error
from krunpy.server.mode import Mode
from krunpy.server.reference_kbs_attestation import Attempt, attest_kbs
from krunpy.server.reference_kbs_messages import (
    COOKIE,
    encode_session,
    hash_name,
    make_nonce,
    parse_auth,
    parse_evidence_body,
    parse_kbs_registration,
    require_kbs_id,
    require_short_url,
    take_session,
)
from krunpy.server.reference_kbs_store import (
    find_invitation,
    register_without_manifest,
    take_answer,
    use_invitation,
)
from krunpy.server.refusals import MESSAGES, Refusal
from krunpy.server.sessions import TTL_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from krunpy.server.broker import Broker
    from krunpy.server.http import Call
    from krunpy.server.reference_kbs_messages import KbsRegistration
    from krunpy.server.reference_kbs_store import Invitation
    from krunpy.server.throttle import Throttle

    KbsHandler: TypeAlias = Callable[[Broker, Call, Invitation | None], PlainAnswer]

MAX_REFUSAL = 199  # bytes: char errmsg[200] of the guest
INVITED = "/r/{token}"
_REGISTER = "/kbs/v0/register_workload"
_TEXTS = {**MESSAGES, Refusal.WORKLOAD_UNKNOWN: "no workload of this id is registered here"}


def admit_invited(broker: Broker, throttle: Throttle, call: Call) -> Invitation | None:
    """Return the invitation that a call's URL is below, None for a URL without one.

    Raises RefusedCallError if there is no such invitation, or too many such guesses came.
    """
    if "token" not in call.names:
        return None
    with broker.database.look() as connection:
        invitation = find_invitation(connection, call.names["token"], now_s=int(broker.now_s()))
    if invitation is None:
        if throttle.count_failure(call.remote):
            raise RefusedCallError(429, "throttled", "too many wrong URLs")
        raise _no_path()
    return invitation


def refuse_root(_broker: Broker, _call: Call, _invitation: Invitation | None) -> PlainAnswer:
    """Answer as reference-kbs does, which has nothing there."""
    raise RefusedCallError(401, "unauthorized", "there is nothing here without a session")


def challenge_kbs(broker: Broker, call: Call, invitation: Invitation | None) -> PlainAnswer:
    """Make a session for a workload, known or not; a guest hears why it is refused from its attest request."""
    _require_used(invitation)
    workload = parse_auth(call.body)
    expires_at = int(broker.now_s()) + TTL_S
    session = broker.challenger.make_session(hash_name(workload), expires_at=expires_at)
    document = {"nonce": make_nonce(session), "extra-params": ""}
    return PlainAnswer(
        status=200,
        body=encode_document(document).encode(),
        media_type="application/json",
        cookie=f"{COOKIE}={encode_session(session)}; Path=/; HttpOnly; SameSite=Strict",
    )


def attest_guest_kbs(broker: Broker, call: Call, invitation: Invitation | None) -> PlainAnswer:
    """Appraise evidence: an empty body, or a refusal."""
    _require_used(invitation)
    session, name_hash = take_session(call.cookies)
    attempt = Attempt(
        session=session,
        name_hash=name_hash,
        evidence=parse_evidence_body(call.body),
        invited=invitation.workload if invitation is not None else "",
        remote=call.remote,
    )
    outcome = attest_kbs(broker, attempt)
    if outcome.refusal is None:
        return PlainAnswer(status=200, body=b"")
    kept = f" (attestation {outcome.id})" if outcome.id else ""
    raise RefusedCallError(403, outcome.refusal.value, _TEXTS[outcome.refusal] + kept)


def hand_key_out(broker: Broker, call: Call, invitation: Invitation | None) -> PlainAnswer:
    """Hand the passphrase out that an attestation of this session was granted, once."""
    _require_used(invitation)
    workload = require_kbs_id(call.names["id"])
    refused = RefusedCallError(403, "not-attested", "this session has no key of this workload to fetch")
    session, _ = take_session(call.cookies)
    if invitation is not None and invitation.workload != workload:
        raise refused
    with broker.database.change() as connection:
        answer = take_answer(connection, session, workload, now_s=int(broker.now_s()))
    if answer is None:
        raise refused
    broker.note({"event": "passphrase-fetched", "workload": workload, "remote": call.remote})
    return PlainAnswer(status=200, body=b'"' + answer.hex().encode() + b'"', media_type="application/json")


def register_invited(broker: Broker, call: Call, invitation: Invitation | None) -> PlainAnswer:
    """Register the one workload of an invitation."""
    assert invitation is not None
    registration = parse_kbs_registration(call.body)
    require_short_url(call.base + INVITED.format(token=call.names["token"]), registration.workload)
    return _register(broker, call, registration, invitation)


def register_local(broker: Broker, call: Call, _invitation: Invitation | None) -> PlainAnswer:
    """Register a workload for whoever may open the Unix socket."""
    return _register(broker, call, parse_kbs_registration(call.body), None)


def _register(
    broker: Broker, call: Call, registration: KbsRegistration, invitation: Invitation | None
) -> PlainAnswer:
    if broker.mode is not Mode.PRODUCTION:
        raise FormatError(
            "cannot register the workload",
            why=f"it is for hardware only, this server is in mode {broker.mode}",
        )
    now_s, workload = int(broker.now_s()), registration.workload
    with broker.database.change() as connection:
        if invitation is not None:
            # again: since the URL was looked at, another may have used it
            invitation = find_invitation(connection, call.names["token"], now_s=now_s)
            if invitation is None:
                raise _no_path()
            use_invitation(connection, invitation, workload, now_s=now_s)
        policy = {**registration.policy, **(invitation.policy if invitation is not None else {})}
        broker.appraiser.require_policy(policy)
        is_new = register_without_manifest(connection, registration, policy, broker.vault, now_s=now_s)
    ignored = list(registration.ignored)
    broker.note(
        {
            "event": "registered" if is_new else "registered-again",
            "workload": workload,
            "dialect": "reference-kbs",
            "invitation": invitation.id if invitation is not None else "",
            "launch_digest": registration.launch_digest.hex(),
            "ignored": ignored,
            "remote": call.remote,
        }
    )
    never = f"; tee_config would allow {' and '.join(ignored)}: never allowed here" if ignored else ""
    return PlainAnswer(status=200, body=f"registered{never}\n".encode())


def _require_used(invitation: Invitation | None) -> None:
    if invitation is not None and not invitation.is_used:
        raise _no_path()


def _no_path() -> RefusedCallError:
    return RefusedCallError(404, "no-such-path", "there is no such path")


def describe_plainly(broker: Broker, call: Call, error: KrunpyError) -> Answer:
    """Return the answer for an expected failure, and tell the log what was not right, as often as is bearable."""
    is_guests = isinstance(error, FormatError | StateError)
    if is_guests and not broker.refused.count_failure(call.remote):
        broker.note(
            {
                "event": "refused",
                "dialect": "reference-kbs",
                "what": error.what,
                "why": error.why,
                "next": error.next,
                "remote": call.remote,
            }
        )
    return describe_error(error, to_stranger=True)


def to_text(answer: Answer) -> PlainAnswer:
    """Return an error as the guest takes it: one line, shorter than its buffer."""
    line = f"{answer.document['error']}: {answer.document['message']}".encode()
    return PlainAnswer(status=answer.status, body=line[:MAX_REFUSAL])


# method, path, handler
_GUESTS: tuple[tuple[str, str, KbsHandler], ...] = (
    ("GET", "/kbs/v0/", refuse_root),
    ("POST", "/kbs/v0/auth", challenge_kbs),
    ("POST", "/kbs/v0/attest", attest_guest_kbs),
    ("GET", "/kbs/v0/key/{id}", hand_key_out),
)
KBS_ROUTES: tuple[tuple[str, str, KbsHandler], ...] = (
    *_GUESTS,
    *((method, INVITED + path, handler) for method, path, handler in _GUESTS),
    ("POST", INVITED + _REGISTER, register_invited),
)
KBS_SOCKET_ROUTES: tuple[tuple[str, str, KbsHandler], ...] = (("POST", _REGISTER, register_local),)
