"""Run the server in this process until it is told to end: uvicorn around the application.

Ends on SIGTERM, SIGINT, or when the parent's pipe closes; in-flight requests get a few seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from krunpy.core.errors import HostError
from krunpy.server.app import make_app, make_socket_app
from krunpy.server.broker import BrokerLimits, open_broker
from krunpy.server.documents import encode_document
from krunpy.server.listening import describe_url, open_listener, open_socket
from krunpy.server.log import EventLog
from krunpy.server.mode import Mode
from krunpy.server.trust import load_simulated_root
from krunpy.server.verifier import make_appraiser

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator, Callable, Iterator

    from starlette.types import ASGIApp
    from uvicorn.protocols.http.h11_impl import RequestResponseCycle

    from krunpy.server.broker import Broker
    from krunpy.server.collateral import CollateralSource
    from krunpy.server.listening import ServerOptions

HEADER_TIME_S = 10.0  # for a request's line and headers
KEEP_ALIVE_S = 15
DRAIN_S = 5  # for requests in flight when the server is told to end
MAX_CONNECTIONS = 512
MAX_HEADER = 32 * 1024  # bytes


class PatientProtocol(H11Protocol):
    """HTTP/1.1 that closes a connection whose next request has no complete headers after HEADER_TIME_S."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        super().__init__(*args, **keywords)
        self._header_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._header_timer is not None:
            self._header_timer.cancel()

    def _watch(self) -> None:
        is_waiting = self._is_waiting()
        if not is_waiting and self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None
        elif is_waiting and self._header_timer is None:
            self._header_timer = self.loop.call_later(HEADER_TIME_S, self._give_up)

    def _give_up(self) -> None:
        self._header_timer = None
        if self._is_waiting() and not self.transport.is_closing():
            self.transport.close()

    def _is_waiting(self) -> bool:
        cycle = cast("RequestResponseCycle | None", self.cycle)  # None before the first request
        return cycle is None or cycle.response_complete


class _Server(uvicorn.Server):
    """uvicorn, ended by our signals and the parent's pipe, with an exit status of 0."""

    def __init__(self, config: uvicorn.Config, tell_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._tell_ready = tell_ready

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # uvicorn raises the signal again at the end, which turns a clean end into a death by signal
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        signals = (signal.SIGINT, signal.SIGTERM)
        for number in signals:
            loop.add_signal_handler(number, self.stop)
        try:
            yield
        finally:
            for number in signals:
                loop.remove_signal_handler(number)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._tell_ready()

    def stop(self) -> None:
        """End soon."""
        self.should_exit = True


class _SocketServer(uvicorn.Server):
    """uvicorn beside the server that has the signals; ended by it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def run_server(options: ServerOptions, *, collateral: CollateralSource | None = None) -> None:
    """Serve until a signal or the parent's end. Returns when every connection is closed.

    collateral: asked for what evidence came without; None: what needs it cannot be checked.

    Raises UsageError on unsafe options, HostError if store, keys, socket or TLS files cannot be used.
    """
    # a core dump would hold the key-encryption key and every disk key in flight
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(open_listener(options))
        registrars = None
        if path := options.reference_kbs_socket:
            registrars = stack.enter_context(open_socket(path))
            stack.callback(os.unlink, path)
        root = load_simulated_root(options.simulated_root) if options.simulated_root else b""
        broker = open_broker(
            options.data_dir,
            appraiser=make_appraiser(root, collateral=collateral),
            mode=options.mode,
            now_s=lambda: datetime.now(tz=UTC).timestamp(),
            note=EventLog(options.log_file).note,
            limits=BrokerLimits(records_kept=options.records_kept),
        )
        stack.callback(broker.database.close)
        asyncio.run(_serve(options, listener, registrars, broker))


async def _serve(
    options: ServerOptions, listener: socket.socket, registrars: socket.socket | None, broker: Broker
) -> None:
    app = make_app(broker, serves_reference_kbs=options.serves_reference_kbs)
    config = _configure(app, certificate=options.tls_certificate, key=options.tls_key)
    server = _Server(config, lambda: _tell_ready(options, listener, broker))
    loop = asyncio.get_running_loop()
    if options.parent_fd >= 0:
        loop.add_reader(options.parent_fd, _watch_parent, options.parent_fd, server)
    async with _serve_beside(registrars, broker):
        await server.serve(sockets=[listener])


@contextlib.asynccontextmanager
async def _serve_beside(registrars: socket.socket | None, broker: Broker) -> AsyncIterator[None]:
    """Serve registrations of the reference-kbs dialect on a Unix socket while the block runs."""
    if registrars is None:
        yield
        return
    server = _SocketServer(_configure(make_socket_app(broker)))
    task = asyncio.create_task(server.serve(sockets=[registrars]))
    try:
        yield
    finally:
        server.should_exit = True
        await task


def _configure(app: ASGIApp, *, certificate: str = "", key: str = "") -> uvicorn.Config:
    """Return a loaded configuration, of https if a certificate is given. Raises HostError if it cannot be used."""
    try:
        config = uvicorn.Config(
            app,
            http=PatientProtocol,
            ws="none",
            loop="asyncio",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=DRAIN_S,
            h11_max_incomplete_event_size=MAX_HEADER,
            ssl_certfile=certificate or None,
            ssl_keyfile=key or None,
        )
        config.load()
    except OSError as error:  # ssl.SSLError is one
        raise HostError("cannot serve https", why=error.strerror or str(error)) from error
    return config


def _watch_parent(descriptor: int, server: _Server) -> None:
    with contextlib.suppress(BlockingIOError):
        if os.read(descriptor, 512):
            return
        asyncio.get_running_loop().remove_reader(descriptor)
        server.stop()


def _tell_ready(options: ServerOptions, listener: socket.socket, broker: Broker) -> None:
    url, key = describe_url(options, listener), broker.signer.public_key.hex()
    broker.note({"event": "ready", "url": url, "key": key, "mode": options.mode.value})
    if options.mode is Mode.DEVELOPMENT:
        broker.note_simulated("mode is development")
    if options.serves_reference_kbs:
        message = "the reference-kbs dialect is on: its launch digests name no workload, see docs/limits.md"
        broker.note({"event": "warning", "message": message})
    if options.ready_fd >= 0:
        line = encode_document({"url": url, "key": key, "mode": options.mode.value}).encode() + b"\n"
        with contextlib.suppress(OSError):  # who does not wait for us is free to go
            os.write(options.ready_fd, line)
            os.close(options.ready_fd)
