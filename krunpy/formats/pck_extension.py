"""Read the SGX extension of a PCK certificate: which platform it is, and at which security versions.

Source: Intel SGX PCK Certificate and Certificate Revocation List Profile Specification, section 1.3.5.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from krunpy.core.errors import FormatError
from krunpy.formats.der import OBJECT_IDENTIFIER, OCTET_STRING, SEQUENCE, DerReader, encode_oid

if TYPE_CHECKING:
    from collections.abc import Mapping

_SGX = "1.2.840.113741.1.13.1"
OID_SGX_EXTENSION = encode_oid(_SGX)
_PPID, _TCB, _PCEID, _FMSPC, _SGX_TYPE, _PIID, _CONFIGURATION = (
    encode_oid(f"{_SGX}.{arc}") for arc in range(1, 8)
)
_COMPONENTS = tuple(encode_oid(f"{_SGX}.2.{arc}") for arc in range(1, 17))
_PCESVN, _CPUSVN = encode_oid(f"{_SGX}.2.17"), encode_oid(f"{_SGX}.2.18")
_DYNAMIC_PLATFORM, _CACHED_KEYS, _SMT_ENABLED = (encode_oid(f"{_SGX}.7.{arc}") for arc in range(1, 4))
_ENUMERATED = 0x0A
_MOST_ENTRIES = 32
_HIGHEST_U8, _HIGHEST_U16 = 0xFF, 0xFFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class PckExtension:
    """The SGX extension.

    ppid: 16 bytes; pceid: 2 bytes; fmspc: 6 bytes; piid: 16 bytes, None if there is none.
    components: 16 bytes, one security version each; cpu_svn: 16 bytes; pce_svn: 16 bits.
    dynamic_platform, cached_keys, smt_enabled: None where the certificate does not say.
    """

    ppid: bytes
    components: bytes
    pce_svn: int
    cpu_svn: bytes
    pceid: bytes
    fmspc: bytes
    sgx_type: int
    piid: bytes | None
    dynamic_platform: bool | None
    cached_keys: bool | None
    smt_enabled: bool | None


def _refuse(why: str) -> FormatError:
    return FormatError("cannot read the SGX extension", why=why)


def _read_entries(reader: DerReader) -> dict[bytes, DerReader]:
    """Return the values of a SEQUENCE of pairs, by object identifier; each a reader of what follows it."""
    listed = reader.enter(SEQUENCE)
    reader.require_end()
    entries: dict[bytes, DerReader] = {}
    while listed.next_tag():
        pair = listed.enter(SEQUENCE)
        oid = pair.read(OBJECT_IDENTIFIER)
        if oid in entries or len(entries) == _MOST_ENTRIES:
            raise _refuse(f"{oid.hex()} is given twice, or there are over {_MOST_ENTRIES}")
        entries[oid] = pair
    return entries


def _find(entries: Mapping[bytes, DerReader], oid: bytes, what: str) -> DerReader:
    if oid not in entries:
        raise _refuse(f"it has no {what}")
    return entries[oid]


def _take_octets(entries: Mapping[bytes, DerReader], oid: bytes, size: int, what: str) -> bytes:
    reader = _find(entries, oid, what)
    value = reader.read(OCTET_STRING)
    reader.require_end()
    if len(value) != size:
        raise _refuse(f"seen {len(value)} bytes of {what}, wanted {size}")
    return value


def _take_integer(entries: Mapping[bytes, DerReader], oid: bytes, maximum: int, what: str) -> int:
    reader = _find(entries, oid, what)
    value = reader.read_integer()
    reader.require_end()
    if value > maximum:
        raise _refuse(f"seen {what} {value}, wanted at most {maximum}")
    return value


def _take_boolean(entries: Mapping[bytes, DerReader], oid: bytes) -> bool | None:
    if oid not in entries:
        return None
    value = entries[oid].read_boolean()
    entries[oid].require_end()
    return value


def _take_type(entries: Mapping[bytes, DerReader]) -> int:
    reader = _find(entries, _SGX_TYPE, "SGX type")
    value = reader.read(_ENUMERATED)
    reader.require_end()
    if len(value) != 1:
        raise _refuse(f"seen an SGX type of {len(value)} bytes, wanted 1")
    return value[0]


def parse_pck_extension(value: bytes) -> PckExtension:
    """Return what the contents of the extension's OCTET STRING say; entries that are not known are left.

    Raises FormatError if a required entry is missing, given twice, or out of its range.
    """
    entries = _read_entries(DerReader(value))
    levels = _read_entries(_find(entries, _TCB, "TCB"))
    settings = _read_entries(entries[_CONFIGURATION]) if _CONFIGURATION in entries else {}
    return PckExtension(
        ppid=_take_octets(entries, _PPID, 16, "PPID"),
        components=bytes(_take_integer(levels, oid, _HIGHEST_U8, "TCB component") for oid in _COMPONENTS),
        pce_svn=_take_integer(levels, _PCESVN, _HIGHEST_U16, "PCESVN"),
        cpu_svn=_take_octets(levels, _CPUSVN, 16, "CPUSVN"),
        pceid=_take_octets(entries, _PCEID, 2, "PCEID"),
        fmspc=_take_octets(entries, _FMSPC, 6, "FMSPC"),
        sgx_type=_take_type(entries),
        piid=_take_octets(entries, _PIID, 16, "PIID") if _PIID in entries else None,
        dynamic_platform=_take_boolean(settings, _DYNAMIC_PLATFORM),
        cached_keys=_take_boolean(settings, _CACHED_KEYS),
        smt_enabled=_take_boolean(settings, _SMT_ENABLED),
    )
