"""One GET of collateral: bounded in bytes and in time, TLS verified, no redirects, proxies or cookies.

h11 reads and writes HTTP; the socket and the clock are here. It decides nothing about what came.

Source: RFC 9110, section 10.2.3 (Retry-After); RFC 9112.
"""

from __future__ import annotations

import socket
import ssl
import time
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import h11

from krunpy.core.errors import BrokerError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from krunpy.client.exchange import Target

_MAX_HEAD = 64 * 1024  # bytes; Intel puts whole certificate chains into headers
_CHUNK = 65536  # bytes
_MOST_DIGITS = 9


class CollateralError(BrokerError):
    """It could not be checked: collateral cannot be had. That says nothing for or against the evidence."""


class TransientError(CollateralError):
    """It may work later. wait_s: how long the server asks to wait, None if it does not say."""

    def __init__(self, what: str, *, why: str, wait_s: float | None = None) -> None:
        super().__init__(what, why=why, next=_NEXT)
        self.wait_s = wait_s


_NEXT = "check the network, or fetch elsewhere and `krunpy collateral import`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A whole answer. headers: by name in lower case; the last of a name counts."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def get(target: Target, path: str, *, limit: int, timeout_s: float) -> Answer:
    """Return the answer to a GET, of any status.

    limit: bytes of body; timeout_s: for everything together, except the resolution of a name.

    Raises TransientError if the server cannot be reached, is too slow or breaks off, CollateralError if it
    says too much.
    """
    what = f"cannot get collateral from {target}"
    deadline = time.monotonic() + timeout_s
    try:
        with _connect(target, timeout_s) as connection:
            return _ask(connection, target, path, limit, deadline)
    except h11.RemoteProtocolError as error:
        raise TransientError(what, why=f"its answer is cut off or not HTTP: {error}") from error
    except TimeoutError as error:
        raise TransientError(what, why=f"no whole answer within {timeout_s:g} s") from error
    except ssl.SSLCertVerificationError as error:
        raise CollateralError(what, why=f"its certificate: {error.verify_message}", next=_NEXT) from error
    except UnicodeError as error:
        raise CollateralError(what, why="its name cannot be a host's", next=_NEXT) from error
    except OSError as error:  # also ssl.SSLError, socket.gaierror
        raise TransientError(what, why=(error.strerror or str(error)).lower()) from error


def _connect(target: Target, timeout_s: float) -> socket.socket:
    host = target.host.strip("[]")
    plain = socket.create_connection((host, target.port), timeout_s)
    if target.scheme == "http":
        return plain
    try:
        context = ssl.create_default_context(cafile=target.ca_file or None)
        return context.wrap_socket(plain, server_hostname=host)
    except BaseException:
        plain.close()
        raise


def _ask(connection: socket.socket, target: Target, path: str, limit: int, deadline: float) -> Answer:
    http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MAX_HEAD)
    headers = [
        ("Host", f"{target.host}:{target.port}"),
        ("User-Agent", "krunpy"),
        ("Accept", "*/*"),
        ("Connection", "close"),
    ]
    request = http.send(h11.Request(method="GET", target=path, headers=headers))
    connection.settimeout(_left(deadline))
    connection.sendall((request or b"") + (http.send(h11.EndOfMessage()) or b""))
    status, fields, body, received = 0, {}, bytearray(), 0
    while True:
        match http.next_event():
            case h11.NEED_DATA:
                connection.settimeout(_left(deadline))
                chunk = connection.recv(_CHUNK)
                received += len(chunk)
                http.receive_data(chunk)
            case h11.Response() as head:
                status = head.status_code
                fields = {name.decode("ascii"): value.decode("latin-1") for name, value in head.headers}
            case h11.Data() as part:
                body += part.data
            case h11.EndOfMessage():
                return Answer(status=status, headers=fields, body=bytes(body))
            case _:
                pass  # an interim answer: the final one follows
        # the head, and for every byte of body as much again for chunks' framing
        if len(body) > limit or received > 2 * limit + 2 * _MAX_HEAD:
            raise CollateralError(
                f"cannot get collateral from {target}", why=f"its answer is over {limit} bytes"
            )


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def parse_retry_after(text: str, now: datetime) -> float | None:
    """Return how many seconds a Retry-After asks to wait: a number of seconds, or a date; None if neither."""
    if text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS:
        return float(text)
    try:
        until = parsedate_to_datetime(text)
    except ValueError:
        return None
    if until.tzinfo is None:  # "-0000": no zone is said, and HTTP's is always UTC
        until = until.replace(tzinfo=UTC)
    return max(0.0, (until - now).total_seconds())
