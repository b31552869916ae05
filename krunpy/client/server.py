"""What one can ask of an attestation server, as methods. Speaks docs/protocol.md section 5."""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from krunpy.client.exchange import Request, Response, exchange, parse_url
from krunpy.core.errors import BrokerError, EvidenceError, FormatError, StateError, UsageError
from krunpy.core.octets import Digest32, Nonce, PublicKey32
from krunpy.formats.narrow import Fields

if TYPE_CHECKING:
    from collections.abc import Mapping

    from krunpy.core.octets import Secret

TIMEOUT_S = 10.0
_SESSION_SIZE = 32  # bytes
_SIGNATURE_SIZE = 64  # bytes
_MAX_SEALED = 60 * 1024  # bytes: a RELEASE is one frame
_INITRD = "initrd"  # what a registration that does not say it means
_SHOWN = 400  # characters of the server's text in our messages
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Info:
    """Who the server is. mode: "production" or "development"."""

    key: PublicKey32
    mode: str
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """A session and its nonce, good for one attestation within expires_in_s seconds."""

    session: str
    nonce: Nonce
    expires_in_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """What the server released. Only the guest can open `sealed` and check the signature's key."""

    attestation: str
    signature: bytes
    sealed: bytes
    simulated: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """What a registration says, in the words of docs/protocol.md section 5. manifest_in: "initrd" or "host_data"."""

    manifest: bytes
    disk_key: Secret
    reference_values: tuple[Mapping[str, object], ...]
    policy: Mapping[str, object] = field(default_factory=dict)
    uses: int = 0
    expires_in_s: int = 0
    restores: bool = False
    manifest_in: str = _INITRD


class RefusedError(EvidenceError):
    """The server refused to release. code: what failed, in short.

    attestation: the id of its record; empty if it kept none, as for a session that it never gave out.
    """

    def __init__(self, *, attestation: str, code: str, message: str) -> None:
        super().__init__(
            "the attestation server released nothing",
            why=f"{message} ({code}, {f'attestation {attestation}' if attestation else 'no record was kept'})",
            next=f"run `krunpy explain {attestation}`" if attestation else "start the machine again",
        )
        self.attestation = attestation
        self.code = code
        self.message = message


class ServerStateError(BrokerError):
    """The server did answer: there is nothing of that name, or what is stored does not allow the call.

    The exit status is StateError's: asking again, or another server, would not help.
    """

    exit_code = StateError.exit_code


