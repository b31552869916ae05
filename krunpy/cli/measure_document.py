"""The reference-value document on the command line: shown, signed, written, read, and handed to a server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from krunpy.cli.measure_values import QEMU
from krunpy.cli.render import print_table
from krunpy.core.errors import EvidenceError, UsageError, make_plain
from krunpy.core.files import load_bounded, write_atomically
from krunpy.core.octets import PublicKey32
from krunpy.formats.manifest import ManifestIn, make_host_data, make_mrconfigid
from krunpy.measure.reference_values import (
    LARGEST_DOCUMENT,
    RTMR0,
    PredictedValue,
    ReferenceValues,
    Tee,
    encode_reference_values,
    parse_reference_values,
)

if TYPE_CHECKING:
    from krunpy.core.octets import Digest32

_MAX_KEY = 65536  # bytes
_MOST_REGISTERED = 64  # reference values of one workload, docs/protocol.md section 5
_HEADS = {
    Tee.SOFTWARE: ("vcpus",),
    Tee.SNP: ("vcpus", "guest_features", "vmsa"),
    Tee.TDX: ("page_order", "kernel_form", "load_options"),
}
_TDX_DEPENDS_ON = {"mrtd": "page_order", "rtmr1": "kernel_form", "rtmr2": "load_options"}


def load_signing_key(path: str) -> Ed25519PrivateKey:
    """Return an Ed25519 key of a PEM file. Raises UsageError if it holds another, HostError if it is not read."""
    try:
        key = load_pem_private_key(load_bounded(path, _MAX_KEY), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(
            f"cannot sign with {path}",
            why="it is not an Ed25519 private key in PEM, without a passphrase",
            next=f"`openssl genpkey -algorithm ed25519 -out {path}` makes one",
        )
    return key


def write_document(path: str, values: ReferenceValues, key_file: str) -> None:
    """Write the document, signed if key_file is not empty."""
    key = load_signing_key(key_file) if key_file else None
    write_atomically(path, encode_reference_values(values, key), mode=0o644)


def load_document(path: str, *, signer: str) -> ReferenceValues:
    """Return the values of a document.

    signer: 64 hex digits of who must have signed it; empty: anybody or nobody.

    Raises UsageError if signer is not a key, EvidenceError if another one signed, or nobody.
    """
    signed = parse_reference_values(load_bounded(path, LARGEST_DOCUMENT))
    if not signer:
        return signed.values
    try:
        wanted = PublicKey32.from_hex(signer)
    except ValueError as error:
        raise UsageError("cannot read --signed-by", why=f"{error}, wanted 64 hex digits") from None
    if signed.signer != wanted:
        seen = signed.signer.hex() if signed.signer is not None else "no signature"
        raise EvidenceError(
            f"the reference values of {path} are refused",
            why=f"seen {seen}, wanted a signature of {wanted.hex()}",
            next="get the document from who holds that key",
        )
    return signed.values


def to_registered(
    values: ReferenceValues, *, manifest_hash: Digest32, manifest_in: ManifestIn = ManifestIn.INITRD
) -> tuple[dict[str, object], ...]:
    """Return the values as docs/protocol.md section 5 has them.

    manifest_hash, manifest_in: of the workload that is to be registered.

    Raises UsageError if they are another workload's, too many, or do not say enough for a server.
    """
    what = f"cannot register the reference values of workload {values.workload}"
    if values.manifest_hash != manifest_hash:
        raise UsageError(
            what,
            why=f"they are for manifest {values.manifest_hash.hex()}, this workload has {manifest_hash.hex()}",
            next="measure and register with the same words, guest and server",
        )
    if values.manifest_in is not manifest_in:
        raise UsageError(
            what,
            why=f"they are for a manifest in {values.manifest_in}, this workload has it in {manifest_in}",
            next="measure and register with the same --manifest-in",
        )
    if len(values.values) > _MOST_REGISTERED:
        raise UsageError(
            what,
            why=f"seen {len(values.values)}, a server takes {_MOST_REGISTERED}",
            next="give fewer --cpus",
        )
    return tuple(_to_registered(value, values, what) for value in values.values)


def _to_registered(value: PredictedValue, values: ReferenceValues, what: str) -> dict[str, object]:
    tee = values.tee
    shown: dict[str, object] = {"tee": str(tee), "inputs": dict(value.inputs)}
    registers = {name: digest.hex() for name, digest in value.registers.items()}
    if tee is Tee.SNP and values.vmm == QEMU:
        return shown | registers | {"host_data": make_host_data(values.manifest_hash).hex()}
    if tee is not Tee.TDX:
        return shown | registers
    if RTMR0 not in registers:
        raise UsageError(
            what,
            why="they do not say RTMR0, which depends on the machine and its ACPI tables",
            next="measure again with --rtmr0, from a boot of that machine that you trust",
        )
    rtmrs = [registers[name] for name in (RTMR0, "rtmr1", "rtmr2", "rtmr3")]
    return shown | {
        "mrtd": registers["mrtd"],
        "rtmrs": rtmrs,
        "mrconfigid": make_mrconfigid(values.manifest_hash).hex(),
    }


def print_values(values: ReferenceValues, *, with_inputs: bool) -> None:
    """Print the values, one line each; with_inputs: after what all of them were predicted from."""
    shared = _find_shared(values)
    if with_inputs:
        for name, value in shared.items():
            print(make_plain(f"{name.replace('_', ' '):14} {_show(value)}"))
    heads = [name for name in _HEADS[values.tee] if name in values.values[0].inputs]
    rows: list[list[str]] = []
    for value in values.values:
        for register, digest in value.registers.items():
            named = {_TDX_DEPENDS_ON.get(register)} if values.tee is Tee.TDX else set(heads)
            shape = [_show(value.inputs[name]) if name in named else "any" for name in heads]
            rows.append([*shape, register.replace("_", " "), digest.hex()])
    if values.tee is not Tee.SOFTWARE:
        unique = [list(row) for row in dict.fromkeys(tuple(row) for row in rows)]
        unique.sort(key=lambda row: row[-2])
        print_table([*(head.replace("_", " ") for head in heads), "register", "value"], unique)
        return
    print_table(["vcpus", "launch digest"], [[row[0], row[-1]] for row in rows])


def _find_shared(values: ReferenceValues) -> dict[str, object]:
    """Return the inputs that all values have in common."""
    first, *others = values.values
    return {
        name: value
        for name, value in first.inputs.items()
        if all(other.inputs.get(name) == value for other in others)
    }


def _show(value: object) -> str:
    if isinstance(value, dict):
        return f"{value.get('name')} (sha256 {value.get('sha256')})"
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
