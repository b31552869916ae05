"""The ASGI application: one table of routes, bodies cut at their limit, time limits, tokens.

It decides nothing about trust; handlers run in a few threads of their own, because the store may wait.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route, Router

from krunpy.core.errors import HostError, KrunpyError
from krunpy.core.octets import Secret
from krunpy.server import handlers
from krunpy.server.documents import encode_document
from krunpy.server.http import (
    MAX_BODY,
    Answer,
    Call,
    PlainAnswer,
    RefusedCallError,
    describe_error,
    make_error,
)
from krunpy.server.reference_kbs import (
    KBS_ROUTES,
    KBS_SOCKET_ROUTES,
    admit_invited,
    describe_plainly,
    to_text,
)
from krunpy.server.throttle import WRONG_TOKENS, Throttle
from krunpy.server.tokens import Role, allows, find_role

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.types import ASGIApp, Receive, Scope, Send

    from krunpy.server.broker import Broker
    from krunpy.server.reference_kbs import KbsHandler

    Handler: TypeAlias = Callable[[Broker, Call, Role | None], Answer]
    _Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]

# method, path, who may call it (None: anyone), handler
ROUTES: tuple[tuple[str, str, Role | None, Handler], ...] = (
    ("GET", "/healthz", None, handlers.show_health),
    ("GET", "/readyz", None, handlers.show_readiness),
    ("GET", "/v1/info", None, handlers.show_info),
    ("POST", "/v1/challenge", None, handlers.challenge),
    ("POST", "/v1/attest", None, handlers.attest_guest),
    ("PUT", "/v1/workloads/{id}", Role.REGISTRAR, handlers.register_workload),
    ("GET", "/v1/workloads", Role.READER, handlers.show_workloads),
    ("GET", "/v1/workloads/{id}", Role.READER, handlers.show_workload),
    ("POST", "/v1/workloads/{id}/revoke", Role.REGISTRAR, handlers.revoke_workload),
    ("POST", "/v1/workloads/{id}/end", Role.REGISTRAR, handlers.end_use),
    ("GET", "/v1/attestations", Role.READER, handlers.show_attestations),
    ("GET", "/v1/attestations/{id}", Role.READER, handlers.show_attestation),
)
SIMULATED_HEADER = "X-Krunpy-Simulated"
_Admitted = TypeVar("_Admitted")
_Result = TypeVar("_Result")
_MAX_TOKEN = 256  # characters
_THREADS = 8
_CLOSING = frozenset({400, 401, 403, 408, 413, 429})  # the body may not have been read


@dataclass(frozen=True, slots=True, kw_only=True)
class AppLimits:
    """Seconds that a stranger may take for a body; bytes that it may have."""

    body_s: float = 10.0
    body_bytes: int = MAX_BODY


@dataclass(frozen=True, slots=True, kw_only=True)
class _House:
    """What every endpoint of an application shares."""

    broker: Broker
    limits: AppLimits
    throttle: Throttle
    threads: ThreadPoolExecutor

    async def read(self, request: Request, admit: Callable[[Call], _Admitted]) -> tuple[Call, _Admitted]:
        """Return the whole call, and what `admit` returned; no body is read of a call that is not admitted."""
        call = Call(
            names=request.path_params,
            query=dict(request.query_params),
            authorization=request.headers.get("authorization", ""),
            cookies=tuple(request.headers.getlist("cookie")),
            base=f"{request.url.scheme}://{request.headers.get('host', '')}",
            remote=request.client.host if request.client else "",
        )
        admitted = await self.run(lambda: admit(call))
        body = await _read_body(request, self.limits)
        return replace(call, body=body, authorization=""), admitted

    async def run(self, work: Callable[[], _Result]) -> _Result:
        """Do what may wait for the store in one of the threads."""
        return await asyncio.get_running_loop().run_in_executor(self.threads, work)


def make_app(
    broker: Broker, limits: AppLimits | None = None, *, serves_reference_kbs: bool = False
) -> ASGIApp:
    """Return the ASGI application over an open broker.

    serves_reference_kbs: also to guests of libkrun 1.7 to 1.19, in their dialect.
    """
    house = _open_house(broker, limits)
    table: list[tuple[str, str, _Endpoint]] = [
        (method, path, _make_endpoint(house, role, handler)) for method, path, role, handler in ROUTES
    ]
    if serves_reference_kbs:
        table += [(method, path, _make_kbs_endpoint(house, handler)) for method, path, handler in KBS_ROUTES]
    return _make_router(table)


def make_socket_app(broker: Broker, limits: AppLimits | None = None) -> ASGIApp:
    """Return the application of the reference-kbs dialect's Unix socket: it registers, and nothing else."""
    house = _open_house(broker, limits)
    return _make_router(
        [(method, path, _make_kbs_endpoint(house, handler)) for method, path, handler in KBS_SOCKET_ROUTES]
    )


