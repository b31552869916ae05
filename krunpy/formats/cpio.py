"""The newc cpio archives that Linux unpacks as its initial root file system.

Writes and reads bytes; finds no files. Same members, same bytes: inode numbers count up, every time is 0,
every owner is root. Source: Linux Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from krunpy.core.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterable

_MAGIC = b"070701"
_HEADER_SIZE = 110  # bytes
_TRAILER = "TRAILER!!!"
_MAX_NAME = 4096  # bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One file or directory: path without a leading slash, full st_mode, contents (empty for a directory)."""

    path: str
    mode: int
    contents: bytes = b""


def make_file(path: str, contents: bytes, *, permissions: int = 0o644) -> Member:
    """Return a regular file of root's."""
    return Member(path=path, mode=stat.S_IFREG | permissions, contents=contents)


def make_directory(path: str, *, permissions: int = 0o755) -> Member:
    """Return a directory of root's."""
    return Member(path=path, mode=stat.S_IFDIR | permissions)


def build_cpio(members: Iterable[Member]) -> bytes:
    """Return the archive, padded to 512 bytes, so that another can follow it."""
    out = bytearray()
    for number, member in enumerate((*members, Member(path=_TRAILER, mode=0)), start=1):
        name = member.path.encode() + b"\0"
        links = 2 if stat.S_ISDIR(member.mode) else 1
        fields = (number, member.mode, 0, 0, links, 0, len(member.contents), 0, 0, 0, 0, len(name), 0)
        out += _MAGIC + b"".join(b"%08x" % field for field in fields) + name
        out += bytes(-len(out) % 4)
        out += member.contents
        out += bytes(-len(out) % 4)
    return bytes(out + bytes(-len(out) % 512))


def parse_cpio(data: bytes) -> list[Member]:
    """Return the members of one or more concatenated archives, trailers left out.

    Raises FormatError if the bytes are anything else.
    """
    members: list[Member] = []
    at = 0
    while at < len(data):
        if data[at] == 0:
            at += 1
            continue
        member, at = _parse_member(data, at)
        if member.path != _TRAILER:
            members.append(member)
    return members


def _parse_member(data: bytes, at: int) -> tuple[Member, int]:
    what = f"cannot read the cpio member at byte {at}"
    header = data[at : at + _HEADER_SIZE]
    if len(header) != _HEADER_SIZE or not header.startswith(_MAGIC):
        raise FormatError(what, why=f"seen {header[:6]!r}, wanted {_MAGIC!r}")
    digits = header[6:]
    if any(char not in b"0123456789abcdefABCDEF" for char in digits):
        raise FormatError(what, why="a number is not 8 hex digits")
    fields = [int(digits[place : place + 8], 16) for place in range(0, len(digits), 8)]
    mode, size, name_size = fields[1], fields[6], fields[11]
    start = at + _HEADER_SIZE
    if not 1 <= name_size <= _MAX_NAME or start + name_size > len(data):
        raise FormatError(what, why=f"a name of {name_size} bytes does not fit")
    name = data[start : start + name_size]
    if name[-1:] != b"\0" or b"\0" in name[:-1]:
        raise FormatError(what, why="the name is not one string")
    start += name_size
    start += -start % 4
    if start + size > len(data):
        raise FormatError(what, why=f"{size} bytes of contents do not fit")
    try:
        path = name[:-1].decode()
    except UnicodeDecodeError as error:
        raise FormatError(what, why="the name is not UTF-8") from error
    end = start + size
    return Member(path=path, mode=mode, contents=data[start:end]), end + -end % 4
