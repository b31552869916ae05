"""Read an SNP policy from a JSON value: known members only, each of its type, each within its range.

docs/policy.md lists the members. A member that is left out keeps its strict default.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from krunpy.attest.advisories import ADVISORIES, Tee
from krunpy.attest.policy import OneOf, SnpPolicy
from krunpy.attest.policy_members import (
    make_wrong,
    read_octets,
    read_one_of,
    take_advisories,
    take_floors,
    take_integer_or_hex,
    take_names,
    take_numbers,
)
from krunpy.formats.narrow import Fields
from krunpy.formats.snp_report import GuestPolicy, PlatformInfo, SigningKey
from krunpy.formats.snp_tcb import Product, Tcb

if TYPE_CHECKING:
    from collections.abc import Callable

_WHERE = "policy"
_LIMIT = 1024  # items of a list
_U32, _U64 = (1 << 32) - 1, (1 << 64) - 1
_HIGHEST_VMPL = 3

_ALLOWED_BITS = {
    "allow_debug": GuestPolicy.DEBUG,
    "allow_migrate_ma": GuestPolicy.MIGRATE_MA,
    "allow_cxl": GuestPolicy.CXL_ALLOW,
    "allow_smt": GuestPolicy.SMT,
}
_REQUIRED_BITS = {
    "require_single_socket": GuestPolicy.SINGLE_SOCKET,
    "require_aes_256_xts": GuestPolicy.MEM_AES_256_XTS,
    "require_rapl_disabled": GuestPolicy.RAPL_DIS,
    "require_ciphertext_hiding": GuestPolicy.CIPHERTEXT_HIDING_DRAM,
    "require_page_swap_disabled": GuestPolicy.PAGE_SWAP_DISABLE,
}


def _take_platform_info(fields: Fields, name: str) -> PlatformInfo:
    flags = fields.take_fields(name)
    chosen = PlatformInfo(0)
    for bit in PlatformInfo:
        label = str(bit.name).lower()
        if flags.has(label):
            if not flags.take_bool(label):
                raise make_wrong(fields, f"{name}.{label}", "true, or to be left out")
            chosen |= bit
    flags.require_no_more()
    return chosen


def _take_vmpls(fields: Fields, name: str) -> frozenset[int]:
    value = fields.take(name)
    levels = value if isinstance(value, list) else [value]
    if not levels or any(isinstance(item, bool) or item not in range(_HIGHEST_VMPL + 1) for item in levels):
        raise make_wrong(fields, name, "a VMPL in 0 to 3, or a list of them")
    return frozenset(levels)


def _take_advisories(fields: Fields, name: str) -> frozenset[str]:
    """Return the ids of advisories about SNP, whichever of their names the document uses."""
    return take_advisories(fields, name, Tee.SNP)


def _take_advisory_floors(fields: Fields, name: str) -> dict[str, dict[Product, Tcb]]:
    """Return floors by advisory and product. Raises FormatError on a floor of nothing: it would mend all."""
    floors = fields.take_fields(name)
    named: dict[str, dict[Product, Tcb]] = {}
    for advisory in ADVISORIES:
        for written in (advisory.id, *advisory.aliases):
            if advisory.has_floors and floors.has(written):
                if advisory.id in named:
                    raise make_wrong(floors, written, f"one of the names of {advisory.id}")
                named[advisory.id] = take_floors(floors, written)
                if Tcb() in named[advisory.id].values():
                    raise make_wrong(floors, written, "a component above 0 for each product")
    floors.require_no_more()
    return named


def _readers(source: str) -> dict[str, tuple[str, Callable[[Fields, str], object]]]:
    """Return, by member of the document, the policy's field and what reads it."""
    products = {product.value: product for product in Product}
    keys = {key.name: key for key in (SigningKey.VCEK, SigningKey.VLEK)}
    return {
        "vmpl": ("vmpls", _take_vmpls),
        "min_abi": ("min_abi", lambda fields, name: take_numbers(fields, name, 2)),
        "allow_mask_chip_key": ("accepts_masked_chip_key", Fields.take_bool),
        "allow_masked_chip": ("accepts_masked_chip", Fields.take_bool),
        "products": ("products", lambda fields, name: take_names(fields, name, products)),
        "signing_keys": ("signing_keys", lambda fields, name: take_names(fields, name, keys)),
        "csp_ids": (
            "csp_ids",
            lambda fields, name: OneOf(
                values=frozenset(text.encode() for text in fields.take_strings(name, limit=_LIMIT)),
                source=source,
            ),
        ),
        "min_tcb": ("min_reported_tcb", take_floors),
        "min_committed_tcb": ("min_committed_tcb", take_floors),
        "min_launch_tcb": ("min_launch_tcb", take_floors),
        "require_platform_info": ("required_platform_info", _take_platform_info),
        "forbid_platform_info": ("forbidden_platform_info", _take_platform_info),
        "reject_unknown_platform_info": ("rejects_unknown_platform_info", Fields.take_bool),
        "require_current_mit_vector": (
            "required_current_mit_vector",
            lambda fields, name: take_integer_or_hex(fields, name, _U64),
        ),
        "require_launch_mit_vector": (
            "required_launch_mit_vector",
            lambda fields, name: take_integer_or_hex(fields, name, _U64),
        ),
        "min_firmware": ("min_firmware", lambda fields, name: take_numbers(fields, name, 3)),
        "min_guest_svn": ("min_guest_svn", lambda fields, name: fields.take_integer(name, maximum=_U32)),
        "family_ids": ("family_ids", read_one_of(16, source)),
        "image_ids": ("image_ids", read_one_of(16, source)),
        "trusted_id_key_digests": ("id_key_digests", read_one_of(48, source)),
        "require_author_key": ("author_key_digests", read_one_of(48, source)),
        "chip_ids": ("chip_ids", read_one_of(64, source)),
        "denied_chip_ids": ("denied_chip_ids", read_octets(64)),
        "denied_keys": ("denied_keys", read_octets(32)),
        "require_crl": ("requires_crl", Fields.take_bool),
        "reject_provisional_firmware": ("rejects_provisional_firmware", Fields.take_bool),
        "report_ids": ("report_ids", read_one_of(32, source)),
        "migration_agents": ("migration_agents", read_one_of(32, source)),
        "require_advisories": ("required_advisories", _take_advisories),
        "deny_advisories": ("denied_advisories", _take_advisories),
        "advisory_floors": ("advisory_floors", _take_advisory_floors),
    }


def parse_policy(value: object, *, source: str, accepts_simulated: bool) -> SnpPolicy:
    """Return the policy that a JSON object holds.

    source:            where it came from, for verdicts: "the registration of web".
    accepts_simulated: the server's mode; no document can set it.

    Raises FormatError on a member that is unknown, of another type, or out of range.
    """
    fields = Fields(value, _WHERE)
    forbidden, required = SnpPolicy().forbidden_policy, GuestPolicy(0)
    for name, bit in _ALLOWED_BITS.items():
        if fields.has(name):
            forbidden = forbidden & ~bit if fields.take_bool(name) else forbidden | bit
    for name, bit in _REQUIRED_BITS.items():
        if fields.has(name) and fields.take_bool(name):
            required |= bit
    taken: dict[str, object] = {
        attribute: read(fields, name)
        for name, (attribute, read) in _readers(source).items()
        if fields.has(name)
    }
    fields.require_no_more()
    return SnpPolicy(
        source=source,
        accepts_simulated=accepts_simulated,
        forbidden_policy=forbidden,
        required_policy=required,
        **taken,  # type: ignore[arg-type]
    )
