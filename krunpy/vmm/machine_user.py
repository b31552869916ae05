"""Who a machine runs as: a user and a group of its own that own nothing, without capabilities.

A guest that breaks out of its VMM finds a process that may read what everybody may, and what was handed to it open.
Source: credentials(7), capabilities(7), user_namespaces(7); the range is left free by systemd's UIDS-GIDS.
"""

from __future__ import annotations

import os

from krunpy.core.errors import HostError
from krunpy.core.linux import set_no_new_privileges

TYPE_CHECKING = False  # typing itself costs memory, and time before a machine starts
if TYPE_CHECKING:
    from collections.abc import Sequence

FIRST_ID = 0x70000000  # with a process number, at most 2^22, on top
_MAP_FIELDS = 3  # first id here, first id outside, how many


def leave_root(groups: Sequence[int], owner: tuple[int, int] | None = None) -> None:
    """Make the calling process an unprivileged one, for good: it can gain nothing by executing a program either.

    groups: those that it keeps, for devices that it opens. A process that is not root stays who it is.
    owner:  user and group of the directories that it shares with its guest, in place of its own; a group of 0 is not
            given.

    Raises HostError or OSError if that cannot be: the caller must not go on.
    """
    set_no_new_privileges()
    if os.geteuid() != 0:
        return
    own_pid = int(os.readlink("/proc/self"))  # as the host counts: no other living process has it
    uid = choose_id(_load_map("uid_map"), own_pid)
    gid = choose_id(_load_map("gid_map"), own_pid)
    if owner is not None:
        uid, gid = owner[0], owner[1] or gid
    if uid == 0:
        raise HostError(
            "cannot start the machine without root's rights", why="its directories belong to root"
        )
    os.setgroups(list(groups))
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)  # takes all capabilities with it


def choose_id(text: str, pid: int) -> int:
    """Return the user or group id for a process: its own if it exists here, else the last one that does.

    text: a uid_map or gid_map. A rootless engine's user namespace has a few ids only.

    Raises HostError if there is none but root's.
    """
    ranges = [tuple(int(word) for word in line.split()) for line in text.splitlines()]
    ends = [(each[0], each[0] + each[2]) for each in ranges if len(each) == _MAP_FIELDS]
    if any(first <= FIRST_ID + pid < end for first, end in ends):
        return FIRST_ID + pid
    last = max((end - 1 for _, end in ends), default=0)
    if last == 0:
        raise HostError(
            "cannot start the machine without root's rights",
            why="this user namespace has no other user",
            next="map more ids into it, as /etc/subuid and /etc/subgid do for podman",
        )
    return last


def _load_map(name: str) -> str:
    with open(f"/proc/self/{name}", encoding="ascii") as stream:
        return stream.read()
