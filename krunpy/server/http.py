"""Calls and answers: what a handler gets and gives, and how its errors look from outside. No socket."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from krunpy.core.errors import FormatError, HostError, KrunpyError, StateError

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_BODY = 256 * 1024  # bytes
_MAX_MESSAGE = 400  # characters, to those who hold a token


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request, read whole. remote: the peer's address without its port.

    cookies: the Cookie headers as they came; base: scheme and host as the caller wrote them, "http://HOST:PORT".
    """

    names: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    body: bytes = field(default=b"", repr=False)
    authorization: str = field(default="", repr=False)
    cookies: tuple[str, ...] = field(default=(), repr=False)
    base: str = ""
    remote: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One response: a JSON object, and whether it rests on simulated evidence."""

    status: int
    document: Mapping[str, object]
    simulated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainAnswer:
    """One response in another form than ours. cookie: a whole Set-Cookie header, empty for none."""

    status: int
    body: bytes = field(repr=False)
    media_type: str = "text/plain"
    cookie: str = field(default="", repr=False)


class RefusedCallError(Exception):
    """A call that is answered with a status, a short code and one line."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.answer = make_error(status, code, message)


class NotFoundError(StateError):
    """There is nothing of that name."""


def make_error(status: int, code: str, message: str) -> Answer:
    """Return an error answer."""
    return Answer(status=status, document={"error": code, "message": message})


def describe_error(error: KrunpyError, *, to_stranger: bool) -> Answer:
    """Return the answer for an expected failure.

    to_stranger: without a token one hears a code and one fixed line; the reasons stay here.
    """
    status, code, line = _find_form(error)
    if to_stranger:
        return make_error(status, code, line)
    text = f"{error.what}: {error.why}" + (f"; {error.next}" if error.next else "")
    return make_error(status, code, text if len(text) <= _MAX_MESSAGE else text[: _MAX_MESSAGE - 1] + "…")


def _find_form(error: KrunpyError) -> tuple[int, str, str]:
    for kind, form in _FORMS:
        if isinstance(error, kind):
            return form
    return (500, "internal", "the server failed")


_FORMS: tuple[tuple[type[KrunpyError], tuple[int, str, str]], ...] = (
    (FormatError, (400, "malformed", "the request cannot be read")),
    (NotFoundError, (404, "not-found", "there is nothing of that name")),
    (StateError, (409, "conflict", "the request does not fit what is stored")),
    (HostError, (503, "store", "the server's store cannot be used")),
)
