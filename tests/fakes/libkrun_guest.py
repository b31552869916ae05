"""libkrun's guest client of 1.7 to 1.19, as its C program behaves, and a server that it can be tested against.

The port keeps the program's limits: each is an assertion about what the server sent.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15

from krunpy.core.octets import LaunchDigest, ReportData
from krunpy.formats.snp_certs import CertKind, pack_cert_table, pack_evidence, parse_evidence
from krunpy.server.app import make_app, make_socket_app
from krunpy.server.mode import Mode
from krunpy.server.reference_kbs_store import add_invitation, make_invitation_token
from krunpy.server.verifier import Verifier
from tests.fakes import amd
from tests.fakes.broker import Clock, FakeServer, Reply, call_app, make_server
from tests.fakes.forgery import NOBODY

if TYPE_CHECKING:
    from krunpy.formats.snp_tcb import Product
    from krunpy.server.refusals import Refusal

PASSPHRASE = "correct horse, battery staple: ümläut"
DIGEST = LaunchDigest(b"\x5a" * 48)
ERRMSG, FULL_URL, SESSION_ID, NONCE = 200, 100, 100, 1024  # bytes, with the NUL
BASE = "http://192.168.122.1:8470"
_HOST = [(b"host", b"192.168.122.1:8470")]


class RefusedError(Exception):
    """What the client prints after ATTESTATION ERROR."""


class Collateral:
    """AMD, as far as its key service is asked: the chip's VCEK and the chain below the test's root."""

    def __init__(self, chip: amd.FakeChip) -> None:
        self.chip = chip
        self.asked: list[Product | None] = []

    def complete_snp(self, payload: bytes, product: Product | None) -> bytes:
        self.asked.append(product)
        report, _ = parse_evidence(payload)
        table = {
            CertKind.VCEK: self.chip.certificate,
            CertKind.ASK: self.chip.intermediate,
            CertKind.ARK: amd.mint_root(self.chip.product),
        }
        return pack_evidence(report, pack_cert_table(table))

    def find_crls(self, payload: bytes) -> tuple[bytes, ...]:
        del payload
        return ()

    def find_tdx(self, payload: bytes) -> None:
        del payload


@dataclass
class KbsServer:
    """A server in mode production that trusts the test's AMD root, with the dialect on."""

    fake: FakeServer
    collateral: Collateral

    def call(
        self, method: str, path: str, body: object = b"", *, cookies: tuple[str, ...] = (), **keywords: Any
    ) -> Reply:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = [*_HOST, *((b"cookie", cookie.encode()) for cookie in cookies)]
        return call_app(self.fake.app, method, path, raw, headers=headers, **keywords)

    def call_socket(self, body: object, path: str = "/kbs/v0/register_workload") -> Reply:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return call_app(make_socket_app(self.fake.broker), "POST", path, raw)

    def invite(
        self, *, workload: str = "", policy: dict[str, object] | None = None, ttl_s: int = 3600
    ) -> str:
        """Return the path of a new invitation."""
        token, now_s = make_invitation_token(), int(self.fake.clock.now_s)
        with self.fake.broker.database.change() as connection:
            add_invitation(
                connection,
                token,
                workload=workload,
                policy=policy or {},
                now_s=now_s,
                expires_at=now_s + ttl_s,
            )
        return f"/r/{token.reveal().decode()}"

    def register(self, path: str, **changes: object) -> Reply:
        return self.call("POST", f"{path}/kbs/v0/register_workload", make_kbs_registration(**changes))

    def records(self) -> list[dict[str, Any]]:
        return self.fake.admin("GET", "/v1/attestations").json["attestations"]


def make_kbs_server(
    data_dir: str, *, chip: amd.FakeChip | None = None, clock: Clock | None = None, limits: Any = None
) -> KbsServer:
    fake = make_server(data_dir, mode=Mode.PRODUCTION, clock=clock, limits=limits)
    collateral = Collateral(chip or amd.FakeChip())
    appraiser = Verifier(hardware=amd.anchors(), simulated=NOBODY, collateral=collateral)
    broker = replace(fake.broker, appraiser=appraiser)
    return KbsServer(
        replace(fake, broker=broker, app=make_app(broker, serves_reference_kbs=True)), collateral
    )


def make_kbs_registration(**changes: object) -> dict[str, object]:
    """Return what buildah 1.45 posts, with changes; a change to None leaves the member out."""
    body = {
        "workload_id": "web",
        "launch_measurement": DIGEST.hex(),
        "tee_config": '{"flags":{"bits":15},"minfw":{"major":0,"minor":0}}',
        "passphrase": PASSPHRASE,
        **changes,
    }
    return {name: value for name, value in body.items() if value is not None}


@functools.cache
def make_tee_key(bits: int = 2048, exponent: int = 65537) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(exponent, bits)


