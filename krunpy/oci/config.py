"""config.json of an OCI bundle as typed values: the part that krunpy uses, unknown keys ignored.

Everything here is the container engine's word, that is host data: what a guest believes of it is decided
elsewhere. Nothing here reads a file.

Source: OCI runtime specification 1.2 (config.md, config-linux.md).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from krunpy.oci.document import Field

ID_MAX = 0xFFFFFFFF
UINT64_MAX = (1 << 64) - 1
HOOK_NAMES = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """process.user. umask is None if the bundle says nothing."""

    uid: int = 0
    gid: int = 0
    additional_gids: tuple[int, ...] = ()
    umask: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rlimit:
    """One resource limit: type "RLIMIT_NOFILE", values 0 to 2^64-1."""

    type: str
    soft: int
    hard: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """The five capability sets, names such as "CAP_CHOWN"."""

    bounding: tuple[str, ...]
    effective: tuple[str, ...]
    inheritable: tuple[str, ...]
    permitted: tuple[str, ...]
    ambient: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """The workload's first process. console_size: (rows, columns); None where the bundle says nothing."""

    args: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str
    user: User
    terminal: bool
    console_size: tuple[int, int] | None
    capabilities: Capabilities | None
    no_new_privileges: bool
    rlimits: tuple[Rlimit, ...]
    oom_score_adj: int | None
    apparmor_profile: str
    selinux_label: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One entry of mounts."""

    destination: str
    type: str
    source: str
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Hook:
    """A program to run. timeout_s is None if it may take any time."""

    path: str
    args: tuple[str, ...]
    env: tuple[str, ...]
    timeout_s: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """The hooks of every stage, in their order."""

    prestart: tuple[Hook, ...] = ()
    create_runtime: tuple[Hook, ...] = ()
    create_container: tuple[Hook, ...] = ()
    start_container: tuple[Hook, ...] = ()
    poststart: tuple[Hook, ...] = ()
    poststop: tuple[Hook, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Namespace:
    """A namespace of the container: type "network", "pid", ...; path "" if it is to be made."""

    type: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device node that the engine asks for: type "c", "b", "u" or "p"."""

    type: str
    path: str
    major: int
    minor: int
    mode: int | None
    uid: int
    gid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """The cgroup limits that mean something for a virtual machine. None: no limit was set.

    memory_limit and memory_swap in bytes (-1: none), cpu_quota and cpu_period in microseconds.
    """

    memory_limit: int | None = None
    memory_swap: int | None = None
    cpu_quota: int | None = None
    cpu_period: int | None = None
    cpu_shares: int | None = None
    cpus: str = ""
    pids_limit: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Linux:
    """The linux section."""

    namespaces: tuple[Namespace, ...] = ()
    resources: Resources = field(default_factory=Resources)
    cgroups_path: str = ""
    masked_paths: tuple[str, ...] = ()
    readonly_paths: tuple[str, ...] = ()
    has_seccomp: bool = False
    has_id_mappings: bool = False
    devices: tuple[Device, ...] = ()
    sysctl: Mapping[str, str] = field(default_factory=dict)
    rootfs_propagation: str = ""
    mount_label: str = ""

    def find_namespace(self, kind: str) -> Namespace | None:
        """Return the namespace of a type, or None if the container shares the host's."""
        return next((each for each in self.namespaces if each.type == kind), None)


def parse_process(root: Field) -> Process | None:
    """Return the process section; None if there is none, as the specification allows until `start`."""
    if not root:
        return None
    root.require(dict, "an object")
    size = root["consoleSize"]
    cwd = root["cwd"].text()
    if not cwd.startswith("/"):
        root["cwd"].fail("an absolute path")
    args = root["args"].texts()
    if not args:
        root["args"].fail("at least the program")
    return Process(
        args=args,
        env=root["env"].texts(),
        cwd=cwd,
        user=_parse_user(root["user"]),
        terminal=root["terminal"].flag(),
        console_size=(_side(size["height"]), _side(size["width"])) if size else None,
        capabilities=_parse_capabilities(root["capabilities"]),
        no_new_privileges=root["noNewPrivileges"].flag(),
        rlimits=tuple(_parse_rlimit(each) for each in root["rlimits"].items()),
        oom_score_adj=root["oomScoreAdj"].optional_number(low=-1000, high=1000),
        apparmor_profile=root["apparmorProfile"].text(""),
        selinux_label=root["selinuxLabel"].text(""),
    )


