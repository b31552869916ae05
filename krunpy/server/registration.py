"""What a registrar hands in: a manifest, its disk key, its reference values, its policy. Pure.

Source: docs/protocol.md section 5. The policy's meaning is the appraiser's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from krunpy.core.errors import FormatError
from krunpy.core.octets import Secret
from krunpy.formats.manifest import MAX_MANIFEST, ManifestIn, hash_manifest, parse_manifest
from krunpy.server.documents import take_base64, take_object
from krunpy.server.reference import parse_reference_value

if TYPE_CHECKING:
    from krunpy.core.octets import Digest32, PublicKey32
    from krunpy.formats.manifest import Manifest
    from krunpy.formats.narrow import Fields
    from krunpy.server.reference import ReferenceValue

MAX_REFERENCE_VALUES = 64
MAX_USES = 1_000_000
MAX_EXPIRY_S = 100 * 365 * 86400
_MAX_POLICY = 16384  # characters of JSON
_MAX_DISK_KEY = 64  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """One checked registration. uses: 0 for unlimited; expires_in_s: 0 for never.

    requires_hardware: what the body says, else what is usual in the server's mode.
    manifest_in: what the body says, else the initrd.
    """

    manifest_bytes: bytes
    manifest: Manifest
    manifest_hash: Digest32
    disk_key: Secret
    reference_values: tuple[ReferenceValue, ...]
    policy: dict[str, object]
    uses: int
    expires_in_s: int
    restores: bool
    requires_hardware: bool
    manifest_in: ManifestIn


def parse_registration(
    fields: Fields, *, workload: str, server_key: PublicKey32, requires_hardware: bool
) -> Registration:
    """Return the registration that a body holds.

    workload:   the id of the URL; the manifest must name the same.
    server_key: this server's; the manifest must name the same.
    requires_hardware: for a body that does not say "require_hardware".

    Raises FormatError if a member is missing, unknown, out of range or does not fit the manifest.
    """
    manifest_bytes = take_base64(fields, "manifest", limit=MAX_MANIFEST)
    manifest = parse_manifest(manifest_bytes)
    _require_equal("manifest.workload", manifest.workload, workload)
    _require_equal("manifest.server.key", manifest.server.key.hex(), server_key.hex())
    disk_key = Secret(take_base64(fields, "disk_key", limit=_MAX_DISK_KEY))
    _require_equal("the length of disk_key", str(len(disk_key)), str(manifest.disk.key_size))
    registration = Registration(
        manifest_bytes=manifest_bytes,
        manifest=manifest,
        manifest_hash=hash_manifest(manifest_bytes),
        disk_key=disk_key,
        reference_values=_take_reference_values(fields, manifest.tees),
        policy=take_object(fields, "policy", limit=_MAX_POLICY),
        uses=fields.take_integer("uses", maximum=MAX_USES),
        expires_in_s=fields.take_integer("expires_in_s", maximum=MAX_EXPIRY_S),
        restores=fields.take_bool("restore") if fields.has("restore") else False,
        requires_hardware=(
            fields.take_bool("require_hardware") if fields.has("require_hardware") else requires_hardware
        ),
        manifest_in=_take_manifest_in(fields),
    )
    fields.require_no_more()
    return registration


def _take_manifest_in(fields: Fields) -> ManifestIn:
    text = fields.take_string("manifest_in") if fields.has("manifest_in") else ManifestIn.INITRD
    try:
        return ManifestIn(text)
    except ValueError:
        raise FormatError(
            "cannot read body.manifest_in", why=f'seen "{text[:40]}", wanted {" or ".join(ManifestIn)}'
        ) from None


def _take_reference_values(fields: Fields, tees: tuple[str, ...]) -> tuple[ReferenceValue, ...]:
    values = tuple(
        parse_reference_value(item)
        for item in fields.take_objects("reference_values", limit=MAX_REFERENCE_VALUES)
    )
    if not values:
        raise FormatError("cannot read body.reference_values", why="there is none: nothing could attest")
    for value in values:
        if value.tee not in tees:
            raise FormatError(
                "cannot use the reference values",
                why=f'one is for TEE "{value.tee}", the manifest allows {", ".join(tees)}',
            )
    return values


def _require_equal(name: str, seen: str, wanted: str) -> None:
    if seen != wanted:
        raise FormatError(f"cannot register: {name} does not fit", why=f'seen "{seen}", wanted "{wanted}"')
