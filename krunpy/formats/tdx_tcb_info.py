"""Read a TDX TCB Info: Intel's table of what each security version of a platform is worth.

No signature, time or status is checked here.

Source: Intel API for the Provisioning Certification Service, version 4: Get TDX TCB Info, version 3 of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from krunpy.core.errors import FormatError
from krunpy.formats.tdx_json import parse_signed_json, take_octets, take_time
from krunpy.formats.tdx_levels import IsvLevel, PlatformLevel, take_isv_levels, take_platform_levels

if TYPE_CHECKING:
    from datetime import datetime

    from krunpy.formats.narrow import Fields

_WHERE = "TCB Info"
_ID, _VERSION, _TCB_TYPE = "TDX", 3, 0
_MOST_IDENTITIES = 64
_HIGHEST_U32 = 0xFFFFFFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleSigner:
    """Who signs a TDX module: MRSIGNERSEAM, 48 bytes; SEAMATTRIBUTES under the mask, 8 bytes each."""

    mrsigner: bytes
    attributes: bytes
    attributes_mask: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleIdentity:
    """One major version of the TDX module: its id, as "TDX_01", who signs it, and its levels."""

    id: str
    signer: ModuleSigner
    levels: tuple[IsvLevel, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TcbInfo:
    """A TDX TCB Info of version 3. fmspc: 6 bytes; pceid: 2 bytes; module: for major version 0."""

    issue_date: datetime
    next_update: datetime
    fmspc: bytes
    pceid: bytes
    evaluation_number: int
    module: ModuleSigner
    module_identities: tuple[ModuleIdentity, ...]
    levels: tuple[PlatformLevel, ...]


def _read_signer(fields: Fields) -> ModuleSigner:
    return ModuleSigner(
        mrsigner=take_octets(fields, "mrsigner", 48),
        attributes=take_octets(fields, "attributes", 8),
        attributes_mask=take_octets(fields, "attributesMask", 8),
    )


def _take_identities(fields: Fields) -> tuple[ModuleIdentity, ...]:
    if not fields.has("tdxModuleIdentities"):
        return ()
    identities = tuple(
        ModuleIdentity(
            id=identity.take_string("id"), signer=_read_signer(identity), levels=take_isv_levels(identity)
        )
        for identity in fields.take_objects("tdxModuleIdentities", limit=_MOST_IDENTITIES)
    )
    if len({identity.id.upper() for identity in identities}) != len(identities):
        raise FormatError(f"cannot read {_WHERE}.tdxModuleIdentities", why="an id is given twice")
    return identities


def parse_tcb_info(raw: bytes) -> TcbInfo:
    """Return what the signed bytes of a TCB Info say: the inner object of Intel's answer.

    Raises FormatError unless it is a TCB Info of version 3 for TDX.
    """
    fields = parse_signed_json(raw, _WHERE)
    kind = fields.take_string("id")
    version = fields.take_integer("version", maximum=_HIGHEST_U32)
    tcb_type = fields.take_integer("tcbType", maximum=_HIGHEST_U32)
    if (kind, version, tcb_type) != (_ID, _VERSION, _TCB_TYPE):
        raise FormatError(
            f"cannot read {_WHERE}",
            why=f'seen id "{kind[:40]}", version {version}, TCB type {tcb_type}; wanted "TDX", 3, 0',
        )
    return TcbInfo(
        issue_date=take_time(fields, "issueDate"),
        next_update=take_time(fields, "nextUpdate"),
        fmspc=take_octets(fields, "fmspc", 6),
        pceid=take_octets(fields, "pceId", 2),
        evaluation_number=fields.take_integer("tcbEvaluationDataNumber", maximum=_HIGHEST_U32),
        module=_read_signer(fields.take_fields("tdxModule")),
        module_identities=_take_identities(fields),
        levels=take_platform_levels(fields),
    )
