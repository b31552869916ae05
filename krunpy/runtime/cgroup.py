"""The container's cgroup: made or joined in every mounted hierarchy, removed leaf first.

Holds the shim, the launcher and the machine, for `podman stats` and `pause` and for the limits that make
sense around a machine: processes and CPU. The memory limit sizes the machine instead. systemd is not asked:
a "slice:prefix:name" path is mapped to the directory systemd would use.
Source: cgroup-v1 and cgroup-v2 of the kernel's admin guide; systemd.slice(5).
"""

from __future__ import annotations

import errno
import os
import time

from krunpy.core.errors import BundleError, HostError
from krunpy.runtime.process import find_start_time, kill_and_wait

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

UNIFIED = "unified"
_MOUNTS = "/proc/self/mounts"
_REMOVE_TIMEOUT_S = 2.0
_NOT_PERMITTED = (errno.EACCES, errno.EPERM, errno.EROFS)
_ATTEMPTS = 5


class Hierarchy:
    """One mounted cgroup file system: its directory, and its controllers (UNIFIED for version 2)."""

    __slots__ = ("controllers", "directory")

    def __init__(self, directory: str, controllers: Sequence[str]) -> None:
        self.directory = directory
        self.controllers = frozenset(controllers)


def parse_hierarchies(mounts: str) -> list[Hierarchy]:
    """Return the cgroup hierarchies in the text of /proc/self/mounts."""
    found = []
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 4 or fields[2] not in ("cgroup", "cgroup2"):  # noqa: PLR2004
            continue
        directory = fields[1].replace("\\040", " ")
        controllers = [UNIFIED] if fields[2] == "cgroup2" else fields[3].split(",")
        found.append(Hierarchy(directory, controllers))
    return found


def load_hierarchies() -> list[Hierarchy]:
    """Return the cgroup hierarchies that are mounted here."""
    with open(_MOUNTS, encoding="utf-8", errors="surrogateescape") as stream:
        return parse_hierarchies(stream.read())


def map_path(cgroups_path: str, container_id: str) -> str:
    """Return the path below a hierarchy, starting with a slash, for linux.cgroupsPath.

    Raises BundleError if it would lead out of the hierarchy.
    """
    path = cgroups_path or f"/krunpy/{container_id}"
    if path.count(":") == 2 and "/" not in path:  # noqa: PLR2004 - slice:prefix:name
        slice_name, prefix, name = path.split(":")
        path = _expand_slice(slice_name or "system.slice") + f"/{prefix}-{name}.scope"
    parts = [part for part in path.split("/") if part]
    if not parts or ".." in parts or "." in parts:
        raise BundleError(f'cannot use cgroup path "{cgroups_path}"', why="it leads out of the hierarchy")
    return "/" + "/".join(parts)


def _expand_slice(name: str) -> str:
    """Return where systemd puts a slice: "a-b.slice" lies in "a.slice"."""
    stem = name.removesuffix(".slice")
    if stem in ("", "-"):
        return ""
    pieces = stem.split("-")
    return "".join(f"/{'-'.join(pieces[: count + 1])}.slice" for count in range(len(pieces)))


def make_cgroups(hierarchies: Sequence[Hierarchy], path: str) -> list[str]:
    """Make the cgroup in every hierarchy; return the directories that were new, parents first.

    A hierarchy in which the caller may not write is left out: a rootless engine delegates none.
    """
    made: list[str] = []
    for hierarchy in hierarchies:
        try:
            made += _make_path(hierarchy, path)
        except OSError as error:
            if error.errno not in _NOT_PERMITTED:
                remove_cgroups(made)
                why = (error.strerror or "error").lower()
                raise HostError(f"cannot make cgroup {hierarchy.directory}{path}", why=why) from error
    return made


def _make_path(hierarchy: Hierarchy, path: str) -> list[str]:
    for attempt in range(_ATTEMPTS):
        made = []
        directory = hierarchy.directory
        try:
            for part in path[1:].split("/"):
                parent, directory = directory, f"{directory}/{part}"
                if _make_directory(directory):
                    made.append(directory)
                    _prepare(hierarchy, parent, directory)
        except FileNotFoundError:
            # Another container's `delete` has just removed the parent that was there a moment ago.
            if attempt == _ATTEMPTS - 1:
                raise
            continue
        return made
    return []


def _make_directory(directory: str) -> bool:
    try:
        os.mkdir(directory, 0o755)
    except FileExistsError:
        return False
    return True


