"""Read an SNP policy from a JSON value: known members only, each of its type, each within its range.

docs/protocol.md section 5, Registration, "policy". A member that is left out keeps its strict default.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from krunpy.attest.policy import OneOf, SnpPolicy
from krunpy.core.errors import FormatError
from krunpy.formats.narrow import Fields
from krunpy.formats.snp_report import GuestPolicy, PlatformInfo, SigningKey
from krunpy.formats.snp_tcb import Product, Tcb

if TYPE_CHECKING:
    from collections.abc import Callable

_WHERE = "policy"
_LIMIT = 1024  # items of a list
_U8, _U32, _U64 = (1 << 8) - 1, (1 << 32) - 1, (1 << 64) - 1
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
_COMPONENTS = ("bootloader", "tee", "snp", "microcode", "fmc")


def _wrong(name: str, wanted: str) -> FormatError:
    return FormatError(f"cannot read {_WHERE}.{name}", why=f"wanted {wanted}")


def _take_integer_or_hex(fields: Fields, name: str, maximum: int) -> int:
    value = fields.take(name)
    if isinstance(value, str) and value.startswith("0x"):
        try:
            value = int(value, 16)
        except ValueError:
            raise _wrong(name, "an integer, or one in hex after 0x") from None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= maximum:
        raise _wrong(name, f"an integer in 0 to {maximum:#x}")
    return value


def _take_octets(fields: Fields, name: str, size: int) -> frozenset[bytes]:
    values = set()
    for text in fields.take_strings(name, limit=_LIMIT):
        try:
            value = bytes.fromhex(text)
        except ValueError:
            value = b""
        if len(value) != size or value.hex() != text:
            raise _wrong(name, f"{size} bytes each, in lower-case hex")
        values.add(value)
    return frozenset(values)


def _take_tcb(fields: Fields) -> Tcb:
    levels = {name: fields.take_integer(name, maximum=_U8) for name in _COMPONENTS if fields.has(name)}
    fields.require_no_more()
    return Tcb(**levels)


def _take_floors(fields: Fields, name: str) -> dict[Product, Tcb]:
    """Return floors by product from {"Milan": {...}}, or for all products from {"snp": 20}."""
    floors = fields.take_fields(name)
    if any(floors.has(component) for component in _COMPONENTS):
        return dict.fromkeys(Product, _take_tcb(floors))
    named = {product: _take_tcb(floors.take_fields(product)) for product in Product if floors.has(product)}
    floors.require_no_more()
    return named


def _take_platform_info(fields: Fields, name: str) -> PlatformInfo:
    flags = fields.take_fields(name)
    chosen = PlatformInfo(0)
    for bit in PlatformInfo:
        label = str(bit.name).lower()
        if flags.has(label):
            if not flags.take_bool(label):
                raise _wrong(f"{name}.{label}", "true, or to be left out")
            chosen |= bit
    flags.require_no_more()
    return chosen


def _take_numbers(fields: Fields, name: str, count: int) -> tuple[int, ...]:
    numbers = fields.take_integers(name, limit=count, maximum=_U8)
    if len(numbers) != count:
        raise _wrong(name, f"a list of {count} integers")
    return numbers


def _take_vmpls(fields: Fields, name: str) -> frozenset[int]:
    value = fields.take(name)
    levels = value if isinstance(value, list) else [value]
    if not levels or any(isinstance(item, bool) or item not in range(_HIGHEST_VMPL + 1) for item in levels):
        raise _wrong(name, "a VMPL in 0 to 3, or a list of them")
    return frozenset(levels)


def _take_names(fields: Fields, name: str, known: dict[str, object]) -> frozenset[object]:
    names = fields.take_strings(name, limit=_LIMIT)
    if unknown := set(names) - known.keys():
        raise _wrong(name, f'some of {", ".join(known)}, seen "{min(unknown)[:40]}"')
    return frozenset(known[item] for item in names)


def _one_of(size: int, source: str) -> Callable[[Fields, str], OneOf]:
    return lambda fields, name: OneOf(values=_take_octets(fields, name, size), source=source)


def _readers(source: str) -> dict[str, tuple[str, Callable[[Fields, str], object]]]:
    """Return, by member of the document, the policy's field and what reads it."""
    products: dict[str, object] = {product.value: product for product in Product}
    keys: dict[str, object] = {key.name: key for key in (SigningKey.VCEK, SigningKey.VLEK)}
    return {
        "vmpl": ("vmpls", _take_vmpls),
        "min_abi": ("min_abi", lambda fields, name: _take_numbers(fields, name, 2)),
        "allow_mask_chip_key": ("accepts_masked_chip_key", Fields.take_bool),
        "allow_masked_chip": ("accepts_masked_chip", Fields.take_bool),
        "products": ("products", lambda fields, name: _take_names(fields, name, products)),
        "signing_keys": ("signing_keys", lambda fields, name: _take_names(fields, name, keys)),
        "csp_ids": (
            "csp_ids",
            lambda fields, name: OneOf(
                values=frozenset(text.encode() for text in fields.take_strings(name, limit=_LIMIT)),
                source=source,
            ),
        ),
        "min_tcb": ("min_reported_tcb", _take_floors),
        "min_committed_tcb": ("min_committed_tcb", _take_floors),
        "min_launch_tcb": ("min_launch_tcb", _take_floors),
        "require_platform_info": ("required_platform_info", _take_platform_info),
        "forbid_platform_info": ("forbidden_platform_info", _take_platform_info),
        "reject_unknown_platform_info": ("rejects_unknown_platform_info", Fields.take_bool),
        "require_current_mit_vector": (
            "required_current_mit_vector",
            lambda fields, name: _take_integer_or_hex(fields, name, _U64),
        ),
        "require_launch_mit_vector": (
            "required_launch_mit_vector",
            lambda fields, name: _take_integer_or_hex(fields, name, _U64),
        ),
        "min_firmware": ("min_firmware", lambda fields, name: _take_numbers(fields, name, 3)),
        "min_guest_svn": ("min_guest_svn", lambda fields, name: fields.take_integer(name, maximum=_U32)),
        "family_ids": ("family_ids", _one_of(16, source)),
        "image_ids": ("image_ids", _one_of(16, source)),
        "trusted_id_key_digests": ("id_key_digests", _one_of(48, source)),
        "require_author_key": ("author_key_digests", _one_of(48, source)),
        "chip_ids": ("chip_ids", _one_of(64, source)),
        "denied_chip_ids": ("denied_chip_ids", lambda fields, name: _take_octets(fields, name, 64)),
        "denied_keys": ("denied_keys", lambda fields, name: _take_octets(fields, name, 32)),
        "require_crl": ("requires_crl", Fields.take_bool),
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
