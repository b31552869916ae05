"""A whole attestation server without a socket, for tests: real store, real keys, real verifier, our clock."""

from __future__ import annotations

import asyncio
import base64
import functools
import json
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from krunpy.core.octets import Nonce
from krunpy.server.app import make_app
from krunpy.server.broker import Broker, open_broker
from krunpy.server.mode import Mode
from krunpy.server.refusals import MESSAGES, Refusal
from krunpy.server.verifier import make_appraiser
from krunpy.tee.authority import Authority, open_authority
from tests.fakes.guest import FakeGuest, launch, make_manifest

DISK_KEY = bytes(range(100, 164))
OTHER_DISK_KEY = bytes(range(150, 214))


@functools.cache
def make_authority(name: str = "one") -> Authority:
    """Return a software TEE's authority, made once for all tests: its RSA keys take seconds."""
    with tempfile.TemporaryDirectory(prefix=f"authority-{name}-") as directory:
        return open_authority(directory, now=datetime.now(tz=UTC))


@dataclass
class Clock:
    """Seconds since 1970, moved by hand."""

    now_s: float = field(default_factory=lambda: datetime.now(tz=UTC).timestamp())

    def __call__(self) -> float:
        return self.now_s


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    raw: bytes

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.raw)


@dataclass
class FakeServer:
    """The server of one directory, and what it logged."""

    data_dir: str
    broker: Broker
    app: Any
    clock: Clock
    notes: list[dict[str, object]]
    authority: Authority

    @property
    def token(self) -> str:
        with open(f"{self.data_dir}/admin.token") as stream:
            return stream.read().strip()

    def call(
        self, method: str, path: str, document: object = None, *, token: str | None = None, **keywords
    ) -> Reply:
        body = b"" if document is None else json.dumps(document).encode()
        headers = [] if token is None else [(b"authorization", b"Bearer " + token.encode())]
        return call_app(self.app, method, path, body, headers=headers, **keywords)

    def admin(self, method: str, path: str, document: object = None) -> Reply:
        return self.call(method, path, document, token=self.token)

    def make_manifest(self, **keywords) -> bytes:
        return make_manifest(self.broker.signer.public_key, **keywords)

    def register(self, manifest: bytes, *, disk_key: bytes = DISK_KEY, **changes) -> Reply:
        from krunpy.formats.manifest import parse_manifest

        parsed = parse_manifest(manifest)
        body = make_registration(self.authority, manifest, disk_key=disk_key, **changes)
        return self.admin("PUT", f"/v1/workloads/{parsed.workload}", body)

    def challenge(self, guest: FakeGuest) -> tuple[str, Nonce]:
        reply = self.call("POST", "/v1/challenge", {"manifest_hash": guest.manifest_hash.hex()})
        assert reply.status == 200, reply.raw
        return reply.json["session"], Nonce.from_hex(reply.json["nonce"])

    def attest(self, guest: FakeGuest, session: str, evidence: bytes, **changes) -> Reply:
        return self.call("POST", "/v1/attest", make_attest_body(guest, session, evidence, **changes))

    def run_guest(self, guest: FakeGuest, *, faults=None, **changes) -> Reply:
        """Challenge, launch on the software TEE, attest: the whole way of an honest guest."""
        session, nonce = self.challenge(guest)
        tee, _ = launch(self.authority, guest.manifest, faults=faults)
        return self.attest(guest, session, tee.report(guest.make_report_data(nonce)), **changes)

    def last_record(self) -> dict[str, Any]:
        return self.admin("GET", "/v1/attestations/last").json


def make_server(
    data_dir: str,
    *,
    mode: Mode = Mode.DEVELOPMENT,
    clock: Clock | None = None,
    limits=None,
    authority: Authority | None = None,
) -> FakeServer:
    authority = authority or make_authority()
    clock, notes = clock or Clock(), []
    root = authority.root if mode is Mode.DEVELOPMENT else b""
    broker = open_broker(
        data_dir,
        appraiser=make_appraiser(root),
        mode=mode,
        now_s=clock,
        note=lambda event: notes.append(dict(event)),
        limits=limits,
    )
    return FakeServer(data_dir, broker, make_app(broker), clock, notes, authority)


def make_registration(
    authority: Authority, manifest: bytes, *, disk_key: bytes = DISK_KEY, **changes
) -> dict[str, Any]:
    _, digest = launch(authority, manifest)
    value = {"tee": "software", "launch_digest": digest.hex(), "inputs": {"cpus": 1, "cmdline": "quiet"}}
    return {
        "manifest": base64.b64encode(manifest).decode(),
        "disk_key": base64.b64encode(disk_key).decode(),
        "reference_values": [value],
        "policy": {},
        "uses": 0,
        "expires_in_s": 0,
        **changes,
    }


def make_attest_body(guest: FakeGuest, session: str, evidence: bytes, **changes) -> dict[str, Any]:
    return {
        "session": session,
        "tee": "software",
        "guest_public_key": guest.public_key.hex(),
        "manifest_hash": guest.manifest_hash.hex(),
        "evidence": base64.b64encode(evidence).decode(),
        **changes,
    }


def call_app(
    app, method: str, path: str, body: bytes = b"", *, headers=(), chunks=None, client="192.0.2.7"
) -> Reply:
    """Drive an ASGI application through one request. chunks: the body in parts; None never comes."""
    parts = list(chunks if chunks is not None else [body])
    path, _, query = path.partition("?")
    sent: list[dict[str, Any]] = []

    async def receive():
        part = parts.pop(0)
        if part is None:
            await asyncio.Event().wait()
        return {"type": "http.request", "body": part, "more_body": bool(parts)}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": list(headers),
        "client": (client, 1234),
        "server": ("127.0.0.1", 80),
    }
    asyncio.run(app(scope, receive, send))
    start, *rest = sent
    raw = b"".join(message.get("body", b"") for message in rest)
    return Reply(start["status"], {k.decode(): v.decode() for k, v in start["headers"]}, raw)


def make_evidence(server: FakeServer, guest: FakeGuest, nonce: Nonce, **keywords) -> bytes:
    """Return evidence of a launch of the guest's manifest. keywords: as `launch`."""
    tee, _ = launch(server.authority, guest.manifest, **keywords)
    return tee.report(guest.make_report_data(nonce))


def open_reply(guest: FakeGuest, nonce: Nonce, reply: Reply) -> list[tuple[int, bytes]]:
    """Return what a reply to an attestation releases to the guest."""
    signature, sealed = (base64.b64decode(reply.json[name]) for name in ("signature", "sealed"))
    return guest.open_release(nonce, signature, sealed)


def require_refused(reply: Reply, refusal: Refusal) -> None:
    """Assert that a reply to an attestation is this refusal, short, and releases nothing."""
    assert reply.status == 403, reply.raw
    assert (reply.json["error"], reply.json["message"]) == (refusal.value, MESSAGES[refusal])
    assert len(reply.raw) < 200
    assert "sealed" not in reply.json
