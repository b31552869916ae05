"""From a source and what the user adds to it to a bundle's config.json: how `krunpy run` meets the OCI path.

The generated bundle has an empty root directory; the annotation names the source that the launcher converts.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from krunpy.core.errors import BundleError, UsageError
from krunpy.image.rootfs_user import resolve_user
from krunpy.image.source import IMAGE_PREFIX, find_kind, open_source
from krunpy.oci import annotations as names
from krunpy.oci.document import load_document

if TYPE_CHECKING:
    from krunpy.image.tree import Source
    from krunpy.oci.manifest import ImageConfig

_MOST_DIGITS = 10  # of 2^32
PATH_ENV = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# what podman gives a container
_CAPABILITIES = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_SETFCAP",
    "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
)  # fmt: skip
_MASKED = (
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/sys/firmware",
)
_READONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a user asks for on top of a source. Empty values: as the image says, or the default."""

    source: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    cwd: str = ""
    user: str = ""
    entrypoint: str = ""
    hostname: str = ""
    tmpfs: tuple[str, ...] = ()
    read_only: bool = False
    integrity_only: bool = False
    no_host_settings: bool = False
    manifest_in: str = ""
    memory_mib: int = 0
    cpus: int = 0
    workload: str = ""
    tamper: str = ""


def make_config(plan: Plan, stored: ImageConfig | None = None) -> dict[str, object]:
    """Return the config.json of a plan.

    stored: the configuration of the image in the cache, where the source is image:ID.

    Raises UsageError if nothing says what to run, BundleError if the source is not what it should be.
    """
    if plan.hostname and plan.no_host_settings:
        raise UsageError(
            "cannot use --hostname with --no-host-settings", why="the host would set it", next="leave one out"
        )
    config = _load_bundle_config(plan) if _is_bundle(plan.source) else _make_image_config(plan, stored)
    given = config.get("annotations")
    annotations = dict(cast("dict[str, str]", given)) if isinstance(given, dict) else {}
    names.require_no_own(annotations)
    names.require_trusted(annotations, (), next="run the bundle with --workload or --integrity-only instead")
    config["annotations"] = annotations | _make_annotations(plan)
    return config


def make_image_config(
    plan: Plan, image: ImageConfig, user: tuple[int, int, tuple[int, ...]]
) -> dict[str, object]:
    """Return the config.json of a plan for an image in the cache.

    user: as `find_user` returned it for the image's source, which is not opened again.

    Raises UsageError if nothing says what to run.
    """
    config = _describe(plan, image, _describe_user(*user))
    config["annotations"] = _make_annotations(plan)
    return config


def find_user(user: str, source: Source | None) -> tuple[int, int, tuple[int, ...]]:
    """Return uid, gid and additional gids of USER[:GROUP]; names are those of the source, if there is one.

    Raises UsageError or BundleError if a name is not known.
    """
    if source is None or not user or all(_is_number(part) for part in user.split(":")):
        return _parse_numeric_user(user or "0")
    return resolve_user(source, user)


def write_bundle(directory: str, config: dict[str, object]) -> None:
    """Write config.json into a directory that exists, and an empty root file system if it names none."""
    os.makedirs(os.path.join(directory, "rootfs"), exist_ok=True)
    with open(os.path.join(directory, "config.json"), "w", encoding="utf-8") as stream:
        json.dump(config, stream)


def describe_source(source: str) -> str:
    """Return a source with its path absolute, as the launcher will open it from elsewhere."""
    prefix, colon, rest = source.partition(":")
    if os.path.exists(source):
        return os.path.abspath(source)
    return f"{prefix}:{os.path.abspath(rest)}" if colon and os.path.exists(rest) else source


def _is_bundle(source: str) -> bool:
    prefix, colon, _ = source.partition(":")
    if colon and prefix in ("image", "containers-storage", "dir", "oci", "oci-archive", "docker-archive"):
        return False
    return prefix == "bundle" or (os.path.exists(source) and find_kind(source) == "bundle")


