"""The attestation server of this installation: the configured one, or an embedded one if none is configured.

A configured server that cannot be reached is an error, never replaced.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from krunpy.client.server import Registration, ServerClient, ServerStateError
from krunpy.core.errors import UsageError
from krunpy.core.octets import PublicKey32, Secret
from krunpy.formats.manifest import ServerIdentity
from krunpy.runtime.embedded import (
    URL_IN_MANIFEST,
    EmbeddedServer,
    find_embedded_key,
    load_embedded_token,
    load_token,
    start_embedded_server,
)
from krunpy.tee.detect import TeeKind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from krunpy.core.settings import Settings
    from krunpy.runtime.prepare import Drafted, Prepared

# what krunpy's own launches always are, docs/policy.md
_POLICIES: Mapping[TeeKind, Mapping[str, object]] = {TeeKind.TDX: {"tdx": {"require_sept_ve_disable": True}}}
ONE_RUN_EXPIRY_S = 3600  # seconds until a registration for one run ends by itself


class Broker:
    """A server to talk to; `close` ends it if it is embedded."""

    def __init__(self, settings: Settings, client: ServerClient, embedded: EmbeddedServer | None) -> None:
        self._settings = settings
        self._embedded = embedded
        self._is_ready = embedded is None
        self._client = client

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def is_embedded(self) -> bool:
        """Whether the server lives only as long as this object."""
        return self._embedded is not None

    def describe(self) -> str:
        """Return where the server is, for people."""
        if self._embedded is not None:
            return f"embedded, {self._embedded.url}, data in {self._embedded.store}"
        return self._settings.server_url

    @property
    def may_register(self) -> bool:
        """Whether there is a token."""
        return self.is_embedded or bool(self._settings.token_file)

    @property
    def client(self) -> ServerClient:
        """Calls to the server; an embedded one has answered that it is ready."""
        if self._embedded is not None and not self._is_ready:
            self._embedded.wait_until_ready()
            self._client = ServerClient(self._embedded.url, token=load_embedded_token(self._settings))
            self._is_ready = True
        return self._client

    def identity(self) -> ServerIdentity:
        """Return the server as manifests name it.

        The key of a configured server comes from the configuration, never from the server. Raises UsageError
        if it is not there.
        """
        if self._embedded is not None:
            key = find_embedded_key(self._settings) or self.client.info().key
            return ServerIdentity(url=URL_IN_MANIFEST, key=key)
        try:
            key = PublicKey32.from_hex(self._settings.server_key)
        except ValueError:
            raise UsageError(
                f"cannot use server {self._settings.server_url}",
                why="server_key is not set to its Ed25519 key, 64 hex digits: anybody could answer in its place",
                next="copy the key that `krunpy server run` prints into krunpy.toml as server_key",
            ) from None
        return ServerIdentity(url=self._settings.server_url, key=key)

    def register(self, prepared: Prepared, *, key: Secret, uses: int) -> dict[str, object]:
        """Register a prepared workload and return how it now stands. uses: 0 for unlimited.

        Raises UsageError if its launch cannot be predicted, as on TDX.
        """
        if not prepared.predicted:
            raise UsageError(
                f"cannot register workload {prepared.parsed.workload} for {prepared.tee}",
                why="krunpy does not predict RTMR0, which depends on the machine and its ACPI tables",
                next=f"`krunpy measure --tee {prepared.tee} --rtmr0 HEX --output FILE` with RTMR0 of a boot of this "
                "machine that you trust, then `krunpy register --reference-values FILE`, both in the words of the run",
            )
        # libkrun sets none: there the launch digest alone names the manifest
        has_host_data = prepared.tee is TeeKind.SNP and not prepared.guest.is_bundled
        bound = {"host_data": prepared.manifest_hash.hex()} if has_host_data else {}
        values = [
            {
                "tee": str(prepared.tee),
                "launch_digest": item.digest.hex(),
                **bound,
                "inputs": item.description.to_dict(),
            }
            for item in prepared.predicted
        ]
        return self.register_values(prepared, values, key=key, uses=uses)

    def register_run(self, prepared: Prepared, *, key: Secret) -> bool:
        """Register a workload for one run; return False if what cannot be predicted was registered beforehand.

        Raises UsageError if it was not.
        """
        if not prepared.predicted and self._is_registered(prepared):
            return False
        self.register(prepared, key=key, uses=1)
        return True

    def register_values(
        self, drafted: Drafted, values: Sequence[Mapping[str, object]], *, key: Secret, uses: int
    ) -> dict[str, object]:
        """Register a workload with these reference values and the policy that krunpy's launches keep.

        values: as docs/protocol.md section 5 has them.
        """
        registration = Registration(
            manifest=drafted.manifest,
            disk_key=key,
            reference_values=tuple(values),
            policy=_POLICIES.get(drafted.tee, {}),
            uses=uses,
            expires_in_s=ONE_RUN_EXPIRY_S if uses else 0,
            manifest_in=drafted.manifest_in,
        )
        return self.client.register(drafted.parsed.workload, registration)

    def _is_registered(self, prepared: Prepared) -> bool:
        try:
            shown = self.client.show_workload(prepared.parsed.workload)
        except ServerStateError:
            return False
        is_same = shown.get("manifest_hash") == prepared.manifest_hash.hex()
        return is_same and shown.get("status") == "active"

    def close(self, *, wait: bool = True) -> None:
        """End an embedded server. wait: as for `EmbeddedServer.stop`."""
        if self._embedded is not None:
            self._embedded.stop(wait=wait)
            self._embedded = None


def open_broker(settings: Settings) -> Broker:
    """Return the configured server, or start an embedded one.

    Raises UsageError if the configuration is incomplete, HostError if the token cannot be read.
    """
    if settings.server_url:
        hint = "point token_file to what `krunpy server token create` printed"
        token = load_token(settings.token_file, hint) if settings.token_file else None
        return Broker(
            settings, ServerClient(settings.server_url, token=token, ca_file=settings.ca_file), None
        )
    embedded = start_embedded_server(settings)
    return Broker(settings, ServerClient(embedded.url), embedded)
