"""Where the server listens, and what it refuses to offer to a network. One socket, made first."""

from __future__ import annotations

import ipaddress
import os
import socket
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from krunpy.core.errors import HostError, UsageError
from krunpy.server.mode import Mode

if TYPE_CHECKING:
    from krunpy.server.trust import SimulatedRoot

DEFAULT_PORT = 8181
_BACKLOG = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """What an operator chooses. The unsafe ones are long to type.

    data_dir:         the store; several servers may share it.
    host, port:       an address, not a name; port 0 takes any free one.
    listen_fd:        an inherited listening socket instead; -1 for none.
    ready_fd:         gets one line of JSON (url, key, mode) when the server answers; -1 for none.
    parent_fd:        the server ends when this pipe's other end closes; -1 for none.
    simulated_root:   the one software TEE's root that is trusted, in mode development only.
    tls_certificate, tls_key: PEM files; both or none.
    log_file:         one line of JSON for each event; empty for stderr.
    serves_reference_kbs: answer guests of libkrun 1.7 to 1.19 in their dialect; in mode production only.
    reference_kbs_socket: a Unix socket of ours alone that registers their workloads; empty for none.
    """

    data_dir: str
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    listen_fd: int = -1
    ready_fd: int = -1
    parent_fd: int = -1
    mode: Mode = Mode.PRODUCTION
    simulated_root: SimulatedRoot | None = None
    accepts_simulated_from_network: bool = False  # --i-accept-simulated
    allows_plain_http: bool = False  # --unsafe-plain-http
    tls_certificate: str = ""
    tls_key: str = ""
    log_file: str = ""
    records_kept: int = 10_000
    serves_reference_kbs: bool = False  # --enable-reference-kbs
    reference_kbs_socket: str = ""

    @property
    def has_tls(self) -> bool:
        """Whether the server speaks https."""
        return bool(self.tls_certificate)


def open_listener(options: ServerOptions) -> socket.socket:
    """Return the listening socket.

    Raises UsageError if the options would expose what must not be exposed, HostError if the address is taken.
    """
    if bool(options.tls_certificate) != bool(options.tls_key):
        raise UsageError("cannot serve https", why="it needs both a certificate and a key")
    if options.simulated_root and options.mode is not Mode.DEVELOPMENT:
        raise UsageError(
            "cannot trust a simulated root",
            why=f"seen mode {options.mode}, wanted development",
            next="a server that holds real secrets must not know a simulated root",
        )
    _require_dialect(options)
    listener = _inherit(options.listen_fd) if options.listen_fd >= 0 else _bind(options)
    try:
        if listener.family != socket.AF_UNIX:
            _require_safe(options, str(listener.getsockname()[0]))
    except BaseException:
        listener.close()
        raise
    return listener


def open_socket(path: str) -> socket.socket:
    """Return a Unix socket that listens at a path, with mode 0600; one that nobody listens at is replaced.

    Raises HostError if the path is taken, or cannot be used.
    """
    what = f"cannot listen at {path}"
    _remove_abandoned(path, what)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        mask = os.umask(0o177)  # from the first moment; the server has no other thread yet
        try:
            listener.bind(path)
        finally:
            os.umask(mask)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise HostError(what, why=error.strerror or str(error)) from error
    return listener


def _remove_abandoned(path: str, what: str) -> None:
    try:
        is_socket = stat.S_ISSOCK(os.lstat(path).st_mode)
    except FileNotFoundError:
        return
    except OSError as error:
        raise HostError(what, why=error.strerror or "error") from error
    if not is_socket:
        raise HostError(what, why="it is there, and no socket", next="remove it, or choose another path")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except OSError as error:
            raise HostError(what, why=error.strerror or "error") from error
    raise HostError(what, why="another server listens there", next="choose another path")


def describe_url(options: ServerOptions, listener: socket.socket) -> str:
    """Return the URL that the socket answers at."""
    if listener.family == socket.AF_UNIX:
        return "unix:"
    host, port = listener.getsockname()[:2]
    scheme = "https" if options.has_tls else "http"
    return (
        f"{scheme}://[{host}]:{port}" if listener.family == socket.AF_INET6 else f"{scheme}://{host}:{port}"
    )


def _require_dialect(options: ServerOptions) -> None:
    if options.serves_reference_kbs and options.mode is not Mode.PRODUCTION:
        raise UsageError(
            "cannot serve the reference-kbs dialect",
            why=f"seen mode {options.mode}, wanted production: a software TEE's evidence has no form in it",
        )
    if options.reference_kbs_socket and not options.serves_reference_kbs:
        raise UsageError(
            f"cannot register at {options.reference_kbs_socket}",
            why="the reference-kbs dialect is off",
            next="add --enable-reference-kbs",
        )


def _bind(options: ServerOptions) -> socket.socket:
    try:
        address = ipaddress.ip_address(options.host)
    except ValueError as error:
        raise UsageError(
            "cannot listen", why=f'seen host "{options.host}", wanted an address', next="use 127.0.0.1"
        ) from error
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET  # noqa: PLR2004
    # before the port is open: afterwards someone might have connected
    _require_safe(options, options.host)
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((options.host, options.port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise HostError(
            f"cannot listen on {options.host} port {options.port}",
            why=error.strerror or "error",
            next="stop what uses the port, or choose another with --port",
        ) from error
    return listener


def _inherit(descriptor: int) -> socket.socket:
    try:
        return socket.socket(fileno=descriptor)
    except OSError as error:
        raise HostError(
            f"cannot use the inherited socket {descriptor}", why=error.strerror or "error"
        ) from error


def _require_safe(options: ServerOptions, host: str) -> None:
    if ipaddress.ip_address(host.partition("%")[0]).is_loopback:
        return
    if options.mode is Mode.DEVELOPMENT and not options.accepts_simulated_from_network:
        raise UsageError(
            f"cannot listen on {host}",
            why="mode development accepts simulated evidence: whoever can connect can have its secrets",
            next="listen on 127.0.0.1, use mode production, or say --i-accept-simulated",
        )
    if not options.has_tls and not options.allows_plain_http:
        raise UsageError(
            f"cannot listen on {host}",
            why="disk keys are registered over this connection, and it is not encrypted",
            next="give --tls-certificate and --tls-key, or say --unsafe-plain-http behind a proxy",
        )
