"""Azure's HCL report: a hardware report and the runtime data whose hash the report signs.

The host compatibility layer (HCL) runs in the guest at VMPL 0 and gives it a virtual TPM. The runtime data
names the TPM's attestation key. What is bound to what is checked in `attest.azure`, not here.

Source: Microsoft, "Azure confidential VM guest attestation design"; az-cvm-vtpm 0.8, `hcl`; integers are
little-endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import cast

from krunpy.core.errors import FormatError
from krunpy.formats.evidence_text import take_base64, take_hex
from krunpy.formats.tdx_json import parse_signed_json

LARGEST_HCL = 16384  # bytes; the TPM's index holds 2600
AK_NAME = "HCLAkPub"

_MAGIC = b"HCLA"
_HEAD = struct.Struct("<4sIIII12x")  # magic, version, report size, request type, status
_HARDWARE_REPORT_SIZE = 1184  # bytes of room
_TD_REPORT_SIZE = 1024  # bytes
_DATA = struct.Struct("<IIIII")  # size, version, report type, hash type, size of the runtime data
_HASH_SHA256 = 1
_MOST_KEYS = 16
_LARGEST_KEY = 1024  # bytes
_LARGEST_USER_DATA = 256  # bytes; Azure's is 64


class HardwareReport(IntEnum):
    """What kind of report the hardware made."""

    SNP = 2
    TDX = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimeData:
    """What the runtime data says.

    modulus, exponent: the attestation key, RSA; user_data: what the guest asked for, None if not stated;
    configuration:     the virtual machine's settings as text, by name.
    """

    modulus: int
    exponent: int
    user_data: bytes | None
    configuration: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class HclReport:
    """The parts of an HCL report.

    hardware_report: 1184 bytes (an SNP report) or 1024 bytes (a TDREPORT, which only its own host can check);
    runtime_data:    the bytes that are hashed; runtime: the same, read.
    """

    version: int
    kind: HardwareReport
    hardware_report: bytes
    runtime_data: bytes
    runtime: RuntimeData


def _refuse(why: str) -> FormatError:
    return FormatError("cannot read the HCL report", why=why)


def _read_runtime(data: bytes) -> RuntimeData:
    """The document grows, so members that are not known are left out."""
    fields = parse_signed_json(data, "the runtime data")
    keys = [
        key
        for key in fields.take_objects("keys", limit=_MOST_KEYS)
        if key.has("kid") and key.take("kid") == AK_NAME
    ]
    if len(keys) != 1:
        raise _refuse(f"seen {len(keys)} keys of the name {AK_NAME} in the runtime data, wanted one")
    if keys[0].take_string("kty") != "RSA":
        raise _refuse("seen an attestation key that is not RSA")
    user_data = None
    if fields.has("user-data"):
        user_data = take_hex(fields, "user-data", _LARGEST_USER_DATA)
    configuration: dict[str, str] = {}
    if fields.has("vm-configuration"):
        value = fields.take("vm-configuration")
        if isinstance(value, dict):
            configuration = {name: str(item) for name, item in cast("dict[str, object]", value).items()}
    return RuntimeData(
        modulus=int.from_bytes(take_base64(keys[0], "n", _LARGEST_KEY), "big"),
        exponent=int.from_bytes(take_base64(keys[0], "e", _LARGEST_KEY), "big"),
        user_data=user_data,
        configuration=configuration,
    )


def parse_hcl_report(raw: bytes) -> HclReport:
    """Return the parts of an HCL report.

    raw: at most 16 KiB; zero bytes after its declared end are padding.

    Raises FormatError on another magic, kind of report or hash than SHA-256, on lengths that do not fit, and
    on runtime data that is not JSON with one attestation key.
    """
    start = _HEAD.size + _HARDWARE_REPORT_SIZE
    if not start + _DATA.size <= len(raw) <= LARGEST_HCL:
        raise _refuse(f"seen {len(raw)} bytes, wanted {start + _DATA.size} to {LARGEST_HCL}")
    magic, version, _, _, _ = _HEAD.unpack_from(raw)
    if magic != _MAGIC:
        raise _refuse(f"seen {magic.hex()} at its start, wanted {_MAGIC.hex()}")
    _, _, kind, hash_type, size = _DATA.unpack_from(raw, start)
    if kind not in HardwareReport.__members__.values() or hash_type != _HASH_SHA256:
        raise _refuse(
            f"seen a report of type {kind} and hash {hash_type}, wanted 2 (SNP) or 4 (TDX) and 1 (SHA-256)"
        )
    start += _DATA.size
    if size > len(raw) - start:
        raise _refuse(f"seen {len(raw) - start} bytes of runtime data, wanted {size}")
    if raw[start + size :].strip(b"\0"):
        raise _refuse("seen bytes other than zero after its end")
    report_size = _HARDWARE_REPORT_SIZE if kind == HardwareReport.SNP else _TD_REPORT_SIZE
    runtime_data = raw[start : start + size]
    return HclReport(
        version=version,
        kind=HardwareReport(kind),
        hardware_report=raw[_HEAD.size : _HEAD.size + report_size],
        runtime_data=runtime_data,
        runtime=_read_runtime(runtime_data),
    )


def pack_hcl_report(
    kind: HardwareReport, hardware_report: bytes, runtime_data: bytes, *, version: int = 1
) -> bytes:
    """Return an HCL report, without padding."""
    body = _DATA.pack(_DATA.size + len(runtime_data), 1, kind, _HASH_SHA256, len(runtime_data)) + runtime_data
    room = hardware_report.ljust(_HARDWARE_REPORT_SIZE, b"\0")
    return _HEAD.pack(_MAGIC, version, _HEAD.size + len(room) + len(body), 2, 0) + room + body
