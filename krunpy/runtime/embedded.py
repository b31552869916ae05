"""An attestation server for one run, on loopback, when none is configured.

Its store is shared by every embedded server of this installation; it ends with the process that started it. Where
machines are launched in a hardware TEE, it is one in mode production, with a store and a key of its own: it accepts no
simulated evidence.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from krunpy.core.errors import BrokerError, FormatError, HostError, UsageError
from krunpy.core.files import load_bounded
from krunpy.core.octets import PublicKey32, Secret
from krunpy.core.proc import clean_environment
from krunpy.runtime.confidential import choose_tee
from krunpy.server.names import ADMIN_TOKEN_FILE, PRODUCTION_KEY_FILE, SIGNING_KEY_FILE
from krunpy.tee.detect import TeeKind

if TYPE_CHECKING:
    from krunpy.core.settings import Settings

URL_IN_MANIFEST = "embedded:"  # the port differs from run to run; the key is what identifies the server
KEY_SIZE = 32  # bytes of an Ed25519 private key
READY_TIMEOUT_S = 60.0  # the first start makes keys
LOG_FILE = "server.log"
LOG_LIMIT = 4 * 1024 * 1024  # bytes at a start; there are at most two logs, and what one run adds
_TOKEN_LIMIT = 4096  # bytes
_BLANK, _DELETE = 0x20, 0x7F  # what is between is printable
_MESSAGES_LIMIT = 4096  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedServer:
    """A started server: where it listens, its process, and the pipe whose end stops it."""

    url: str
    pid: int
    store: str
    _stop: int
    _ready: int
    _messages: int

    def wait_until_ready(self) -> None:
        """Return when the server has made its keys and listens. Raises BrokerError if it ends before."""
        poller = select.poll()
        poller.register(self._ready, select.POLLIN)
        if not poller.poll(READY_TIMEOUT_S * 1000):
            raise BrokerError(
                "cannot start the embedded server",
                why=f"it is not ready after {READY_TIMEOUT_S:g} s",
                next=f"see whether another process holds {self.store}",
            )
        with open(self._ready, "rb", closefd=False) as stream:
            if not stream.readline(256):
                said = os.pread(self._messages, _MESSAGES_LIMIT, 0).decode(errors="replace").strip()
                raise BrokerError(
                    "cannot start the embedded server",
                    why=said.rpartition("\n")[2].removeprefix("krunpy: ") or "it ended at once",
                    next=f"mend or remove what is broken in {os.path.dirname(self.store)}",
                )

    def stop(self, *, wait: bool = True) -> None:
        """End the server. wait: until it has ended; otherwise the caller is about to end, too."""
        os.close(self._stop)
        os.close(self._ready)
        os.close(self._messages)
        if wait:
            os.waitpid(self.pid, 0)


def store_of(settings: Settings) -> str:
    """Return the data directory of servers, if they are not told another one."""
    return os.path.join(settings.data_dir, "server")


def embedded_store_of(settings: Settings) -> str:
    """Return the data directory of embedded servers: secrets for hardware are in a store of their own."""
    return f"{store_of(settings)}-hardware" if _is_for_hardware(settings) else store_of(settings)


def start_embedded_server(settings: Settings) -> EmbeddedServer:
    """Start a server process that listens on a free port of 127.0.0.1; it is ready a moment later.

    Connections made before it is ready wait in the socket's queue. What it says on standard error is kept for
    `wait_until_ready`: an error of a server that nobody needed is not the user's.
    """
    bound_log(os.path.join(embedded_store_of(settings), LOG_FILE))
    messages = os.memfd_create("krunpy-server", os.MFD_CLOEXEC)
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    stop_read, stop_write = os.pipe()
    ready_read, ready_write = os.pipe()
    try:
        inherited = (listener.fileno(), stop_read, ready_write)
        for descriptor in inherited:
            os.set_inheritable(descriptor, True)
        argv = [
            *(sys.executable, "-I", "-m", *_choose_program(settings)),
            *("--data-dir", embedded_store_of(settings)),
            *(
                "--listen-fd",
                str(inherited[0]),
                "--stop-fd",
                str(inherited[1]),
                "--ready-fd",
                str(inherited[2]),
            ),
        ]
        actions = [(os.POSIX_SPAWN_DUP2, messages, 2)]
        pid = os.posix_spawn(sys.executable, argv, clean_environment(), file_actions=actions)
        port = listener.getsockname()[1]
    except OSError as error:
        for descriptor in (messages, stop_write, ready_read):
            os.close(descriptor)
        why = (error.strerror or "error").lower()
        raise HostError("cannot start the embedded server", why=why) from error
    finally:
        listener.close()
        os.close(stop_read)
        os.close(ready_write)
    return EmbeddedServer(
        url=f"http://127.0.0.1:{port}",
        pid=pid,
        store=embedded_store_of(settings),
        _stop=stop_write,
        _ready=ready_read,
        _messages=messages,
    )


def _choose_program(settings: Settings) -> tuple[str, ...]:
    """Return module and arguments of a server for evidence of hardware, or of the software TEE."""
    if not _is_for_hardware(settings):
        return ("krunpy.server.embedded", "--tee-dir", authority_directory(settings))
    urls = ("--kds-url", settings.kds_url, "--pcs-url", settings.pcs_url)
    return ("krunpy.runtime.embedded_hardware", "--cache-dir", settings.cache_dir, *urls)


def _is_for_hardware(settings: Settings) -> bool:
    return choose_tee(settings.tee) is not TeeKind.SOFTWARE


def bound_log(path: str) -> None:
    """Put a log that has grown beyond LOG_LIMIT aside, in the place of the one that was put aside before."""
    with contextlib.suppress(OSError):  # there is none, or another start was faster
        if os.stat(path).st_size > LOG_LIMIT:
            os.rename(path, f"{path}.1")


def authority_directory(settings: Settings) -> str:
    """Return where this installation's software TEE keeps its root."""
    return os.path.join(settings.data_dir, "software-tee")


