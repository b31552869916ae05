"""The containers evidence travels in: the GHCB certificate table, and the EVIDENCE payload around it.

It splits bytes and joins them; what the blobs are worth is for `attest`.

Source: AMD GHCB specification (publication 56421), section 4.1.8.1 (SNP Extended Guest Request); GUIDs are
stored in the order they are written. docs/protocol.md section 3, EVIDENCE.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import Enum
from uuid import UUID

from krunpy.core.errors import FormatError
from krunpy.formats.snp_report import SigningKey

LARGEST_TABLE = 65536  # bytes; firmware tables hold three certificates of about 1.6 KiB
_LARGEST_REPORT = 65536  # bytes
_ENTRY = struct.Struct("<16sII")
_LENGTH = struct.Struct("<I")
_MOST_ENTRIES = 32


class CertKind(Enum):
    """What an entry of the table holds, by its GUID."""

    VCEK = UUID("63da758d-e664-4564-adc5-f4b93be8accd").bytes
    VLEK = UUID("a8074bc2-a25a-483e-aae6-39c045a0b8a1").bytes
    ASK = UUID("4ab7b379-bbac-4fe4-a02f-05aef327c782").bytes  # also the ASVK of a VLEK
    ARK = UUID("c0b406a4-a803-4952-9743-3fb6014cd0ae").bytes
    CRL = UUID("92f81bc3-5811-4d3d-97ff-d19f88dc67ea").bytes


_KINDS = {kind.value: kind for kind in CertKind}
# which certificate a report's key has
LEAF_KINDS = {SigningKey.VCEK: CertKind.VCEK, SigningKey.VLEK: CertKind.VLEK}


@dataclass(frozen=True, slots=True, kw_only=True)
class CertTable:
    """The blobs of a table by kind. Entries of kinds we do not know are counted and left out."""

    blobs: dict[CertKind, bytes]
    unknown: int = 0


def _refuse(why: str) -> FormatError:
    return FormatError("cannot read the certificate table", why=why)


def parse_cert_table(raw: bytes) -> CertTable:
    """Return the certificates of a GHCB table.

    raw: at most 64 KiB; empty stands for a host that gave none.

    Raises FormatError on a missing terminator, an entry outside the table, or a kind given twice.
    """
    if len(raw) > LARGEST_TABLE:
        raise _refuse(f"seen {len(raw)} bytes, wanted at most {LARGEST_TABLE}")
    blobs: dict[CertKind, bytes] = {}
    unknown = 0
    if not raw:
        return CertTable(blobs=blobs)
    entries = []
    for index in range(_MOST_ENTRIES + 1):
        if len(raw) < (index + 1) * _ENTRY.size:
            raise _refuse("seen the end, wanted the empty entry that ends the list")
        guid, offset, length = _ENTRY.unpack_from(raw, index * _ENTRY.size)
        if guid == bytes(16):
            break
        entries.append((guid, offset, length))
    else:
        raise _refuse(f"seen over {_MOST_ENTRIES} entries")
    start = (len(entries) + 1) * _ENTRY.size
    for guid, offset, length in entries:
        if offset < start or offset + length > len(raw):
            raise _refuse(f"seen an entry at {offset} of {length} bytes, wanted it in {start} to {len(raw)}")
        kind = _KINDS.get(guid)
        if kind is None:
            unknown += 1
        elif kind in blobs:
            raise _refuse(f"seen {kind.name} twice")
        else:
            blobs[kind] = raw[offset : offset + length]
    return CertTable(blobs=blobs, unknown=unknown)


def pack_cert_table(blobs: dict[CertKind, bytes]) -> bytes:
    """Return the GHCB table that holds these certificates, in the order given."""
    offset = (len(blobs) + 1) * _ENTRY.size
    head = b""
    for kind, blob in blobs.items():
        head += _ENTRY.pack(kind.value, offset, len(blob))
        offset += len(blob)
    return head + bytes(_ENTRY.size) + b"".join(blobs.values())


def parse_evidence(payload: bytes) -> tuple[bytes, bytes]:
    """Return the report and the certificate table of an EVIDENCE payload.

    Raises FormatError if the two lengths do not fill the payload, or one is over 64 KiB.
    """
    parts = []
    at = 0
    for what, limit in (("report", _LARGEST_REPORT), ("certificates", LARGEST_TABLE)):
        if len(payload) < at + _LENGTH.size:
            raise FormatError(
                "cannot read the evidence", why=f"seen the end, wanted the length of the {what}"
            )
        (length,) = _LENGTH.unpack_from(payload, at)
        at += _LENGTH.size
        if length > limit or at + length > len(payload):
            raise FormatError(
                "cannot read the evidence", why=f"seen {length} bytes of {what}, more than there are"
            )
        parts.append(payload[at : at + length])
        at += length
    if at != len(payload):
        raise FormatError("cannot read the evidence", why=f"seen {len(payload) - at} bytes after its end")
    return parts[0], parts[1]


def pack_evidence(report: bytes, certificates: bytes) -> bytes:
    """Return the EVIDENCE payload: each part after its length as u32, little-endian."""
    return _LENGTH.pack(len(report)) + report + _LENGTH.pack(len(certificates)) + certificates
