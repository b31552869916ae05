"""Narrow values that came out of JSON to the types we want, naming the place when they are not."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar, cast

from krunpy.core.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterable

_Item = TypeVar("_Item")


class Fields:
    """The members of one JSON object, taken by name and type.

    Every `take_` raises FormatError with the path of the member; `require_no_more` refuses unknown members.
    """

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, dict):
            raise FormatError(f"cannot read {where}", why=f"seen {_kind(value)}, wanted an object")
        self._left = dict(cast("dict[str, object]", value))
        self._where = where

    @property
    def where(self) -> str:
        """The path of this object, for messages."""
        return self._where

    def take(self, name: str) -> object:
        """Return a member of any type."""
        if name not in self._left:
            raise FormatError(f"cannot read {self._where}", why=f'"{name}" is missing')
        return self._left.pop(name)

    def has(self, name: str) -> bool:
        """Return whether a member of this name is left."""
        return name in self._left

    def take_fields(self, name: str) -> Fields:
        """Return a member that is an object."""
        return Fields(self.take(name), f"{self._where}.{name}")

    def take_string(self, name: str) -> str:
        """Return a member that is a string."""
        value = self.take(name)
        if not isinstance(value, str):
            raise self._wrong(name, value, "a string")
        return value

    def take_bool(self, name: str) -> bool:
        """Return a member that is true or false."""
        value = self.take(name)
        if not isinstance(value, bool):
            raise self._wrong(name, value, "true or false")
        return value

    def take_integer(self, name: str, *, maximum: int, minimum: int = 0) -> int:
        """Return a member that is an integer in [minimum, maximum]."""
        value = self.take(name)
        if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
            raise self._wrong(name, value, f"an integer in {minimum} to {maximum}")
        return value

    def take_hex(self, name: str, size: int) -> bytes:
        """Return a member that is `size` bytes in lower-case hex."""
        text = self.take_string(name)
        try:
            value = bytes.fromhex(text)
        except ValueError:
            value = b""
        if len(value) != size or value.hex() != text:
            raise self._wrong(name, text[:80], f"{size} bytes in lower-case hex")
        return value

    def take_list(self, name: str, *, limit: int) -> list[object]:
        """Return a member that is a list of at most `limit` items."""
        value = self.take(name)
        if not isinstance(value, list):
            raise self._wrong(name, value, "a list")
        if len(value) > limit:
            raise FormatError(
                f"cannot read {self._where}.{name}", why=f"{len(value)} items, at most {limit} are allowed"
            )
        return cast("list[object]", value)

    def take_strings(self, name: str, *, limit: int) -> tuple[str, ...]:
        """Return a member that is a list of at most `limit` strings."""
        return tuple(self._each(name, limit, str, "a string"))

    def take_integers(self, name: str, *, limit: int, maximum: int) -> tuple[int, ...]:
        """Return a member that is a list of at most `limit` integers in 0 to maximum."""
        values = tuple(self._each(name, limit, int, "an integer"))
        if any(isinstance(value, bool) or not 0 <= value <= maximum for value in values):
            raise self._wrong(name, values, f"integers in 0 to {maximum}")
        return values

    def take_objects(self, name: str, *, limit: int) -> Iterable[Fields]:
        """Yield the items of a member that is a list of at most `limit` objects."""
        for index, item in enumerate(self.take_list(name, limit=limit)):
            yield Fields(item, f"{self._where}.{name}[{index}]")

    def require_no_more(self) -> None:
        """Raise FormatError if a member was not taken."""
        if self._left:
            raise FormatError(
                f"cannot read {self._where}", why=f"unknown members: {', '.join(sorted(self._left))}"
            )

    def _each(self, name: str, limit: int, kind: type[_Item], wanted: str) -> Iterable[_Item]:
        for item in self.take_list(name, limit=limit):
            if not isinstance(item, kind):
                raise self._wrong(name, item, wanted)
            yield item

    def _wrong(self, name: str, value: object, wanted: str) -> FormatError:
        return FormatError(f"cannot read {self._where}.{name}", why=f"seen {_kind(value)}, wanted {wanted}")


def _kind(value: object) -> str:
    match value:
        case bool() | int():
            return str(value)[:40]
        case str():
            return f'"{value[:80]}"'
        case list() | tuple():
            return "a list"
        case dict():
            return "an object"
        case None:
            return "null"
        case _:
            return type(value).__name__
