"""One HTTP/1.1 request and its response, bounded in bytes and in time. No redirects, no proxies, no cookies.

Not http.client: that takes 20 ms and 7 MB in every container's shim, and bounds no response as a whole.
Source: RFC 9112 sections 2 to 7.
"""

from __future__ import annotations

import re
import socket
import time
from dataclasses import dataclass, field

from krunpy.core.errors import BrokerError, FormatError, UsageError

MAX_RESPONSE = 1024 * 1024  # bytes of body
_MAX_HEAD = 32 * 1024  # bytes of status line and headers
_MAX_STREAM = _MAX_HEAD + 2 * MAX_RESPONSE  # bytes in all: chunks have headers too
_URL = re.compile(r"(https?)://(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?/?")
_LOOPBACK = re.compile(r"localhost|\[::1\]|127(?:\.[0-9]{1,3}){3}")
_STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3})(?: .*)?")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_PORTS = {"http": 80, "https": 443}
_MAX_PORT = 65535


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where a server is. host: a name, an IPv4 address, or an IPv6 address in brackets."""

    scheme: str
    host: str
    port: int
    ca_file: str = ""

    @property
    def is_private(self) -> bool:
        """Whether nobody on a network can read along: https, or this machine itself."""
        return self.scheme == "https" or _LOOPBACK.fullmatch(self.host) is not None

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request with a whole body; the token and the body are not in its repr."""

    method: str
    path: str
    body: bytes = field(default=b"", repr=False)
    token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """A whole response."""

    status: int
    body: bytes


def parse_url(url: str, *, ca_file: str = "") -> Target:
    """Return where a URL of a server points. Raises UsageError if it is not http(s)://HOST[:PORT]."""
    match = _URL.fullmatch(url)
    port = int(match[3]) if match and match[3] else _PORTS[match[1]] if match else 0
    if match is None or not 0 < port <= _MAX_PORT:
        raise UsageError(
            "cannot use the server's URL",
            why=f'seen "{_without_credentials(url)[:80]}", wanted http(s)://HOST[:PORT]',
        )
    return Target(scheme=match[1], host=match[2], port=port, ca_file=ca_file)


def _without_credentials(url: str) -> str:
    """Return a URL without what may be a secret: user and password, query, fragment."""
    head, found, rest = url.rpartition("@")
    scheme = _SCHEME.match(head)
    shown = f"{scheme[0] if scheme else ''}…@{rest}" if found else url
    return re.sub(r"[?#].*", "…", shown, flags=re.DOTALL)


def exchange(target: Target, request: Request, *, timeout_s: float) -> Response:
    """Return the response to a request.

    timeout_s: for everything together, except the resolution of a name.

    Raises BrokerError if the server cannot be reached, is too slow, says too much or speaks no HTTP.
    """
    what = f"cannot reach the attestation server {target}"
    deadline = time.monotonic() + timeout_s
    try:
        with _connect(target, timeout_s) as connection:
            connection.settimeout(_left(deadline))
            connection.sendall(_encode(target, request))
            return _receive(connection, deadline)
    except FormatError as error:
        raise BrokerError(what, why=error.why, next="check that the URL is a krunpy server's") from error
    except TimeoutError as error:
        raise BrokerError(what, why=f"no answer within {timeout_s:g} s", next=_NEXT) from error
    except UnicodeError as error:
        raise BrokerError(what, why="its name cannot be a host's", next=_NEXT) from error
    except OSError as error:  # also ssl.SSLError, socket.gaierror
        raise BrokerError(what, why=error.strerror or str(error), next=_NEXT) from error


_NEXT = "check that it runs (`krunpy server run`) and that the URL is right"


def parse_response(data: bytes, *, has_ended: bool) -> Response | None:
    """Return the response that the bytes so far hold, or None if there is more to come.

    has_ended: whether the server has closed the connection.

    Raises FormatError if they are not an HTTP/1 response, or over the limits.
    """
    head, separator, rest = data.partition(b"\r\n\r\n")
    if len(head) > _MAX_HEAD:
        raise _refuse(f"its headers are over {_MAX_HEAD} bytes")
    if not separator:
        if has_ended:
            raise _refuse("it closed the connection before it answered" if not data else "no HTTP response")
        return None
    lines = head.split(b"\r\n")
    match = _STATUS.fullmatch(lines[0])
    if match is None:
        raise _refuse("its answer is not HTTP")
    headers = _parse_headers(lines[1:])
    body = _parse_body(headers, rest, has_ended=has_ended)
    return None if body is None else Response(status=int(match[1]), body=body)