def load_embedded_token(settings: Settings) -> Secret:
    """Return the administrator's token of the embedded store; the server must have been ready once."""
    path = os.path.join(embedded_store_of(settings), ADMIN_TOKEN_FILE)
    return load_token(path, f"write what `krunpy server token create --role admin` prints into {path}")


def load_token(path: str, hint: str) -> Secret:
    """Return the token in a file. hint: what mends it.

    Raises HostError or FormatError if it cannot be read, UsageError if it is no token.
    """
    try:
        contents = load_bounded(path, _TOKEN_LIMIT).strip()
    except (FormatError, HostError) as error:
        error.next = hint
        raise
    if not contents or not all(_BLANK < octet < _DELETE for octet in contents):
        why = "wanted one line of printable ASCII"
        raise UsageError(f"cannot use the token in {path}", why=why, next=hint)
    return Secret(contents)


def find_embedded_key(settings: Settings) -> PublicKey32 | None:
    """Return the key with which embedded servers sign, or None before the first one was started."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    name = PRODUCTION_KEY_FILE if _is_for_hardware(settings) else SIGNING_KEY_FILE
    path = os.path.join(embedded_store_of(settings), name)
    if not (
        os.path.exists(path) and os.path.exists(os.path.join(embedded_store_of(settings), ADMIN_TOKEN_FILE))
    ):
        return None
    contents = load_bounded(path, _TOKEN_LIMIT)
    if len(contents) != KEY_SIZE:
        raise HostError(
            f"cannot use {path}",
            why=f"it has {len(contents)} bytes, wanted {KEY_SIZE}",
            next=f"restore it from a backup, or remove {embedded_store_of(settings)} and register everything again",
        )
    private = Ed25519PrivateKey.from_private_bytes(contents)
    return PublicKey32(private.public_key().public_bytes_raw())