def _open_house(broker: Broker, limits: AppLimits | None) -> _House:
    return _House(
        broker=broker,
        limits=limits or AppLimits(),
        throttle=Throttle(broker.now_s, WRONG_TOKENS),
        threads=ThreadPoolExecutor(_THREADS, "krunpy-server"),
    )


def _make_endpoint(house: _House, role: Role | None, handler: Handler) -> _Endpoint:
    broker = house.broker

    async def answer(request: Request) -> Answer:
        try:
            call, seen = await house.read(
                request, lambda call: require_role(broker, house.throttle, call, role)
            )
            return await house.run(lambda: handler(broker, call, seen))
        except RefusedCallError as refused:
            return refused.answer
        except KrunpyError as error:
            _note_failure(broker, error)
            return describe_error(error, to_stranger=role is None)

    async def endpoint(request: Request) -> Response:
        return _encode(await answer(request))

    return endpoint


def _make_kbs_endpoint(house: _House, handler: KbsHandler) -> _Endpoint:
    broker = house.broker

    async def answer(request: Request) -> PlainAnswer:
        call = Call(remote=request.client.host if request.client else "")
        try:
            call, invitation = await house.read(
                request, lambda call: admit_invited(broker, house.throttle, call)
            )
            return await house.run(lambda: handler(broker, call, invitation))
        except RefusedCallError as refused:
            return to_text(refused.answer)
        except KrunpyError as error:
            _note_failure(broker, error)
            return to_text(describe_plainly(broker, call, error))

    async def endpoint(request: Request) -> Response:
        return _encode_plainly(await answer(request))

    return endpoint


def _make_router(table: list[tuple[str, str, _Endpoint]]) -> Router:
    by_path: dict[str, dict[str, _Endpoint]] = {}
    for method, path, endpoint in table:
        by_path.setdefault(path, {})[method] = endpoint
    routes = [Route(path, _choose(methods), methods=list(methods)) for path, methods in by_path.items()]
    return Router(routes, redirect_slashes=False, default=_refuse_path)


def require_role(broker: Broker, throttle: Throttle, call: Call, wanted: Role | None) -> Role | None:
    """Return the role of the call's token. Raises RefusedCallError if the route needs more."""
    if wanted is None:
        return None
    scheme, _, text = call.authorization.partition(" ")
    token = text.strip()
    role = None
    if scheme.lower() == "bearer" and 0 < len(token) <= _MAX_TOKEN:
        with broker.database.look() as connection:
            role = find_role(connection, Secret(token.encode()), now_s=int(broker.now_s()))
    if role is None:
        if throttle.count_failure(call.remote):
            raise RefusedCallError(429, "throttled", "too many wrong tokens")
        broker.note({"event": "token-refused", "remote": call.remote})
        raise RefusedCallError(401, "unauthorized", "a valid bearer token is needed")
    if not allows(role, wanted):
        raise RefusedCallError(403, "forbidden", f"this needs a token of role {wanted.value}")
    return role


async def _read_body(request: Request, limits: AppLimits) -> bytes:
    too_large = RefusedCallError(413, "too-large", f"a body is at most {limits.body_bytes} bytes")
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared[:20]) > limits.body_bytes:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(limits.body_s):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limits.body_bytes:
                    raise too_large
    except TimeoutError as error:
        raise RefusedCallError(408, "too-slow", f"a body is read for {limits.body_s:g} s") from error
    except ClientDisconnect as error:
        raise RefusedCallError(400, "malformed", "the body was cut off") from error
    return bytes(body)


def _encode(answer: Answer) -> Response:
    headers = {"Cache-Control": "no-store"}
    if answer.simulated:
        headers[SIMULATED_HEADER] = "true"
    if answer.status in _CLOSING:
        headers["Connection"] = "close"
    if answer.status == 401:  # noqa: PLR2004 - RFC 9110 section 11.6.1
        headers["WWW-Authenticate"] = "Bearer"
    return Response(
        encode_document(answer.document), answer.status, headers=headers, media_type="application/json"
    )


def _encode_plainly(answer: PlainAnswer) -> Response:
    headers = {"Cache-Control": "no-store"}
    if answer.cookie:
        headers["Set-Cookie"] = answer.cookie
    if answer.status in _CLOSING:
        headers["Connection"] = "close"
    return Response(answer.body, answer.status, headers=headers, media_type=answer.media_type)


def _choose(methods: dict[str, _Endpoint]) -> _Endpoint:
    async def endpoint(request: Request) -> Response:
        return await methods["GET" if request.method == "HEAD" else request.method](request)

    return endpoint


async def _refuse_path(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await _encode(make_error(404, "no-such-path", "there is no such path"))(scope, receive, send)
    else:
        await send({"type": "websocket.close", "code": 1000})


def _note_failure(broker: Broker, error: KrunpyError) -> None:
    if isinstance(error, HostError):
        broker.note({"event": "failure", "what": error.what, "why": error.why})
