"""Turn "name:group" into numbers with the /etc/passwd and /etc/group of a root file system.

The rules are those of container engines (runc's GetExecUser): a number needs no entry; a user alone brings
its primary group and the groups that list it; a group alone or as second part stands alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from krunpy.core.errors import BundleError
from krunpy.image.limits import ID_MAX
from krunpy.image.tree import read_path

if TYPE_CHECKING:
    from krunpy.image.tree import Source

FILE_LIMIT = 4 * 1024 * 1024  # bytes of /etc/passwd and of /etc/group
LINE_LIMIT = 100_000
PASSWD_FIELDS = 4  # name:password:uid:gid, more may follow
GROUP_FIELDS = 4  # name:password:gid:members


@dataclass(frozen=True, slots=True)
class _Account:
    name: str
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class _Group:
    name: str
    gid: int
    members: tuple[str, ...]


def resolve_user(source: Source, user: str) -> tuple[int, int, tuple[int, ...]]:
    """Return (uid, gid, additional gids) of a user as images and `-u` name it.

    user: "", "name", "uid", "name:group", "uid:gid", or a mixture.

    Raises BundleError if a name is not in the tree's /etc/passwd or /etc/group.
    """
    name, _, group_name = user.partition(":")
    accounts = _parse_passwd(read_path(source, b"etc/passwd", FILE_LIMIT) or b"")
    account = _find_account(accounts, name or "0")
    if group_name:
        number = _number(group_name)
        groups = _parse_groups(read_path(source, b"etc/group", FILE_LIMIT) or b"")
        found = next((group.gid for group in groups if group.name == group_name), number)
        if found is None:
            raise BundleError(
                f"cannot resolve user {user!r}", why=f"group {group_name!r} is not in the image's /etc/group"
            )
        return account.uid, found, ()
    groups = _parse_groups(read_path(source, b"etc/group", FILE_LIMIT) or b"")
    additional = {group.gid for group in groups if account.name and account.name in group.members}
    return account.uid, account.gid, tuple(sorted(additional - {account.gid}))


def _find_account(accounts: list[_Account], name: str) -> _Account:
    number = _number(name)
    for account in accounts:
        if account.name == name or (number is not None and account.uid == number):
            return account
    if number is None:
        raise BundleError(f"cannot resolve user {name!r}", why="it is not in the image's /etc/passwd")
    return _Account("", number, 0)


def _number(text: str) -> int | None:
    """Return an id of 0 to ID_MAX, or None if the text is none."""
    if not (text.isascii() and text.isdigit()) or len(text) > 10:  # noqa: PLR2004 - digits of 2^32
        return None
    value = int(text)
    return value if value <= ID_MAX else None


def _lines(raw: bytes, fields: int) -> list[list[str]]:
    """Return the fields of the lines that have enough of them; others are skipped, as the C library does."""
    lines = raw.decode(errors="surrogateescape").split("\n")[:LINE_LIMIT]
    split = (line.strip().split(":") for line in lines if line and not line.startswith("#"))
    return [each for each in split if len(each) >= fields]


def _parse_passwd(raw: bytes) -> list[_Account]:
    found = []
    for fields in _lines(raw, PASSWD_FIELDS):
        uid, gid = _number(fields[2]), _number(fields[3])
        if fields[0] and uid is not None and gid is not None:
            found.append(_Account(fields[0], uid, gid))
    return found


def _parse_groups(raw: bytes) -> list[_Group]:
    found = []
    for fields in _lines(raw, GROUP_FIELDS):
        gid = _number(fields[2])
        if fields[0] and gid is not None:
            found.append(_Group(fields[0], gid, tuple(fields[3].split(","))))
    return found
