"""AMD's KDS and Intel's PCS as one real server on loopback, which answers as a test tells it to."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Iterator

    from krunpy.formats.tdx_collateral import TdxCollateral


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One answer. cut: send so many bytes of body and hang up; delay_s: before the head; endless: never end."""

    status: int = 200
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    cut: int = -1
    delay_s: float = 0
    endless: bool = False
    endless_raw: bytes = b""  # again and again, in place of HTTP
    drip_s: float = 0  # between the bytes of the body

    def send(self, connection: socket.socket, stop: threading.Event) -> None:
        stop.wait(self.delay_s)
        while self.endless_raw and not stop.is_set():
            connection.sendall(self.endless_raw)
        length = [] if self.endless else [("Content-Length", str(len(self.body)))]
        lines = [f"HTTP/1.1 {self.status} Said", *(f"{k}: {v}" for k, v in (*length, *self.headers))]
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        body = self.body if self.cut < 0 else self.body[: self.cut]
        size = 1 if self.drip_s else max(len(body), 1)
        for at in range(0, len(body), size):
            connection.sendall(body[at : at + size])
            if stop.wait(self.drip_s):
                return
        while self.endless and not stop.is_set():
            connection.sendall(b"A" * 4096)
            stop.wait(0.001)


NOT_FOUND = Reply(status=404, body=b"no")


@dataclass
class CollateralServer:
    """Answers each path with its replies in order, the last one for ever; and counts what it was asked."""

    replies: dict[str, list[Reply]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    asked_at: list[float] = field(default_factory=list)
    url: str = ""

    def __post_init__(self) -> None:
        self._guard = threading.Lock()
        self._stop = threading.Event()

    def put(self, path: str, *replies: Reply) -> None:
        self.replies[path] = list(replies)

    def _take(self, path: str) -> Reply:
        with self._guard:
            self.asked.append(path)
            self.asked_at.append(time.monotonic())
            replies = self.replies.get(path, [NOT_FOUND])
            return replies.pop(0) if len(replies) > 1 else replies[0]

    def _talk(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            connection.settimeout(10)
            head = b""
            while b"\r\n\r\n" not in head:
                more = connection.recv(65536)
                if not more:
                    return
                head += more
            self._take(head.split(b" ", 2)[1].decode()).send(connection, self._stop)
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_WR)

    def _listen(self, listener: socket.socket) -> None:
        threads = []
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                if self._stop.is_set():
                    connection.close()
                    break
                threads.append(threading.Thread(target=self._talk, args=(connection,)))
                threads[-1].start()
        for thread in threads:
            thread.join(10)

    @contextlib.contextmanager
    def running(self) -> Iterator[CollateralServer]:
        with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
            address = listener.getsockname()
            self.url = f"http://127.0.0.1:{address[1]}"
            thread = threading.Thread(target=self._listen, args=(listener,))
            thread.start()
            try:
                yield self
            finally:
                self._stop.set()
                with contextlib.suppress(OSError), socket.create_connection(address, 5):
                    pass  # wakes accept()
                thread.join(20)


def make_tdx_replies(collateral: TdxCollateral, *, fmspc: str, ca: str) -> dict[str, Reply]:
    """Return what Intel's service, as a cache of it has it, answers for a platform."""

    def chain(name: str, pem: bytes) -> tuple[tuple[str, str], ...]:
        return ((name, quote(pem)),)

    def signed(name: str, document: bytes, signature: bytes) -> bytes:
        return b'{"%s":%s,"signature":"%s"}' % (name.encode(), document, signature.hex().encode())

    return {
        f"/tdx/certification/v4/tcb?fmspc={fmspc.upper()}": Reply(
            body=signed("tcbInfo", collateral.tcb_info, collateral.tcb_info_signature),
            headers=chain("TCB-Info-Issuer-Chain", collateral.tcb_info_issuer_chain),
        ),
        "/tdx/certification/v4/qe/identity": Reply(
            body=signed("enclaveIdentity", collateral.qe_identity, collateral.qe_identity_signature),
            headers=chain("SGX-Enclave-Identity-Issuer-Chain", collateral.qe_identity_issuer_chain),
        ),
        f"/sgx/certification/v4/pckcrl?ca={ca}&encoding=der": Reply(
            body=collateral.pck_crl,
            headers=chain("SGX-PCK-CRL-Issuer-Chain", collateral.pck_crl_issuer_chain),
        ),
        "/sgx/certification/v4/rootcacrl": Reply(body=collateral.root_ca_crl.hex().encode()),
    }
