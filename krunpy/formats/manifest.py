"""The manifest: the one document that says what a workload is. Its bytes are measured.

This module builds and reads it; it does not decide what belongs in it. Source: docs/protocol.md section 1.
"""

from __future__ import annotations

import hashlib
import itertools
import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from krunpy.core.errors import FormatError
from krunpy.core.octets import Digest32, Digest48, HostData, PublicKey32
from krunpy.formats.canonical import encode_canonical, parse_canonical
from krunpy.formats.disk import describe_disk, parse_disk
from krunpy.formats.names import CAPABILITIES, RLIMITS
from krunpy.formats.narrow import Fields

if TYPE_CHECKING:
    from krunpy.formats.canonical import Json
    from krunpy.formats.disk import Disk

MAX_MANIFEST = 256 * 1024  # bytes
MAX_ITEMS = 4096
MAX_HOSTNAME = 64  # bytes
MAX_VOLUMES = 8
MAX_PATH = 4095  # bytes
TEES = ("software", "snp", "tdx")
_WORKLOAD_ID = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_SYSTEM = ("proc", "sys", "dev")  # what the agent mounts by itself
_U32 = 2**32 - 1
_U64 = 2**64 - 1


class ManifestIn(StrEnum):
    """What binds a manifest to its machine.

    INITRD:    it lies in the measured initrd, so the launch digest names the workload.
    HOST_DATA: the initrd is the same for a class of workloads; HOST_DATA or MRCONFIGID names the manifest.
    """

    INITRD = "initrd"
    HOST_DATA = "host_data"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rlimit:
    """One resource limit: "RLIMIT_NOFILE", soft and hard value (2^64-1: unlimited)."""

    type: str
    soft: int
    hard: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """The workload's first process."""

    args: tuple[str, ...]
    env: tuple[str, ...] = ()
    cwd: str = "/"
    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    umask: int = 0o022
    no_new_privileges: bool = False
    capabilities: tuple[str, ...] = ()
    rlimits: tuple[Rlimit, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TmpfsMount:
    """A tmpfs inside the guest: absolute path, mount options."""

    path: str
    options: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Overrides:
    """What the host may set at run time: nothing unless the owner says so.

    volumes: where the host may mount directories of its own. What lies in them is the host's: read as from a stranger.
    """

    args: bool = False
    env: tuple[str, ...] = ()
    etc: bool = False  # /etc/hosts, /etc/resolv.conf and /etc/hostname
    hostname: bool = False
    volumes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerIdentity:
    """The attestation server: its URL and the Ed25519 key that signs what it releases."""

    url: str
    key: PublicKey32


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Everything that is measured about a workload. Holds no secret."""

    workload: str
    disk: Disk
    process: Process
    server: ServerIdentity
    tees: tuple[str, ...]
    hostname: str = ""
    masked_paths: tuple[str, ...] = ()
    readonly_paths: tuple[str, ...] = ()
    readonly_root: bool = False
    mounts: tuple[TmpfsMount, ...] = ()
    overrides: Overrides = Overrides()


def hash_manifest(data: bytes) -> Digest32:
    """Return the manifest hash: SHA-256 of the exact manifest bytes."""
    return Digest32(hashlib.sha256(data).digest())


def make_host_data(manifest_hash: Digest32) -> HostData:
    """Return the HOST_DATA that names a manifest: SEV-SNP and the software TEE."""
    return HostData(manifest_hash)


def make_mrconfigid(manifest_hash: Digest32) -> Digest48:
    """Return the MRCONFIGID that names a manifest: its hash, then zeros. TDX."""
    return Digest48(manifest_hash.ljust(Digest48.size, b"\0"))


def require_workload_id(text: str) -> str:
    """Return the text if it can name a workload, else raise FormatError."""
    if not _WORKLOAD_ID.fullmatch(text):
        raise FormatError(
            "cannot use the workload id",
            why=f'seen "{text[:80]}", wanted 1 to 63 of [a-z0-9._-], first a letter or digit',
        )
    return text


def require_volumes(paths: tuple[str, ...]) -> tuple[str, ...]:
    """Return the paths if they can be `Overrides.volumes`: in the one form, in order, none below another.

    Raises FormatError.
    """
    for path in paths:
        parts = path.split("/")
        if parts[0] or not all(parts[1:]) or {".", ".."} & set(parts) or parts[1] in _SYSTEM or "\0" in path:
            raise FormatError(
                "cannot use the path of a volume",
                why=f'seen "{path[:80]}", wanted /DIRECTORY..., no "//", "." or "..", not below {", ".join(_SYSTEM)}',
            )
        if len(path.encode(errors="replace")) > MAX_PATH:
            raise FormatError("cannot use the path of a volume", why=f"it is longer than {MAX_PATH} bytes")
    for path, following in itertools.pairwise(paths):
        if following <= path:
            raise FormatError(
                "cannot use the paths of volumes", why=f"{following[:80]} is there twice, or out of order"
            )
    for path in paths:
        if any(other.startswith(f"{path}/") for other in paths):
            raise FormatError(
                "cannot use the paths of volumes", why=f"{path[:80]} has another volume below it"
            )
    if len(paths) > MAX_VOLUMES:
        raise FormatError("cannot use the paths of volumes", why=f"there are more than {MAX_VOLUMES}")
    return paths


def encode_manifest(manifest: Manifest) -> bytes:
    """Return the canonical bytes of a manifest.

    Raises FormatError if a value cannot stand in a manifest, or the whole is over MAX_MANIFEST.
    """
    process = manifest.process
    document: Json = {
        "disk": describe_disk(manifest.disk),
        "hostname": manifest.hostname,
        "masked_paths": list(manifest.masked_paths),
        "mounts": [{"options": mount.options, "path": mount.path} for mount in manifest.mounts],
        "overrides": {
            "args": manifest.overrides.args,
            "env": list(manifest.overrides.env),
            "etc": manifest.overrides.etc,
            "hostname": manifest.overrides.hostname,
            **({"volumes": list(manifest.overrides.volumes)} if manifest.overrides.volumes else {}),
        },
        "process": {
            "args": list(process.args),
            "capabilities": list(process.capabilities),
            "cwd": process.cwd,
            "env": list(process.env),
            "gid": process.gid,
            "groups": list(process.groups),
            "no_new_privileges": process.no_new_privileges,
            "rlimits": [
                {"hard": item.hard, "soft": item.soft, "type": item.type} for item in process.rlimits
            ],
            "uid": process.uid,
            "umask": process.umask,
        },
        "readonly_paths": list(manifest.readonly_paths),
        "readonly_root": manifest.readonly_root,
        "server": {"key": manifest.server.key.hex(), "url": manifest.server.url},
        "tees": list(manifest.tees),
        "version": 1,
        "workload": manifest.workload,
    }
    data = encode_canonical(document)
    parse_manifest(data)
    return data


def parse_manifest(data: bytes) -> Manifest:
    """Return the manifest that canonical bytes stand for.

    Raises FormatError on any other bytes: not canonical, unknown or missing members, values out of range.
    """
    top = Fields(parse_canonical(data, limit=MAX_MANIFEST), "manifest")
    top.take_integer("version", minimum=1, maximum=1)
    manifest = Manifest(
        workload=require_workload_id(top.take_string("workload")),
        disk=parse_disk(top.take_fields("disk")),
        process=_parse_process(top.take_fields("process")),
        server=_parse_server(top.take_fields("server")),
        tees=_parse_tees(top),
        hostname=top.take_string("hostname"),
        masked_paths=_parse_paths(top, "masked_paths"),
        readonly_paths=_parse_paths(top, "readonly_paths"),
        readonly_root=top.take_bool("readonly_root"),
        mounts=tuple(_parse_mount(item) for item in top.take_objects("mounts", limit=64)),
        overrides=_parse_overrides(top.take_fields("overrides")),
    )
    top.require_no_more()
    _require_plain_texts(manifest)
    return manifest


def _require_plain_texts(manifest: Manifest) -> None:
    if len(manifest.hostname.encode()) > MAX_HOSTNAME:
        raise FormatError("cannot read manifest.hostname", why=f"it is longer than {MAX_HOSTNAME} bytes")
    texts = (
        manifest.hostname,
        manifest.server.url,
        *manifest.overrides.env,
        *(m.options for m in manifest.mounts),
    )
    if any("\0" in text for text in texts):
        raise FormatError("cannot read the manifest", why="a string holds a NUL character")


def _parse_process(fields: Fields) -> Process:
    process = Process(
        args=fields.take_strings("args", limit=MAX_ITEMS),
        capabilities=fields.take_strings("capabilities", limit=64),
        cwd=_require_path(fields.take_string("cwd"), "manifest.process.cwd"),
        env=fields.take_strings("env", limit=MAX_ITEMS),
        gid=fields.take_integer("gid", maximum=_U32 - 1),
        groups=fields.take_integers("groups", limit=1024, maximum=_U32 - 1),
        no_new_privileges=fields.take_bool("no_new_privileges"),
        rlimits=tuple(_parse_rlimit(item) for item in fields.take_objects("rlimits", limit=16)),
        uid=fields.take_integer("uid", maximum=_U32 - 1),
        umask=fields.take_integer("umask", maximum=0o777),
    )
    fields.require_no_more()
    unknown = set(process.capabilities) - CAPABILITIES
    unknown |= {item.type for item in process.rlimits} - RLIMITS
    if unknown:
        raise FormatError(
            "cannot read manifest.process", why=f"unknown names: {', '.join(sorted(unknown))[:200]}"
        )
    if not process.args or not process.args[0]:
        raise FormatError("cannot read manifest.process.args", why="there is no command")
    for text in (*process.args, *process.env):
        if "\0" in text:
            raise FormatError("cannot read manifest.process", why="a string holds a NUL character")
    if any("=" not in text or text.startswith("=") for text in process.env):
        raise FormatError("cannot read manifest.process.env", why="an item is not NAME=VALUE")
    return process


def _parse_rlimit(fields: Fields) -> Rlimit:
    item = Rlimit(
        type=fields.take_string("type"),
        soft=fields.take_integer("soft", maximum=_U64),
        hard=fields.take_integer("hard", maximum=_U64),
    )
    fields.require_no_more()
    return item


def _parse_mount(fields: Fields) -> TmpfsMount:
    item = TmpfsMount(
        path=_require_path(fields.take_string("path"), "manifest.mounts"),
        options=fields.take_string("options"),
    )
    fields.require_no_more()
    return item


def _parse_overrides(fields: Fields) -> Overrides:
    item = Overrides(
        args=fields.take_bool("args"),
        env=fields.take_strings("env", limit=256),
        etc=fields.take_bool("etc"),
        hostname=fields.take_bool("hostname"),
        volumes=_parse_volumes(fields),
    )
    fields.require_no_more()
    return item


def _parse_volumes(fields: Fields) -> tuple[str, ...]:
    """Return the volumes; without any the member is not there, so that a manifest has one form."""
    if not fields.has("volumes"):
        return ()
    paths = fields.take_strings("volumes", limit=MAX_VOLUMES)
    if not paths:
        raise FormatError(
            "cannot read manifest.overrides.volumes", why="it is empty: without volumes it is left out"
        )
    return require_volumes(paths)


def _parse_server(fields: Fields) -> ServerIdentity:
    item = ServerIdentity(url=fields.take_string("url"), key=PublicKey32(fields.take_hex("key", 32)))
    fields.require_no_more()
    return item


def _parse_tees(fields: Fields) -> tuple[str, ...]:
    tees = fields.take_strings("tees", limit=len(TEES))
    if not tees or any(tee not in TEES for tee in tees):
        raise FormatError("cannot read manifest.tees", why=f"wanted some of {', '.join(TEES)}")
    return tees


def _parse_paths(fields: Fields, name: str) -> tuple[str, ...]:
    return tuple(_require_path(text, f"manifest.{name}") for text in fields.take_strings(name, limit=256))


def _require_path(text: str, where: str) -> str:
    if not text.startswith("/") or "\0" in text or ".." in text.split("/"):
        raise FormatError(f"cannot read {where}", why=f'"{text[:80]}" is not an absolute path without ".."')
    return text
