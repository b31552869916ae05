"""What becomes of those settings of config.json that are lists: mounts, namespaces, devices, and so on.

Engines add some of each by themselves. Those are told from the user's by the rules below; a user's is refused
where it cannot hold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, cast

from krunpy.oci.annotations import (
    CPUS,
    INTEGRITY_ONLY,
    MANIFEST_IN,
    MEANINGS,
    MEMORY_MIB,
    NO_HOST_SETTINGS,
    PREFIX,
    WORKLOAD,
)
from krunpy.runtime.setting import GUEST, HOST, NOWHERE, REFUSED, Setting, shorten

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_ID_LENGTH = 64  # hex digits of an engine's container ID
_HEX = frozenset("0123456789abcdef")
_OWN = "the guest's own"
_HANDED_OVER = "its contents are handed over by the host if the manifest allows it"

# What podman and docker bind into every container: destination -> file name, where it holds, reason.
_ENGINE_FILES: Mapping[str, tuple[str, str, str]] = {
    "/etc/resolv.conf": ("resolv.conf", GUEST, _HANDED_OVER),
    "/etc/hosts": ("hosts", GUEST, _HANDED_OVER),
    "/etc/hostname": ("hostname", GUEST, _HANDED_OVER),
    "/run/.containerenv": (".containerenv", NOWHERE, "it describes the host's engine"),
    "/dev/shm": ("shm", GUEST, "the guest has its own, of the same size; the host's is not shared"),  # noqa: S108
}
# Kernel file systems that a container has of its own, by type: destination, where it holds, reason, and the options
# with which the agent mounts it: images/guest/agent/rootfs.c
_KERNEL_MOUNTS: Mapping[str, tuple[str, str, str, str]] = {
    "proc": ("/proc", GUEST, _OWN, "rw nosuid nodev noexec"),
    "sysfs": ("/sys", GUEST, _OWN, "ro nosuid nodev noexec"),
    "devpts": ("/dev/pts", GUEST, _OWN, "rw nosuid noexec newinstance ptmxmode=0666 mode=0620 gid=5"),
    "mqueue": ("/dev/mqueue", GUEST, _OWN, "rw nosuid nodev noexec"),
    "cgroup": ("/sys/fs/cgroup", NOWHERE, "the guest has no cgroups to show", ""),
    "cgroup2": ("/sys/fs/cgroup", NOWHERE, "the guest has no cgroups to show", ""),
}
_OWN_DEV = "rw nosuid strictatime mode=755 size=65536k"
_NAMESPACES = frozenset("cgroup ipc mount network pid time user uts".split())
_MEASURED_ANNOTATIONS = (CPUS, MEMORY_MIB, WORKLOAD, INTEGRITY_ONLY, NO_HOST_SETTINGS, MANIFEST_IN)
_INIT = "/run/podman-init"
_SECRETS = "/run/secrets"
_DEFAULT_SYSCTLS = {"net.ipv4.ping_group_range": "0 0"}  # containers.conf of podman 4 and 5


# what the agent takes of a tmpfs's options: images/guest/agent/options.c
_TMPFS_DATA = ("size=", "mode=", "uid=", "gid=", "nr_inodes=", "nr_blocks=", "huge=")
_TMPFS_WORDS = frozenset(
    "ro rw nosuid suid nodev dev noexec exec noatime atime nodiratime diratime relatime strictatime sync async".split()
)
_SAYS_NOTHING = frozenset(
    "private rprivate slave rslave shared rshared unbindable runbindable defaults tmpcopyup notmpcopyup".split()
)


class _Mount(NamedTuple):
    destination: str
    type: str
    source: str
    options: tuple[str, ...]


def review_mounts(path: str, value: object) -> Iterator[Setting]:
    """Yield what becomes of each mount."""
    for entry in value if isinstance(value, list) else []:
        mount = _read_mount(entry)
        where, reason = _review_mount(mount)
        name = f"{path} {shorten(mount.destination)}"
        yield Setting(name, _shown_mount(mount), where, reason)
        lost = " ".join(_find_lost_options(mount)) if where == GUEST else ""
        if lost:
            yield Setting(f"{name} options", shorten(lost), NOWHERE, "the guest mounts it in its own way")


def _read_mount(entry: object) -> _Mount:
    fields = cast("dict[str, object]", entry) if isinstance(entry, dict) else {}
    options = fields.get("options")
    return _Mount(
        destination="/" + str(fields.get("destination") or "").strip("/"),
        type=str(fields.get("type") or ""),
        source=str(fields.get("source") or ""),
        options=tuple(str(option) for option in options) if isinstance(options, list) else (),
    )


def _find_lost_options(mount: _Mount) -> list[str]:
    """Return the options of a file system that the agent mounts by itself, and without them."""
    if mount.type in _KERNEL_MOUNTS:
        given = _KERNEL_MOUNTS[mount.type][3]
    elif mount.type == "tmpfs" and mount.destination == "/dev":
        given = _OWN_DEV
    else:
        return []
    return [word for word in mount.options if word not in given.split() and word not in _SAYS_NOTHING]


def _review_mount(mount: _Mount) -> tuple[str, str]:
    is_bind = mount.type == "bind" or "bind" in mount.options or "rbind" in mount.options
    if mount.type in _KERNEL_MOUNTS and not is_bind:
        destination, where, reason, _ = _KERNEL_MOUNTS[mount.type]
        if mount.destination == destination:
            return where, reason
        return REFUSED, f"a {mount.type} belongs at {destination}"
    if mount.type == "tmpfs" and not is_bind:
        return _review_tmpfs(mount)
    if is_bind:
        return _review_bind(mount)
    return REFUSED, f"file system type {mount.type or 'none'} is not one the guest can mount"


def _review_tmpfs(mount: _Mount) -> tuple[str, str]:
    if mount.destination == "/dev":
        return GUEST, _OWN
    unknown = [word for word in mount.options if not is_tmpfs_option(word) and word not in _SAYS_NOTHING]
    if unknown:
        return REFUSED, f"{shorten(unknown[0])} is not an option that a tmpfs of the guest has"
    if "tmpcopyup" in mount.options and "notmpcopyup" not in mount.options:
        return GUEST, "a tmpfs of the guest, empty: the image's files below it are not copied up"
    return GUEST, "a tmpfs of the guest, part of the manifest"


def is_tmpfs_option(word: str) -> bool:
    """Say whether a mount option means something to a tmpfs of the guest."""
    return word in _TMPFS_WORDS or word.startswith(_TMPFS_DATA)


def _review_bind(mount: _Mount) -> tuple[str, str]:
    known = _ENGINE_FILES.get(mount.destination)
    if known is not None and is_engine_file(mount.source, known[0]):
        return known[1], known[2]
    if mount.destination == _INIT:
        return REFUSED, "the agent is the guest's init already; run without --init"
    if mount.destination == _SECRETS or mount.destination.startswith(f"{_SECRETS}/"):
        return REFUSED, "a secret on the host's disk is not one; the attestation server releases secrets"
    if "/volumes/" in mount.source and mount.source.endswith("/_data"):
        return REFUSED, "volumes are not supported yet; for a VOLUME of the image use --image-volume tmpfs"
    return REFUSED, "files of the host are not shared with the guest yet; put them into the image"


def is_engine_file(source: str, name: str) -> bool:
    """Say whether a source is the file of this name that an engine made for one container.

    Engines keep them in a directory named by the container's ID: 64 hex digits.
    """
    parts = source.split("/")
    return parts[-1] == name and any(len(part) == _ID_LENGTH and _HEX.issuperset(part) for part in parts)


def _shown_mount(mount: _Mount) -> str:
    return shorten(f"{mount.type} from {mount.source}" if mount.source != mount.type else mount.type)


def review_namespaces(path: str, value: object) -> Iterator[Setting]:
    """Yield what becomes of each namespace."""
    seen: set[str] = set()
    for entry in value if isinstance(value, list) else []:
        fields = cast("dict[str, object]", entry) if isinstance(entry, dict) else {}
        kind, place = str(fields.get("type") or ""), str(fields.get("path") or "")
        name = f"{path} {shorten(kind)}"
        if kind not in _NAMESPACES:
            yield Setting(name, shorten(place or "new"), REFUSED, "Linux has no such namespace")
        elif kind in seen:
            yield Setting(name, shorten(place or "new"), REFUSED, "it is named twice")
        elif kind == "network":
            yield Setting(name, shorten(place or "new"), NOWHERE, "the guest has no network yet")
        elif kind == "user":
            yield Setting(name, shorten(place or "new"), REFUSED, "user namespaces are not supported yet")
        elif place:
            yield Setting(
                name, shorten(place), REFUSED, "a machine cannot share another container's namespace"
            )
        elif kind == "pid":
            yield Setting(name, "new", HOST, "the machine has one of its own, and the guest its own kernel")
        else:
            yield Setting(name, "new", GUEST, "the guest has a kernel of its own")
        seen.add(kind)


def review_annotations(path: str, value: object) -> Iterator[Setting]:
    """Yield what becomes of krunpy's annotations, one by one, and of all others together."""
    items = {str(name): item for name, item in value.items()} if isinstance(value, dict) else {}
    for name, item in items.items():
        if name.startswith(PREFIX):
            where = GUEST if name in _MEASURED_ANNOTATIONS else HOST
            yield Setting(
                f"{path} {shorten(name)}", shorten(str(item)), where, MEANINGS.get(name, "not known")
            )
    others = " ".join(name for name in items if not name.startswith(PREFIX))
    if others:
        yield Setting(path, shorten(others), HOST, "shown by `state` and handed to hooks")