def _load_bundle_config(plan: Plan) -> dict[str, object]:
    path = plan.source.removeprefix("bundle:")
    try:
        config = json.loads(load_document(os.path.join(path, "config.json"), "config.json"))
    except (ValueError, RecursionError) as error:
        raise BundleError(f"cannot use bundle {path}", why="config.json is not JSON") from error
    process = config.get("process") if isinstance(config, dict) else None
    if not isinstance(process, dict):
        raise BundleError(f"cannot use bundle {path}", why="config.json has no process")
    root = config.get("root")
    if isinstance(root, dict) and isinstance(root.get("path"), str):
        root["path"] = os.path.abspath(os.path.join(path, root["path"]))
    if plan.args:
        process["args"] = list(plan.args)
    if plan.env:
        process["env"] = merge_env(tuple(str(item) for item in process.get("env") or ()), plan.env)
    if plan.cwd:
        process["cwd"] = plan.cwd
    if plan.user:
        process["user"] = _describe_user(*_parse_numeric_user(plan.user))
    return cast("dict[str, object]", config)


def _make_image_config(plan: Plan, stored: ImageConfig | None) -> dict[str, object]:
    with_image = None if plan.source.startswith(IMAGE_PREFIX) else open_source(plan.source)
    try:
        image = with_image.config if with_image else stored
        user = find_user(plan.user or (image.user if image else ""), with_image)
        return _describe(plan, image, _describe_user(*user))
    finally:
        if with_image is not None:
            with_image.close()


def _describe_user(uid: int, gid: int, groups: tuple[int, ...]) -> dict[str, object]:
    return {"uid": uid, "gid": gid, "additionalGids": list(groups)}


def _parse_numeric_user(user: str) -> tuple[int, int, tuple[int, ...]]:
    uid, _, gid = user.partition(":")
    if not _is_number(uid) or not _is_number(gid or "0"):
        raise UsageError(
            f'cannot use user "{user[:80]}"',
            why="names need an image's /etc/passwd: wanted UID or UID:GID",
            next="give it: --user UID:GID",
        )
    return int(uid), int(gid or 0), ()


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS


def _describe(plan: Plan, image: ImageConfig | None, user: dict[str, object]) -> dict[str, object]:
    entrypoint = (plan.entrypoint,) if plan.entrypoint else (image.entrypoint if image else ())
    arguments = plan.args or (image.cmd if image and not plan.entrypoint else ())
    args = [*entrypoint, *arguments]
    if not args:
        raise UsageError(
            f"cannot run {plan.source}", why="neither the image nor the command line says what to run",
            next=f"krunpy run {plan.source} -- COMMAND",
        )  # fmt: skip
    env = merge_env((PATH_ENV, *(image.env if image else ())), plan.env)
    return {
        "ociVersion": "1.2.0",
        "process": {
            "args": args,
            "env": env,
            "cwd": plan.cwd or (image.cwd if image else "") or "/",
            "user": user,
            "capabilities": {name: list(_CAPABILITIES) for name in ("bounding", "effective", "permitted")},
        },
        "root": {"path": "rootfs", "readonly": plan.read_only},
        "hostname": plan.hostname,
        "mounts": [_make_tmpfs(text) for text in plan.tmpfs],
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")],
            "maskedPaths": list(_MASKED),
            "readonlyPaths": list(_READONLY),
        },
    }


def _make_tmpfs(text: str) -> dict[str, object]:
    path, _, options = text.partition(":")
    if not path.startswith("/"):
        raise UsageError(f'cannot mount tmpfs "{text}"', why="wanted /PATH[:OPTIONS]")
    return {
        "destination": path,
        "type": "tmpfs",
        "source": "tmpfs",
        "options": [w for w in options.split(",") if w],
    }


def merge_env(first: tuple[str, ...], second: tuple[str, ...]) -> list[str]:
    """Return NAME=VALUE items, the later ones in place of earlier ones of the same name."""
    merged: dict[str, str] = {}
    for item in (*first, *second):
        name, equals, value = item.partition("=")
        if not equals or not name:
            raise UsageError(f'cannot set "{item[:40]}"', why="wanted NAME=VALUE")
        merged[name] = value
    return [f"{name}={value}" for name, value in merged.items()]


def _make_annotations(plan: Plan) -> dict[str, str]:
    wanted = {
        names.SOURCE: "" if _is_bundle(plan.source) else describe_source(plan.source),
        names.INTEGRITY_ONLY: "true" if plan.integrity_only else "",
        names.NO_HOST_SETTINGS: "true" if plan.no_host_settings else "",
        names.MANIFEST_IN: plan.manifest_in,
        names.MEMORY_MIB: str(plan.memory_mib or ""),
        names.CPUS: str(plan.cpus or ""),
        names.WORKLOAD: plan.workload,
        names.TAMPER: plan.tamper,
    }
    return {name: value for name, value in wanted.items() if value}
