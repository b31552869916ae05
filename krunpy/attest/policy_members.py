"""Read the members that policies are made of: sets of bytes, names, numbers, floors. The TEE's own are elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from krunpy.attest.advisories import find_advisory
from krunpy.attest.policy import OneOf
from krunpy.core.errors import FormatError
from krunpy.formats.snp_tcb import Product, Tcb

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from krunpy.attest.advisories import Tee
    from krunpy.formats.narrow import Fields

_Choice = TypeVar("_Choice")

_LIMIT = 1024  # items of a list
_U8 = (1 << 8) - 1
_COMPONENTS = ("bootloader", "tee", "snp", "microcode", "fmc")


def make_wrong(fields: Fields, name: str, wanted: str) -> FormatError:
    """Return the error for a member that is not what it should be."""
    return FormatError(f"cannot read {fields.where}.{name}", why=f"wanted {wanted}")


def take_integer_or_hex(fields: Fields, name: str, maximum: int) -> int:
    """Return a member that is an integer in 0 to maximum, or one in hex after 0x."""
    value = fields.take(name)
    if isinstance(value, str) and value.startswith("0x"):
        try:
            value = int(value, 16)
        except ValueError:
            raise make_wrong(fields, name, "an integer, or one in hex after 0x") from None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= maximum:
        raise make_wrong(fields, name, f"an integer in 0 to {maximum:#x}")
    return value


def take_octets(fields: Fields, name: str, size: int) -> frozenset[bytes]:
    """Return a member that is a list of byte strings of `size` bytes, in lower-case hex."""
    values = set()
    for text in fields.take_strings(name, limit=_LIMIT):
        try:
            value = bytes.fromhex(text)
        except ValueError:
            value = b""
        if len(value) != size or value.hex() != text:
            raise make_wrong(fields, name, f"{size} bytes each, in lower-case hex")
        values.add(value)
    return frozenset(values)


def take_numbers(fields: Fields, name: str, count: int) -> tuple[int, ...]:
    """Return a member that is a list of exactly `count` integers in 0 to 255."""
    numbers = fields.take_integers(name, limit=count, maximum=_U8)
    if len(numbers) != count:
        raise make_wrong(fields, name, f"a list of {count} integers")
    return numbers


def take_names(fields: Fields, name: str, known: Mapping[str, _Choice]) -> frozenset[_Choice]:
    """Return what a member, a list of names, stands for. Raises FormatError on a name that is not known."""
    names = fields.take_strings(name, limit=_LIMIT)
    if unknown := set(names) - known.keys():
        raise make_wrong(fields, name, f'some of {", ".join(known)}, seen "{min(unknown)[:40]}"')
    return frozenset(known[item] for item in names)


def take_advisories(fields: Fields, name: str, tee: Tee) -> frozenset[str]:
    """Return the ids of a member that is a list of ids or aliases of advisories about `tee`."""
    ids = set()
    for written in fields.take_strings(name, limit=_LIMIT):
        advisory = find_advisory(written, tee)
        if advisory is None:
            raise make_wrong(fields, name, f'advisories about {tee}, seen "{written[:40]}"')
        ids.add(advisory.id)
    return frozenset(ids)


def read_octets(size: int) -> Callable[[Fields, str], frozenset[bytes]]:
    """Return a reader of a list of byte strings of `size` bytes."""
    return lambda fields, name: take_octets(fields, name, size)


def read_one_of(size: int, source: str) -> Callable[[Fields, str], OneOf]:
    """Return a reader of accepted values of `size` bytes that came from `source`."""
    return lambda fields, name: OneOf(values=take_octets(fields, name, size), source=source)


def _take_tcb(fields: Fields) -> Tcb:
    levels = {name: fields.take_integer(name, maximum=_U8) for name in _COMPONENTS if fields.has(name)}
    fields.require_no_more()
    return Tcb(**levels)


def take_floors(fields: Fields, name: str) -> dict[Product, Tcb]:
    """Return TCB floors by product from {"Milan": {...}}, or for all products from {"snp": 20}."""
    floors = fields.take_fields(name)
    if any(floors.has(component) for component in _COMPONENTS):
        return dict.fromkeys(Product, _take_tcb(floors))
    named = {product: _take_tcb(floors.take_fields(product)) for product in Product if floors.has(product)}
    floors.require_no_more()
    return named