def review_devices(path: str, value: object) -> Iterator[Setting]:
    """Yield the devices of the host that were asked for: all refused."""
    for entry in value if isinstance(value, list) else []:
        fields = cast("dict[str, object]", entry) if isinstance(entry, dict) else {}
        yield Setting(path, shorten(str(fields.get("path"))), REFUSED, "the guest sees no device of the host")


def review_sysctls(path: str, value: object) -> Iterator[Setting]:
    """Yield the kernel settings: an engine's own default does not matter, any other is refused."""
    for name, wanted in value.items() if isinstance(value, dict) else ():
        if _DEFAULT_SYSCTLS.get(name) == wanted:
            yield Setting(
                f"{path} {name}", shorten(str(wanted)), NOWHERE, "the engine's default; no network yet"
            )
        else:
            reason = "kernel settings of the guest are not supported yet"
            yield Setting(f"{path} {shorten(str(name))}", shorten(str(wanted)), REFUSED, reason)


def review_capability_set(path: str, value: object) -> Iterator[Setting]:
    """Yield what becomes of one of the five capability sets: the guest has one list."""
    names = [str(name) for name in value] if isinstance(value, list) else []
    shown = shorten(" ".join(names)) or "none"
    kind = path.rpartition(".")[2]
    if kind == "bounding":
        yield Setting(path, shown, GUEST, "part of the manifest, which is measured")
    elif kind in ("effective", "permitted"):
        yield Setting(path, shown, GUEST, "root gets the bounding set, another user none")
    elif names:
        yield Setting(path, shown, NOWHERE, "the guest has no inheritable and no ambient capabilities")
