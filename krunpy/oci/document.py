"""JSON documents from outside: bounded, decoded once, narrowed by hand to typed values.

A Field remembers where it was found, so that an error names the key: process.user.uid. Unknown keys are
ignored, as the OCI specifications tell readers to. No schema library: this is on the path of `create`.
"""

from __future__ import annotations

import json
import os
import stat
from typing import TYPE_CHECKING, Any, NoReturn

from krunpy.core.errors import BundleError

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCUMENT_LIMIT = 4 * 1024 * 1024  # bytes
SHOWN_LIMIT = 60  # characters of a value in a message
INT64_MAX = (1 << 63) - 1


def load_document(path: str, what: str, limit: int = DOCUMENT_LIMIT) -> bytes:
    """Return the bytes of a regular file of at most `limit` bytes; a longer one is refused unread.

    Raises BundleError, which says `what` cannot be read.
    """
    descriptor, size = open_regular_file(path, what)
    with open(descriptor, "rb", closefd=True) as stream:
        raw = stream.read(limit + 1) if size <= limit else b""
        if size > limit or len(raw) > limit:
            seen = max(size, len(raw))
            raise BundleError(
                f"cannot read {what}", why=f"{path} is {seen} bytes, at most {limit} are allowed"
            )
    return raw


def open_regular_file(path: str, what: str) -> tuple[int, int]:
    """Return descriptor and size in bytes of a regular file; the caller closes it.

    Raises BundleError, which says `what` cannot be read.
    """
    try:
        # O_NONBLOCK: a fifo in the file's place must not make us wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or "not a path"
        raise BundleError(f"cannot read {what}", why=f"{path}: {why.lower()}") from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise BundleError(f"cannot read {what}", why=f"{path} is not a regular file")
    return descriptor, status.st_size


def parse_document(raw: bytes, what: str, limit: int = DOCUMENT_LIMIT) -> Field:
    """Return the root of a JSON document that must be an object.

    Raises BundleError if it is longer than `limit` bytes, is no JSON in UTF-8, or nests too deeply.
    """
    if len(raw) > limit:
        raise BundleError(f"cannot read {what}", why=f"it is {len(raw)} bytes, at most {limit} are allowed")
    try:
        value = json.loads(raw.decode("utf-8"), parse_constant=_refuse_constant)
    except RecursionError:
        raise BundleError(f"cannot read {what}", why="its JSON nests too deeply") from None
    except UnicodeDecodeError as error:
        raise BundleError(f"cannot read {what}", why=f"it is not UTF-8 at byte {error.start}") from None
    except ValueError as error:
        raise BundleError(f"cannot read {what}", why=f"it is not JSON: {_first_line(error)}") from None
    root = Field(value, "", what)
    root.require(dict, "an object")
    return root


def _refuse_constant(name: str) -> NoReturn:
    msg = f"seen {name}, wanted a value that JSON has"
    raise ValueError(msg)


def _first_line(error: ValueError) -> str:
    text = str(error).partition("\n")[0]
    return text[:1].lower() + text[1:]


class Field:
    """One value of a document, and where it was found. A missing value and null are the same."""

    __slots__ = ("path", "value", "what")

    def __init__(self, value: Any, path: str, what: str) -> None:
        self.value = value
        self.path = path
        self.what = what

    def __getitem__(self, key: str) -> Field:
        """Return the value of a key of this object; it need not be there."""
        value = None if self.value is None else self.require(dict, "an object").get(key)
        return Field(value, f"{self.path}.{key}" if self.path else key, self.what)

    def __bool__(self) -> bool:
        return self.value is not None

    def require(self, kind: type, wanted: str) -> Any:
        """Return the value if it is of a Python type that json makes. Raises BundleError otherwise."""
        if type(self.value) is not kind:
            self.fail(wanted)
        return self.value

    def fail(self, wanted: str) -> NoReturn:
        """Raise BundleError: this value is not what was wanted."""
        seen = "nothing" if self.value is None else _shown(self.value)
        place = self.path or "the document"
        raise BundleError(f"cannot read {self.what}", why=f"{place}: seen {seen}, wanted {wanted}")

    def text(self, default: str | None = None) -> str:
        """Return a string without zero bytes that UTF-8 can hold, or the default if it is missing."""
        if self.value is None and default is not None:
            return default
        value: str = self.require(str, "a string")
        if "\0" in value:
            self.fail("a string without a zero byte")
        try:
            value.encode()
        except UnicodeEncodeError:
            self.fail("a string without lone surrogates")
        return value

    def flag(self) -> bool:
        """Return a boolean; False if it is missing."""
        return False if self.value is None else bool(self.require(bool, "true or false"))

    def number(self, default: int | None = None, *, low: int = 0, high: int = INT64_MAX) -> int:
        """Return an integer of low to high, or the default if it is missing."""
        if self.value is None and default is not None:
            return default
        value: int = self.require(int, "an integer")
        if not low <= value <= high:
            self.fail(f"an integer of {low} to {high}")
        return value

    def optional_number(self, *, low: int = 0, high: int = INT64_MAX) -> int | None:
        """Return an integer of low to high, or None if it is missing."""
        return None if self.value is None else self.number(low=low, high=high)

    def items(self) -> Iterator[Field]:
        """Yield the elements of a list; none if it is missing."""
        if self.value is not None:
            for index, value in enumerate(self.require(list, "a list")):
                yield Field(value, f"{self.path}[{index}]", self.what)

    def texts(self) -> tuple[str, ...]:
        """Return a list of strings; empty if it is missing."""
        return tuple(item.text() for item in self.items())

    def mapping(self) -> dict[str, str]:
        """Return an object whose values are strings; empty if it is missing."""
        if self.value is None:
            return {}
        return {
            Field(key, self.path, self.what).text(): self[key].text()
            for key in self.require(dict, "an object")
        }


def _shown(value: Any) -> str:
    """Return a short, printable form of a value; of containers only what they are."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    text = ascii(value) if isinstance(value, str) else str(value)[: SHOWN_LIMIT + 1].lower()
    return text if len(text) <= SHOWN_LIMIT else text[:SHOWN_LIMIT] + "..."
