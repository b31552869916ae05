"""The attestation server of this installation: the configured one, or an embedded one if none is configured.

A configured server that cannot be reached is an error, never replaced.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from krunpy.client.server import Registration, ServerClient
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

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from krunpy.core.settings import Settings
    from krunpy.runtime.prepare import Prepared

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
        """Register a prepared workload and return how it now stands. uses: 0 for unlimited."""
        registration = Registration(
            manifest=prepared.manifest,
            disk_key=key,
            reference_values=(
                {
                    "tee": "software",
                    "launch_digest": prepared.digest.hex(),
                    "inputs": prepared.description.to_dict(),
                },
            ),
            uses=uses,
            expires_in_s=ONE_RUN_EXPIRY_S if uses else 0,
        )
        return self.client.register(prepared.parsed.workload, registration)

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