def _parse_headers(lines: list[bytes]) -> dict[bytes, bytes]:
    headers: dict[bytes, bytes] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        key = name.lower()
        is_framing = key in {b"content-length", b"transfer-encoding"}
        if not colon or not name or name != name.strip() or (is_framing and key in headers):
            raise _refuse("its headers are malformed")
        headers[key] = value.strip()
    return headers


def _parse_body(headers: dict[bytes, bytes], rest: bytes, *, has_ended: bool) -> bytes | None:
    length = headers.get(b"content-length")
    if b"transfer-encoding" in headers:
        if length is not None or headers[b"transfer-encoding"].lower() != b"chunked":
            raise _refuse("its transfer encoding is unknown")
        body = _parse_chunks(rest)
    elif length is None:
        if len(rest) > MAX_RESPONSE:
            raise _refuse(f"its answer is over {MAX_RESPONSE} bytes")
        return rest if has_ended else None
    else:
        if not length.isdigit() or len(length) > 9 or int(length) > MAX_RESPONSE:  # noqa: PLR2004
            raise _refuse(f"its answer is over {MAX_RESPONSE} bytes")
        body = rest[: int(length)] if len(rest) >= int(length) else None
    if body is None and has_ended:
        raise _refuse("its answer was cut off")
    return body


def _parse_chunks(rest: bytes) -> bytes | None:
    body, at = bytearray(), 0
    while True:
        end = rest.find(b"\r\n", at)
        if end < 0:
            return None
        text = rest[at:end].partition(b";")[0].strip()
        if not re.fullmatch(rb"[0-9a-fA-F]{1,6}", text):
            raise _refuse("its chunks are malformed")
        size = int(text, 16)
        if size == 0:
            return bytes(body) if rest.find(b"\r\n", end + 2) >= 0 else None
        body += rest[end + 2 : end + 2 + size]
        if len(body) > MAX_RESPONSE:
            raise _refuse(f"its answer is over {MAX_RESPONSE} bytes")
        at = end + 2 + size + 2
        if len(rest) < at:
            return None
        if rest[at - 2 : at] != b"\r\n":
            raise _refuse("its chunks are malformed")


def _refuse(why: str) -> FormatError:
    return FormatError("cannot read the server's answer", why=why)


def _connect(target: Target, timeout_s: float) -> socket.socket:
    plain = socket.create_connection((target.host.strip("[]"), target.port), timeout_s)
    if target.scheme == "http":
        return plain
    import ssl  # 8 ms that plain loopback does not need

    try:
        context = ssl.create_default_context(cafile=target.ca_file or None)
        return context.wrap_socket(plain, server_hostname=target.host.strip("[]"))
    except BaseException:
        plain.close()
        raise


def _encode(target: Target, request: Request) -> bytes:
    lines = [
        f"{request.method} {request.path} HTTP/1.1",
        f"Host: {target.host}:{target.port}",
        "Connection: close",
        "Accept: application/json",
    ]
    if request.body or request.method in {"POST", "PUT"}:
        lines += ["Content-Type: application/json", f"Content-Length: {len(request.body)}"]
    if request.token:
        lines.append(f"Authorization: Bearer {request.token}")
    if any("\r" in line or "\n" in line for line in lines):
        msg = "a line of the request holds a line break"
        raise ValueError(msg)
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + request.body


def _receive(connection: socket.socket, deadline: float) -> Response:
    data = bytearray()
    while True:
        connection.settimeout(_left(deadline))
        chunk = connection.recv(65536)
        data += chunk
        if len(data) > _MAX_STREAM:
            raise _refuse(f"its answer is over {MAX_RESPONSE} bytes")
        response = parse_response(bytes(data), has_ended=not chunk)
        if response is not None:
            return response


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