def _side(side: Field) -> int:
    return side.number(0, high=0xFFFF)


def _parse_user(root: Field) -> User:
    return User(
        uid=root["uid"].number(0, high=ID_MAX),
        gid=root["gid"].number(0, high=ID_MAX),
        additional_gids=tuple(each.number(high=ID_MAX) for each in root["additionalGids"].items()),
        umask=root["umask"].optional_number(high=0o7777),
    )


def _parse_capabilities(root: Field) -> Capabilities | None:
    if not root:
        return None
    return Capabilities(
        bounding=root["bounding"].texts(),
        effective=root["effective"].texts(),
        inheritable=root["inheritable"].texts(),
        permitted=root["permitted"].texts(),
        ambient=root["ambient"].texts(),
    )


def _parse_rlimit(root: Field) -> Rlimit:
    return Rlimit(
        type=root["type"].text(),
        soft=root["soft"].number(high=UINT64_MAX),
        hard=root["hard"].number(high=UINT64_MAX),
    )


def parse_mount(root: Field) -> Mount:
    """Return one entry of mounts."""
    destination = root["destination"].text()
    if not destination.startswith("/"):
        destination = (
            "/" + destination
        )  # old engines leave it out; the specification lets runtimes read it so
    return Mount(
        destination=destination,
        type=root["type"].text(""),
        source=root["source"].text(""),
        options=root["options"].texts(),
    )


def parse_hooks(root: Field) -> Hooks:
    """Return the hooks of all stages."""
    prestart, runtime, container, start, poststart, poststop = (
        tuple(_parse_hook(each) for each in root[name].items()) for name in HOOK_NAMES
    )
    return Hooks(
        prestart=prestart,
        create_runtime=runtime,
        create_container=container,
        start_container=start,
        poststart=poststart,
        poststop=poststop,
    )


def _parse_hook(root: Field) -> Hook:
    path = root["path"].text()
    if not path.startswith("/"):
        root["path"].fail("an absolute path")
    return Hook(
        path=path,
        args=root["args"].texts(),
        env=root["env"].texts(),
        timeout_s=root["timeout"].optional_number(low=1, high=0x7FFFFFFF),
    )


def parse_linux(root: Field) -> Linux:
    """Return the linux section; its defaults if there is none."""
    return Linux(
        namespaces=tuple(_parse_namespace(each) for each in root["namespaces"].items()),
        resources=_parse_resources(root["resources"]),
        cgroups_path=root["cgroupsPath"].text(""),
        masked_paths=root["maskedPaths"].texts(),
        readonly_paths=root["readonlyPaths"].texts(),
        has_seccomp=bool(root["seccomp"]),
        has_id_mappings=bool(root["uidMappings"].value or root["gidMappings"].value),
        devices=tuple(_parse_device(each) for each in root["devices"].items()),
        sysctl=root["sysctl"].mapping(),
        rootfs_propagation=root["rootfsPropagation"].text(""),
        mount_label=root["mountLabel"].text(""),
    )


def _parse_namespace(root: Field) -> Namespace:
    path = root["path"].text("")
    if path and not path.startswith("/"):
        root["path"].fail("an absolute path")
    return Namespace(type=root["type"].text(), path=path)


def _parse_resources(root: Field) -> Resources:
    memory, cpu = root["memory"], root["cpu"]
    return Resources(
        memory_limit=memory["limit"].optional_number(low=-1),
        memory_swap=memory["swap"].optional_number(low=-1),
        cpu_quota=cpu["quota"].optional_number(low=-1),
        cpu_period=cpu["period"].optional_number(high=UINT64_MAX),
        cpu_shares=cpu["shares"].optional_number(high=UINT64_MAX),
        cpus=cpu["cpus"].text(""),
        pids_limit=root["pids"]["limit"].optional_number(low=-1),
    )


def _parse_device(root: Field) -> Device:
    return Device(
        type=root["type"].text(),
        path=root["path"].text(),
        major=root["major"].number(0, low=-1),
        minor=root["minor"].number(0, low=-1),
        mode=root["fileMode"].optional_number(high=0o177777),
        uid=root["uid"].number(0, high=ID_MAX),
        gid=root["gid"].number(0, high=ID_MAX),
    )
