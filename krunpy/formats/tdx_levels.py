"""TCB levels: the rows of Intel's tables, from a security version to a status.

Statuses stay text here: what they mean, and that they are known, is for the one who matches a level.

Source: Intel API for the Provisioning Certification Service, version 4: TCB levels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from krunpy.core.errors import FormatError
from krunpy.formats.tdx_json import take_time

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from typing import TypeVar

    from krunpy.formats.narrow import Fields

    _Level = TypeVar("_Level")

HIGHEST_U16 = 0xFFFF
_HIGHEST_U8 = 0xFF
_COMPONENT_COUNT = 16
_MOST_LEVELS = 256
_MOST_ADVISORIES = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelStatus:
    """What a level says of those who reach it: since when it is judged so, the status, Intel's advisories."""

    date: datetime
    status: str
    advisory_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformLevel:
    """A level of the platform. components, tdx_components: 16 bytes, the lowest version of each."""

    components: bytes
    pce_svn: int
    tdx_components: bytes
    status: LevelStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class IsvLevel:
    """A level of a TDX module or an enclave. isv_svn: 16 bits, the lowest version."""

    isv_svn: int
    status: LevelStatus


def _take_status(fields: Fields) -> LevelStatus:
    has_advisories = fields.has("advisoryIDs")
    return LevelStatus(
        date=take_time(fields, "tcbDate"),
        status=fields.take_string("tcbStatus"),
        advisory_ids=fields.take_strings("advisoryIDs", limit=_MOST_ADVISORIES) if has_advisories else (),
    )


def _take_components(fields: Fields, name: str) -> bytes:
    listed = fields.take_objects(name, limit=_COMPONENT_COUNT)
    components = bytes(component.take_integer("svn", maximum=_HIGHEST_U8) for component in listed)
    if len(components) != _COMPONENT_COUNT:
        raise FormatError(
            f"cannot read {fields.where}.{name}", why=f"seen {len(components)} components, wanted 16"
        )
    return components


def _read_platform_level(fields: Fields) -> PlatformLevel:
    tcb = fields.take_fields("tcb")
    return PlatformLevel(
        components=_take_components(tcb, "sgxtcbcomponents"),
        pce_svn=tcb.take_integer("pcesvn", maximum=HIGHEST_U16),
        tdx_components=_take_components(tcb, "tdxtcbcomponents"),
        status=_take_status(fields),
    )


def _read_isv_level(fields: Fields) -> IsvLevel:
    isv_svn = fields.take_fields("tcb").take_integer("isvsvn", maximum=HIGHEST_U16)
    return IsvLevel(isv_svn=isv_svn, status=_take_status(fields))


def _take_levels(fields: Fields, read: Callable[[Fields], _Level]) -> tuple[_Level, ...]:
    levels = tuple(read(level) for level in fields.take_objects("tcbLevels", limit=_MOST_LEVELS))
    if not levels:
        raise FormatError(f"cannot read {fields.where}.tcbLevels", why="it is empty")
    return levels


def take_platform_levels(fields: Fields) -> tuple[PlatformLevel, ...]:
    """Return the member "tcbLevels" of a TCB Info in its order, best first; one or more. Raises FormatError."""
    return _take_levels(fields, _read_platform_level)


def take_isv_levels(fields: Fields) -> tuple[IsvLevel, ...]:
    """Return the member "tcbLevels" of an identity in its order, best first; one or more. Raises FormatError."""
    return _take_levels(fields, _read_isv_level)
