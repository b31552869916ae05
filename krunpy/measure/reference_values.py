"""The reference-value document: predicted measurements of one workload, with the inputs they came from.

It is canonical JSON, so that a signature has one form of it to cover. A signature says who predicted; a
relying party still decides whose predictions it accepts.

Source: docs/protocol.md section 1 (canonical JSON); RFC 9334 section 8.3 (reference values); RFC 8032.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, cast

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from krunpy.core.errors import EvidenceError, FormatError
from krunpy.core.octets import Digest32, Digest48, PublicKey32
from krunpy.formats.canonical import encode_canonical, parse_canonical
from krunpy.formats.manifest import ManifestIn, require_workload_id
from krunpy.formats.narrow import Fields

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from krunpy.formats.canonical import Json

LARGEST_DOCUMENT = 1 << 20  # bytes
MOST_VALUES = 512

_TYPE = "krunpy-reference-values"
_VERSION = 1
_DOMAIN = b"krunpy-reference-values-v1\0"
_SIGNATURE_SIZE = 64  # bytes


class Tee(StrEnum):
    """For whose evidence a document is."""

    SOFTWARE = "software"
    SNP = "snp"
    TDX = "tdx"


REGISTERS = {
    Tee.SOFTWARE: ("launch_digest",),
    Tee.SNP: ("launch_digest",),
    Tee.TDX: ("mrtd", "rtmr1", "rtmr2", "rtmr3"),
}
RTMR0 = "rtmr0"


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictedValue:
    """One set of measurements that a launch may have.

    registers: by name, those that REGISTERS lists for the TEE; for TDX perhaps also "rtmr0", which only a pinned
               machine has.
    inputs:    what they were predicted from: JSON without null or floats.
    """

    registers: Mapping[str, Digest48]
    inputs: Mapping[str, object]

    def to_dict(self) -> dict[str, object]:
        """Return the JSON object of this value."""
        shown: dict[str, object] = {name: digest.hex() for name, digest in self.registers.items()}
        return shown | {"inputs": dict(self.inputs)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceValues:
    """The predicted values of one workload on one kind of machine; vmm: "qemu" or "libkrun".

    manifest_in: what the launches bind the manifest by; by HOST_DATA, the values are those of a whole class.
    """

    workload: str
    manifest_hash: Digest32
    tee: Tee
    vmm: str
    values: tuple[PredictedValue, ...]
    manifest_in: ManifestIn = ManifestIn.INITRD

    def to_dict(self) -> dict[str, object]:
        """Return the JSON object that is signed."""
        bound = {"manifest_in": str(self.manifest_in)} if self.manifest_in is not ManifestIn.INITRD else {}
        return bound | {
            "type": _TYPE,
            "version": _VERSION,
            "workload": self.workload,
            "manifest_hash": self.manifest_hash.hex(),
            "tee": str(self.tee),
            "vmm": self.vmm,
            "values": [value.to_dict() for value in self.values],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedValues:
    """Reference values and who signed them; signer is None if nobody did."""

    values: ReferenceValues
    signer: PublicKey32 | None


def encode_reference_values(values: ReferenceValues, key: Ed25519PrivateKey | None) -> bytes:
    """Return the document, signed if there is a key. Raises FormatError if an input cannot stand in it."""
    body = cast("Json", values.to_dict())
    document: dict[str, Json] = {"document": body}
    if key is not None:
        document["signer"] = key.public_key().public_bytes_raw().hex()
        document["signature"] = key.sign(_DOMAIN + encode_canonical(body)).hex()
    return encode_canonical(document)


def _take_value(fields: Fields, tee: Tee) -> PredictedValue:
    names = REGISTERS[tee]
    if tee is Tee.TDX and fields.has(RTMR0):
        names = (*names, RTMR0)
    registers = {name: Digest48(fields.take_hex(name, Digest48.size)) for name in names}
    inputs = fields.take("inputs")
    fields.require_no_more()
    if not isinstance(inputs, dict):
        raise FormatError(f"cannot read {fields.where}.inputs", why="it is not an object")
    return PredictedValue(registers=registers, inputs=inputs)


def _take_values(fields: Fields) -> ReferenceValues:
    kind, version = fields.take_string("type"), fields.take_integer("version", maximum=2**31)
    if kind != _TYPE or version != _VERSION:
        raise FormatError(
            "cannot read the reference values",
            why=f'seen type "{kind[:40]}" version {version}, wanted "{_TYPE}" version {_VERSION}',
        )
    try:
        tee = Tee(fields.take_string("tee"))
        manifest_in = ManifestIn(fields.take_string("manifest_in") if fields.has("manifest_in") else "initrd")
    except ValueError as error:
        raise FormatError("cannot read the reference values", why=str(error)[:80]) from None
    values = ReferenceValues(
        workload=require_workload_id(fields.take_string("workload")),
        manifest_hash=Digest32(fields.take_hex("manifest_hash", Digest32.size)),
        tee=tee,
        vmm=fields.take_string("vmm"),
        values=tuple(_take_value(item, tee) for item in fields.take_objects("values", limit=MOST_VALUES)),
        manifest_in=manifest_in,
    )
    fields.require_no_more()
    if not values.values:
        raise FormatError("cannot read the reference values", why="there is none")
    return values


def _require_signature(signer: PublicKey32, signature: bytes, signed: bytes) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(signer).verify(signature, signed)
    except (InvalidSignature, ValueError) as error:
        raise EvidenceError(
            "the reference values are refused",
            why=f"the signature is not that of {signer.hex()} over this document",
            next="get the document again from who made it",
        ) from error


def parse_reference_values(data: bytes) -> SignedValues:
    """Return the values of a document whose signature, if it has one, holds.

    data: canonical JSON, at most 1 MiB.

    Raises FormatError if it is not such a document, EvidenceError if the signature does not hold.
    """
    whole = parse_canonical(data, limit=LARGEST_DOCUMENT)
    fields = Fields(whole, "reference values")
    body = fields.take("document")
    signer = None
    if fields.has("signer") or fields.has("signature"):
        signer = PublicKey32(fields.take_hex("signer", PublicKey32.size))
        signature = fields.take_hex("signature", _SIGNATURE_SIZE)
        _require_signature(signer, signature, _DOMAIN + encode_canonical(cast("Json", body)))
    fields.require_no_more()
    return SignedValues(values=_take_values(Fields(body, "reference values.document")), signer=signer)