def encode_number(number: int) -> str:
    """Return BN_b64 of a number."""
    return base64.b64encode(number.to_bytes((number.bit_length() + 7) // 8, "big")).decode()


@dataclass
class LibkrunGuest:
    """One boot of a guest. prefix: the path of its attestation URL; report: changes to what the chip signs."""

    server: KbsServer
    prefix: str = ""
    workload: str = "web"
    generation: str = "milan"
    chip: amd.FakeChip = field(default_factory=amd.FakeChip)
    key: rsa.RSAPrivateKey = field(default_factory=make_tee_key)
    report: dict[str, object] = field(default_factory=dict)
    session: str = ""
    nonce: str = ""

    @property
    def texts(self) -> tuple[str, str]:
        numbers = self.key.public_key().public_numbers()
        return encode_number(numbers.n), encode_number(numbers.e)

    def call(self, method: str, path: str, body: bytes = b"", **keywords: Any) -> Reply:
        cookie = f"session_id={self.session}"
        cookies = (cookie, cookie) if self.session else ()  # curl's engine, then the program itself
        return self.server.call(method, f"{self.prefix}/kbs/v0/{path}", body, cookies=cookies, **keywords)

    def auth(self) -> Reply:
        """kbs_challenge: keep the cookie, and the first string after one that begins with nonce."""
        body = (
            f'{{"extra-params":"{{\\"workload_id\\":\\"{self.workload}\\"}}","tee":"snp","version":"0.0.0"}}'
        )
        reply = self.call("POST", "auth", body.encode())
        if reply.status == 200:
            name, _, rest = reply.headers["set-cookie"].partition("=")
            assert name == "session_id"
            assert "Path=/" in rest
            assert "Secure" not in rest
            self.session, self.nonce = rest.partition(";")[0], reply.json["nonce"]
            assert len(self.session) < SESSION_ID
            assert len(self.nonce) < NONCE
        return reply

    def make_report_data(self) -> ReportData:
        return ReportData(hashlib.sha512("".join((self.nonce, *self.texts)).encode()).digest())

    def make_evidence(self) -> bytes:
        changes = {"report_data": self.make_report_data(), "measurement": DIGEST, "version": 3, **self.report}
        return self.chip.sign(self.chip.report(**changes))

    def make_attest_body(self, evidence: bytes | None = None, **changes: str) -> bytes:
        modulus, exponent = self.texts
        inner = {
            "gen": self.generation,
            "report": (evidence if evidence is not None else self.make_evidence()).hex().upper(),
            "cert_chain": "[]",
        }
        key = {"alg": "RSA", "k-mod": modulus, "k-exp": exponent}
        for part in (inner, key):
            part.update({name: changes[name] for name in part if name in changes})
        text = json.dumps(inner, separators=(",", ":"))
        return json.dumps({"tee-pubkey": key, "tee-evidence": text}, separators=(",", ":")).encode()

    def attest(self, body: bytes | None = None) -> Reply:
        """kbs_attest: any body is a failure, and has to fit errmsg; the status is not looked at."""
        reply = self.call("POST", "attest", body if body is not None else self.make_attest_body())
        assert reply.headers["content-length"] == str(len(reply.raw))
        assert len(reply.raw) < ERRMSG
        return reply

    def fetch(self, workload: str = "") -> Reply:
        return self.call("GET", f"key/{workload or self.workload}")

    def decrypt(self, reply: Reply) -> str:
        """kbs_get_key: what is between the first and the last character is hex."""
        return self.key.decrypt(bytes.fromhex(reply.raw[1:-1].decode()), PKCS1v15()).decode()

    def run(self) -> str:
        """snp_attest: return the passphrase. Raises RefusedError with the text that the console shows."""
        assert len(f"{BASE}{self.prefix}/kbs/v0/key/{self.workload}") < FULL_URL
        if self.auth().status != 200:
            raise RefusedError("no nonce")
        refused = self.attest().raw
        if refused:
            raise RefusedError(refused.decode())
        return self.decrypt(self.fetch())


def require_kbs_refused(guest: LibkrunGuest, refusal: Refusal, body: bytes | None = None) -> dict[str, Any]:
    """Assert that an attest request is this refusal, recorded, and grants no key."""
    if not guest.session:
        assert guest.auth().status == 200
    reply = guest.attest(body)
    assert reply.raw.startswith(f"{refusal.value}: ".encode()), reply.raw
    assert reply.status == 403
    assert guest.fetch().raw.startswith(b"not-attested: ")
    record = guest.server.fake.last_record()
    assert (record["error"], record["outcome"]) == (refusal.value, "refused")
    assert record["verdict"]["trusted"] is False
    assert record["id"] in reply.raw.decode()
    return record


def require_malformed(reply: Reply) -> None:
    assert reply.status == 400
    assert reply.raw == b"malformed: the request cannot be read"