class ServerClient:
    """Talks to one server, one connection per call.

    Every method raises BrokerError if the server cannot be reached, refuses the call or talks nonsense, and
    its ServerStateError if what the call names is not there or not as it would have to be.
    """

    def __init__(
        self, url: str, *, token: Secret | None = None, ca_file: str = "", timeout_s: float = TIMEOUT_S
    ) -> None:
        """Take where the server is. Raises UsageError if the URL is not one.

        token: for what needs one; it never goes over plain http to another machine.
        """
        self._target = parse_url(url, ca_file=ca_file)
        self._token = token
        self._timeout_s = timeout_s

    def __repr__(self) -> str:
        return f"ServerClient({self._target})"

    def info(self) -> Info:
        """Return who the server is."""
        fields = self._ask("GET", "/v1/info")
        with _typed(self):
            return Info(
                key=PublicKey32(fields.take_hex("key", PublicKey32.size)),
                mode=fields.take_string("mode"),
                version=fields.take_string("version"),
            )

    def challenge(self, manifest_hash: Digest32) -> Challenge:
        """Open a session for a manifest."""
        fields = self._ask("POST", "/v1/challenge", {"manifest_hash": manifest_hash.hex()})
        with _typed(self):
            return Challenge(
                session=fields.take_hex("session", _SESSION_SIZE).hex(),
                nonce=Nonce(fields.take_hex("nonce", Nonce.size)),
                expires_in_s=fields.take_integer("expires_in_s", maximum=2**31),
            )

    def attest(
        self, *, session: str, tee: str, guest_key: PublicKey32, manifest_hash: Digest32, evidence: bytes
    ) -> Released:
        """Hand in evidence (an EVIDENCE payload) and return what is released.

        Raises RefusedError, an EvidenceError, if the server refuses the guest.
        """
        body = {
            "session": session,
            "tee": tee,
            "guest_public_key": guest_key.hex(),
            "manifest_hash": manifest_hash.hex(),
            "evidence": base64.b64encode(evidence).decode(),
        }
        fields = self._ask("POST", "/v1/attest", body)
        with _typed(self):
            released = Released(
                attestation=_take_text(fields, "attestation"),
                signature=_take_base64(fields, "signature"),
                sealed=_take_base64(fields, "sealed"),
                simulated=fields.take_bool("simulated"),
            )
            if len(released.signature) != _SIGNATURE_SIZE or len(released.sealed) > _MAX_SEALED:
                raise FormatError("cannot read the release", why="signature or sealed has a wrong length")
            return released

    def register(self, workload: str, registration: Registration) -> dict[str, object]:
        """Register a workload and return how it now stands.

        Raises UsageError if its disk key would travel unencrypted over a network.
        """
        body: dict[str, object] = {
            "manifest": base64.b64encode(registration.manifest).decode(),
            "disk_key": base64.b64encode(registration.disk_key.reveal()).decode(),
            "reference_values": [dict(value) for value in registration.reference_values],
            "policy": dict(registration.policy),
            "uses": registration.uses,
            "expires_in_s": registration.expires_in_s,
        }
        if registration.manifest_in != _INITRD:
            body["manifest_in"] = registration.manifest_in
        if registration.restores:
            body["restore"] = True
        return self._show("PUT", f"/v1/workloads/{_quote(workload)}", body)

    def show_workload(self, workload: str) -> dict[str, object]:
        """Return everything about a workload but its key."""
        return self._show("GET", f"/v1/workloads/{_quote(workload)}")

    def list_workloads(self) -> list[dict[str, object]]:
        """Return the workloads in short, in the order of their ids."""
        found: list[dict[str, object]] = []
        after = ""
        while True:
            query = f"?limit={_PAGE}" + (f"&after={after}" if after else "")
            page = self._list(f"/v1/workloads{query}", "workloads")
            found += page
            if len(page) < _PAGE:
                return found
            last = str(page[-1].get("id"))
            if last <= after:
                raise self._nonsense("its list of workloads does not end")
            after = _quote(last)

    def revoke(self, workload: str) -> dict[str, object]:
        """Have nothing more released to a workload, and return how it now stands."""
        return self._show("POST", f"/v1/workloads/{_quote(workload)}/revoke", {})

    def end_use(self, workload: str) -> dict[str, object]:
        """Give back one use of a workload, and return how it now stands; unlimited ones stay as they are."""
        return self._show("POST", f"/v1/workloads/{_quote(workload)}/end", {})

    def list_attestations(self, *, workload: str = "", limit: int = 50) -> list[dict[str, object]]:
        """Return the newest attestations in short, newest first."""
        query = f"?limit={limit}" + (f"&workload={_quote(workload)}" if workload else "")
        return self._list(f"/v1/attestations{query}", "attestations")

    def show_attestation(self, attestation: str = "last", *, workload: str = "") -> dict[str, object]:
        """Return a whole record: its verdict, and the reference values with their inputs."""
        query = f"?workload={_quote(workload)}" if workload else ""
        return self._show("GET", f"/v1/attestations/{_quote(attestation)}{query}")

    def _show(self, method: str, path: str, body: Mapping[str, object] | None = None) -> dict[str, object]:
        return self._call(method, path, body, needs_token=True)

    def _list(self, path: str, name: str) -> list[dict[str, object]]:
        items = self._call("GET", path, None, needs_token=True).get(name)
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise self._nonsense(f'"{name}" is not a list of objects')
        return items

    def _ask(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Fields:
        return Fields(self._call(method, path, body, needs_token=False), "the server's answer")

    def _call(
        self, method: str, path: str, body: Mapping[str, object] | None, *, needs_token: bool
    ) -> dict[str, object]:
        token = ""
        if needs_token:
            self._require_private()
            token = self._token.reveal().decode("ascii", "strict").strip() if self._token else ""
        encoded = b"" if body is None else json.dumps(body, separators=(",", ":")).encode()
        request = Request(method=method, path=path, body=encoded, token=token)
        response = exchange(self._target, request, timeout_s=self._timeout_s)
        document = self._decode(response)
        if response.status in {200, 201}:
            return document
        raise self._explain(response.status, document, path)

    def _require_private(self) -> None:
        if not self._target.is_private:
            raise UsageError(
                f"cannot send a token or a disk key to {self._target}",
                why="the connection is plain http to another machine: everyone between could read them",
                next="use https, or a tunnel to 127.0.0.1",
            )

    def _decode(self, response: Response) -> dict[str, object]:
        try:
            document = json.loads(response.body.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise self._nonsense(f"status {response.status}, and its body is not JSON") from error
        if not isinstance(document, dict):
            raise self._nonsense("its answer is not an object")
        return document

    def _explain(self, status: int, document: dict[str, object], path: str) -> BrokerError | EvidenceError:
        code, message = _clean(document.get("error")), _clean(document.get("message"))
        attestation = document.get("attestation")
        if status == 403 and isinstance(attestation, str) and path == "/v1/attest":  # noqa: PLR2004
            attestation = _clean(attestation)
            return RefusedError(attestation=attestation, code=code, message=message)
        what = f"the attestation server {self._target} refused {path.partition('?')[0]}"
        if status == 401:  # noqa: PLR2004
            hint = (
                "give a valid token (setting token_file; the first one is admin.token in its data directory)"
            )
            return BrokerError(what, why=message, next=hint)
        if code == "could-not-check":
            return BrokerError(
                f"the attestation server {self._target} could not check the evidence",
                why=f"{message} (attestation {_clean(attestation)})",
                next="give the server collateral (`krunpy collateral`), and start the machine again",
            )
        if (status, code) in _STATES:
            return ServerStateError(what, why=message or code)
        return BrokerError(what, why=f"status {status}, {code or 'no code'}: {message or 'no message'}")

    def _nonsense(self, why: str) -> BrokerError:
        return BrokerError(
            f"cannot understand the attestation server {self._target}",
            why=why,
            next="check that the URL is a krunpy server's",
        )


_PAGE = 1000
_STATES = {(404, "not-found"), (409, "conflict")}


class _typed:  # noqa: N801 - reads as a statement
    """Turns a FormatError about the server's answer into a BrokerError."""

    def __init__(self, client: ServerClient) -> None:
        self._client = client

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Translate."""
        if isinstance(error, FormatError):
            raise self._client._nonsense(f"{error.what}: {error.why}") from error  # noqa: SLF001


def _take_base64(fields: Fields, name: str) -> bytes:
    try:
        return base64.b64decode(fields.take_string(name), validate=True)
    except (binascii.Error, ValueError) as error:
        raise FormatError(f"cannot read {name}", why="it is not base64") from error


def _take_text(fields: Fields, name: str) -> str:
    return _clean(fields.take_string(name))


def _clean(value: object) -> str:
    text = value if isinstance(value, str) else ""
    return "".join(char if char.isprintable() else "?" for char in text[:_SHOWN])


def _quote(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise UsageError(
            "cannot ask the server", why=f'"{name[:80]}" is no name of a workload or attestation'
        )
    return name
