"""The host's side of what a machine shares: directories opened, who the machine runs as, ports, name servers.

The machine gets a descriptor of each directory, not its path: it needs no right to any directory above it. Without
capabilities libkrun's virtiofs does everything as the machine's own user, so that has to be the files' owner.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

from krunpy.core.errors import FormatError, HostError
from krunpy.core.files import load_bounded
from krunpy.runtime.vm_shares import name_tag
from krunpy.vmm.libkrun_spec import Share

if TYPE_CHECKING:
    from collections.abc import Sequence

    from krunpy.runtime.vm_shares import Shares

RESOLV_CONF = "/etc/resolv.conf"
_RESOLV_LIMIT = 16 * 1024  # bytes
_FIRST_PORT = "/proc/sys/net/ipv4/ip_unprivileged_port_start"


def open_directories(shares: Shares) -> tuple[int, ...]:
    """Return a descriptor of each directory (O_PATH), in the order of the volumes. Raises HostError."""
    opened: list[int] = []
    try:
        opened.extend(_open_directory(volume.host) for volume in shares.volumes)
    except HostError:
        for descriptor in opened:
            os.close(descriptor)
        raise
    return tuple(opened)


def _open_directory(path: str) -> int:
    try:
        return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or "not a path"
        raise HostError(
            f"cannot share {path}", why=reason.lower(), next=f"make the directory: mkdir {path}"
        ) from error


def describe_shares(shares: Shares, *, first: int) -> tuple[Share, ...]:
    """Return the volumes as libkrun's process is told of them.

    first: the place of the first of `open_directories` among the machine's descriptors.
    """
    return tuple(
        Share(tag=name_tag(index), directory=first + index, is_read_only=volume.is_read_only)
        for index, volume in enumerate(shares.volumes)
    )


def choose_owner(shares: Shares, descriptors: Sequence[int]) -> tuple[int, int] | None:
    """Return user and group to run the machine as; None: as a machine without volumes, who owns nothing.

    It is the one owner of the directories. One of root's that is only read needs none: it is read as everybody may. A
    group of 0 stands for none.

    Raises HostError if the owners differ, or root owns a directory that the guest may write: a machine that runs as
    root could change the whole host, broken out of.
    """
    owners: dict[tuple[int, int], str] = {}
    if os.geteuid() != 0:
        return None  # it runs as the caller
    for volume, descriptor in zip(shares.volumes, descriptors, strict=True):
        status = os.fstat(descriptor)
        if status.st_uid != 0:
            owners.setdefault((status.st_uid, status.st_gid), volume.host)
        elif not volume.is_read_only:
            raise HostError(
                f"cannot share {volume.host} for writing",
                why="root owns it, and the machine would have to run as root",
                next=f"chown it to another user, or share it read-only: {volume.host}:{volume.guest}:ro",
            )
    if len(owners) > 1:
        shown = ", ".join(f"{path} of {uid}:{gid}" for (uid, gid), path in owners.items())
        raise HostError(
            "cannot share these directories",
            why=f"the machine runs as their owner, and they have several: {shown}",
            next="give them one owner and group",
        )
    return next(iter(owners), None)


def require_free_ports(shares: Shares, *, is_root: bool) -> None:
    """Refuse ports that the machine could not listen on: libkrun would only tell the guest. Raises HostError.

    is_root: whether krunpy is: even so the machine has no capability for the low ports.
    """
    first = _load_first_port()
    for port, _ in shares.ports:
        if port < first:
            who = "the machine gives root's rights up" if is_root else "only root may have it"
            raise HostError(
                f"cannot publish port {port}",
                why=f"{who}, and ports below {first} need them",
                next=f"use a higher port, or sysctl net.ipv4.ip_unprivileged_port_start={port}",
            )
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind(("0.0.0.0", port))  # noqa: S104 - where libkrun listens
            except OSError as error:
                why = (error.strerror or "error").lower()
                raise HostError(f"cannot publish port {port}", why=why, next="choose another one") from error


def _load_first_port() -> int:
    try:
        return int(load_bounded(_FIRST_PORT, 64))
    except (HostError, FormatError, ValueError):
        return 1024


def make_resolv_conf(shares: Shares) -> dict[str, bytes]:
    """Return /etc/resolv.conf for RUN, if there is a network: the name server asked for, else the host's file."""
    if not shares.has_network:
        return {}
    if shares.dns:
        return {RESOLV_CONF: f"nameserver {shares.dns}\n".encode()}
    try:
        contents = load_bounded(RESOLV_CONF, _RESOLV_LIMIT)
    except (HostError, FormatError):
        return {}
    return {} if b"\0" in contents else {RESOLV_CONF: contents}