def _prepare(hierarchy: Hierarchy, parent: str, directory: str) -> None:
    """Make a new cgroup fit to be joined: version 1 wants a cpuset, version 2 has controllers to pass on."""
    if "cpuset" in hierarchy.controllers:
        for name in ("cpuset.cpus", "cpuset.mems"):
            _write(f"{directory}/{name}", _read(f"{parent}/{name}"))
    if UNIFIED in hierarchy.controllers:
        available = _read(f"{parent}/cgroup.controllers").split()
        wanted = [name for name in ("pids", "memory", "cpu", "cpuset") if name in available]
        for name in wanted:
            _try_write(f"{parent}/cgroup.subtree_control", f"+{name}")


def join_cgroups(hierarchies: Sequence[Hierarchy], path: str, pid: int) -> None:
    """Move a process into the cgroup, in every hierarchy where there is one. Raises HostError."""
    for hierarchy in hierarchies:
        procs = f"{hierarchy.directory}{path}/cgroup.procs"
        if not os.path.exists(procs):
            continue
        try:
            _write(procs, str(pid))
        except OSError as error:
            if error.errno not in _NOT_PERMITTED:
                why = (error.strerror or "error").lower()
                raise HostError(f"cannot join cgroup {procs}", why=why) from error


def apply_limits(
    hierarchies: Sequence[Hierarchy], path: str, limits: Mapping[str, Mapping[str, str]]
) -> None:
    """Write limits, as `cgroup_limits` makes them, to those of their files that there are.

    Raises HostError if a limit holds nowhere: a limit is never dropped in silence.
    """
    for setting, files in limits.items():
        places = {
            f"{each.directory}{path}/{name}": value for each in hierarchies for name, value in files.items()
        }
        found = {place: value for place, value in places.items() if os.path.exists(place)}
        if not found:
            raise HostError(
                f"cannot set limit {setting}",
                why=f"no cgroup here has {' or '.join(files)}",
                next="run without this limit, or have the cgroup controller made available",
            )
        for place, value in found.items():
            try:
                _write(place, value)
            except OSError as error:
                why = f"writing {value}: {(error.strerror or 'error').lower()}"
                raise HostError(f"cannot set limit {place}", why=why) from error


def kill_members(directories: Sequence[str]) -> None:
    """Kill every process in the cgroups that `make_cgroups` made for one container, not in their parents.

    Only for a container without a process namespace of its own, whose shim died before its children.
    """
    for directory in directories:
        if not _is_leaf(directories, directory):
            continue
        for pid in _members(directory):
            start_time = find_start_time(pid)
            if start_time is not None:
                kill_and_wait(pid, start_time, timeout_s=_REMOVE_TIMEOUT_S)


def remove_cgroups(directories: Sequence[str]) -> None:
    """Remove directories given parents first; a parent that others use stays.

    The container's own is waited for a moment: the kernel lists the dead for as long as nobody reaped them.
    """
    deadline = time.monotonic() + _REMOVE_TIMEOUT_S
    for directory in reversed(directories):
        is_leaf = _is_leaf(directories, directory)
        while not _remove_one(directory) and is_leaf and time.monotonic() < deadline:
            if any(find_start_time(pid) is not None for pid in _members(directory)):
                break  # another container lives in it
            time.sleep(0.005)


def plan_removal(hierarchies: Sequence[Hierarchy], path: str, others: Collection[str]) -> list[str]:
    """Return which directories of a cgroup path are ours to remove later, parents first.

    The container's own always, as crun has it; of its parents those that are not there yet.

    others: those that other containers of ours made: whoever goes last removes what was shared. Ask, and write
    the answer down, before `make_cgroups`: a `create` that is killed has then told what it was about to make.
    """
    parts = path[1:].split("/")
    prefixes = ["/" + "/".join(parts[: count + 1]) for count in range(len(parts))]
    every = [(f"{hierarchy.directory}{prefix}", prefix) for hierarchy in hierarchies for prefix in prefixes]
    return [
        directory
        for directory, prefix in every
        if prefix == path or directory in others or not os.path.exists(directory)
    ]


def _members(directory: str) -> list[int]:
    words = _read_quietly(f"{directory}/cgroup.procs").split()
    return [int(word) for word in words if word.isdigit() and word != "0"]


def _is_leaf(directories: Sequence[str], directory: str) -> bool:
    return not any(other.startswith(f"{directory}/") for other in directories)


def _remove_one(directory: str) -> bool:
    try:
        os.rmdir(directory)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _read(path: str) -> str:
    with open(path, encoding="ascii", errors="replace") as stream:
        return stream.read(4096)


def _read_quietly(path: str) -> str:
    try:
        return _read(path)
    except OSError:
        return ""


def _write(path: str, value: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, value.encode())
    finally:
        os.close(descriptor)


def _try_write(path: str, value: str) -> None:
    try:
        _write(path, value)
    except OSError:
        return
