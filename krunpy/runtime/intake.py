"""Judge what `create` was asked for, before anything is made: read config.json, refuse what cannot hold.

Nothing is written here. The launcher reads the same bytes again, from the container's directory.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from krunpy.core.errors import BundleError
from krunpy.oci.annotations import parse_annotations
from krunpy.oci.document import Field, load_document, parse_document
from krunpy.runtime.accepted import port_settings, require_accepted, review_config
from krunpy.runtime.executable import require_executable
from krunpy.runtime.hooks import Hook, parse_hooks
from krunpy.runtime.limits import cgroup_limits
from krunpy.runtime.ports import find_inherited_ports
from krunpy.runtime.setting import REFUSED, Setting

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

STAGES_OF_CREATE = ("prestart", "createRuntime")  # crun 1.8's order
STAGES_LATER = ("poststart", "poststop")
_OOM = 1000
_NOT_YET = "a terminal is not supported yet; run without -t"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What `create` was asked for.

    bundle:         absolute path of the directory with config.json; root.path is relative to it.
    config_file:    empty: config.json of the bundle.
    root:           where containers' states live.
    launcher:       argv of the launcher; the container's directory is added.
    cgroup_manager: "cgroupfs", "systemd" or "disabled".
    preserve_fds:   how many descriptors from 3 on the caller wants in the container.
    """

    container_id: str
    bundle: str
    root: str
    launcher: Sequence[str]
    environment: Mapping[str, str]
    config_file: str = ""
    pid_file: str = ""
    console_socket: str = ""
    cgroup_manager: str = "cgroupfs"
    preserve_fds: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Intake:
    """What of an accepted config.json concerns the host."""

    raw: bytes
    rootfs: str
    annotations: Mapping[str, str]
    cgroups_path: str
    limits: Mapping[str, str]
    oom_score_adj: int | None
    hooks: Mapping[str, Sequence[Hook]]
    later_hooks: Mapping[str, Any]


def take_in(request: Request) -> Intake:
    """Return what concerns the host of a request that can be run.

    Raises BundleError, naming every refused setting.
    """
    path = request.config_file or f"{request.bundle}/config.json"
    raw = load_document(path, "the bundle")
    top = parse_document(raw, "config.json")
    settings = [
        *review_config(top.value),
        *port_settings(find_inherited_ports()),
        *_option_settings(request),
    ]
    require_accepted(settings, request.container_id)
    annotations = top["annotations"].mapping()
    parse_annotations(annotations)
    hooks = top["hooks"].value or {}
    return Intake(
        raw=raw,
        rootfs=_require_process(request, top),
        annotations=annotations,
        cgroups_path=top["linux"]["cgroupsPath"].text(""),
        limits=cgroup_limits(top["linux"]["resources"].value or {}),
        oom_score_adj=top["process"]["oomScoreAdj"].optional_number(low=-_OOM, high=_OOM),
        hooks={stage: parse_hooks(hooks, stage) for stage in STAGES_OF_CREATE},
        later_hooks={stage: hooks[stage] for stage in STAGES_LATER if parse_hooks(hooks, stage)},
    )


def _require_process(request: Request, top: Field) -> str:
    """Return the root filesystem; refuse a process that could not be started. Raises BundleError."""
    version = top["ociVersion"].text()
    if not version.startswith("1."):
        raise BundleError("cannot read config.json", why=f'ociVersion: seen "{version[:40]}", wanted 1.x')
    rootfs = os.path.join(request.bundle, top["root"]["path"].text())
    process = top["process"]
    args, env, cwd = process["args"].texts(), process["env"].texts(), process["cwd"].text()
    if not args or not args[0]:
        process["args"].fail("a program and its arguments")
    if not cwd.startswith("/"):
        process["cwd"].fail("an absolute path")
    if not os.path.isdir(rootfs):
        raise BundleError("cannot use the bundle", why=f"root.path {rootfs} is not a directory")
    require_executable(rootfs, args, env, cwd)
    return rootfs


def _option_settings(request: Request) -> list[Setting]:
    settings = []
    if request.console_socket:
        settings.append(Setting("--console-socket", request.console_socket, REFUSED, _NOT_YET))
    if request.preserve_fds:
        reason = "descriptors of the host cannot reach the guest"
        settings.append(Setting("--preserve-fds", str(request.preserve_fds), REFUSED, reason))
    return settings
