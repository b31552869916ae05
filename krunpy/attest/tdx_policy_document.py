"""Read a TDX policy from a JSON value: known members only, each of its type, each within its range.

docs/policy.md lists the members. A member that is left out keeps its strict default.
"""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

from krunpy.attest.advisories import Tee
from krunpy.attest.policy import OneOf
from krunpy.attest.policy_members import (
    make_wrong,
    read_octets,
    read_one_of,
    take_advisories,
    take_integer_or_hex,
    take_names,
    take_octets,
)
from krunpy.attest.tdx_claims import TcbStatus
from krunpy.attest.tdx_policy import NO_SERVICE_TD, TEE_TCB_SVN_SIZE, TdAttributes, TdxPolicy
from krunpy.formats.narrow import Fields

if TYPE_CHECKING:
    from collections.abc import Callable

_WHERE = "policy.tdx"
_U16, _U32, _U64 = (1 << 16) - 1, (1 << 32) - 1, (1 << 64) - 1

_ALLOWED_BITS = {
    "allow_debug": TdAttributes.DEBUG,
    "allow_lass": TdAttributes.LASS,
    "allow_migratable": TdAttributes.MIGRATABLE,
    "allow_pks": TdAttributes.PKS,
    "allow_key_locker": TdAttributes.KEY_LOCKER,
    "allow_tpa": TdAttributes.TPA,
    "allow_perfmon": TdAttributes.PERFMON,
}
_STATUSES = {status.value: status for status in TcbStatus if status is not TcbStatus.REVOKED}


def _take_advisories(fields: Fields, name: str) -> frozenset[str]:
    return take_advisories(fields, name, Tee.TDX)


def _take_xfam(fields: Fields, name: str) -> int:
    return take_integer_or_hex(fields, name, _U64)


def _take_svn(fields: Fields, name: str) -> int:
    return fields.take_integer(name, maximum=_U16)


def _take_date(fields: Fields, name: str) -> date:
    """Return a date; TOML has a type of its own for it, JSON a string."""
    value = fields.take(name)
    if type(value) is date:
        return value
    try:
        return date.fromisoformat(value if isinstance(value, str) else "")
    except ValueError:
        raise make_wrong(fields, name, "a date such as 2026-01-31") from None


def _take_service_tds(fields: Fields, name: str, source: str) -> OneOf:
    """Return the service TDs that may serve a TD; having none stays right."""
    return OneOf(values=take_octets(fields, name, 48) | {NO_SERVICE_TD}, source=source)


def _readers(source: str) -> dict[str, tuple[str, Callable[[Fields, str], object]]]:
    """Return, by member of the document, the policy's field and what reads it."""
    return {
        "require_xfam": ("required_xfam", _take_xfam),
        "allow_xfam": ("allowed_xfam", _take_xfam),
        "allow_mr_service_td": ("service_tds", lambda fields, name: _take_service_tds(fields, name, source)),
        "allow_zero_padding": ("accepts_zero_padding", Fields.take_bool),
        "mrowner": ("mrowners", read_one_of(48, source)),
        "mrownerconfig": ("mrownerconfigs", read_one_of(48, source)),
        "allowed_tcb_status": (
            "tcb_statuses",
            lambda fields, name: take_names(fields, name, _STATUSES),
        ),
        "min_tcb_eval_data_number": (
            "min_evaluation_number",
            lambda fields, name: fields.take_integer(name, maximum=_U32),
        ),
        "min_tcb_date": ("min_tcb_date", _take_date),
        "require_crl": ("requires_crl", Fields.take_bool),
        "min_qe_svn": ("min_qe_svn", _take_svn),
        "min_pce_svn": ("min_pce_svn", _take_svn),
        "min_tee_tcb_svn": (
            "min_tee_tcb_svn",
            lambda fields, name: fields.take_hex(name, TEE_TCB_SVN_SIZE),
        ),
        "allow_dynamic_platform": ("accepts_dynamic_platform", Fields.take_bool),
        "allow_cached_keys": ("accepts_cached_keys", Fields.take_bool),
        "allow_smt": ("accepts_smt", Fields.take_bool),
        "fmspcs": ("fmspcs", read_one_of(6, source)),
        "ppids": ("ppids", read_one_of(16, source)),
        "piids": ("piids", read_one_of(16, source)),
        "denied_fmspcs": ("denied_fmspcs", read_octets(6)),
        "denied_ppids": ("denied_ppids", read_octets(16)),
        "denied_piids": ("denied_piids", read_octets(16)),
        "denied_pcks": ("denied_pcks", read_octets(32)),
        "require_advisories": ("required_advisories", _take_advisories),
        "deny_advisories": ("denied_advisories", _take_advisories),
    }


def parse_tdx_policy(value: object, *, source: str, accepts_simulated: bool) -> TdxPolicy:
    """Return the policy that a JSON object holds.

    source:            where it came from, for verdicts: "the registration of web".
    accepts_simulated: the server's mode; no document can set it.

    Raises FormatError on a member that is unknown, of another type, or out of range. "Revoked" is no status
    that a document can accept.
    """
    fields = Fields(value, _WHERE)
    allowed, required = TdxPolicy().allowed_attributes, TdAttributes(0)
    for name, bit in _ALLOWED_BITS.items():
        if fields.has(name):
            allowed = allowed | bit if fields.take_bool(name) else allowed & ~bit
    if fields.has("require_sept_ve_disable") and fields.take_bool("require_sept_ve_disable"):
        required = TdAttributes.SEPT_VE_DISABLE
    taken: dict[str, object] = {
        attribute: read(fields, name)
        for name, (attribute, read) in _readers(source).items()
        if fields.has(name)
    }
    fields.require_no_more()
    return TdxPolicy(
        source=source,
        accepts_simulated=accepts_simulated,
        allowed_attributes=allowed,
        required_attributes=required,
        **taken,  # type: ignore[arg-type]
    )
