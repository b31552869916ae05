"""Judge what `create` was asked for, before anything is made: read config.json, refuse what cannot hold.

Nothing is written here. The launcher reads the same bytes again, from the container's directory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from krunpy.core.errors import BundleError
from krunpy.formats.names import CAPABILITIES, RLIMITS
from krunpy.oci.annotations import (
    WORKLOAD,
    find_untrusted,
    parse_annotations,
    parse_trust,
    require_no_own,
    require_trusted,
)
from krunpy.oci.bundle import Bundle, parse_bundle
from krunpy.oci.document import load_document, parse_document
from krunpy.runtime.accepted import port_settings, require_accepted, review_config
from krunpy.runtime.executable import require_executable
from krunpy.runtime.limits import cgroup_limits
from krunpy.runtime.ports import find_inherited_ports
from krunpy.runtime.setting import REFUSED, Setting

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from krunpy.core.settings import Settings
    from krunpy.oci.config import Process

STAGES_LATER = ("poststart", "poststop")
_NOT_YET = "a terminal is not supported yet; run without -t"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What `create` was asked for.

    bundle:         absolute path of the directory with config.json; root.path is relative to it.
    config_file:    empty: config.json of the bundle.
    root:           where containers' states live.
    launcher:       what the launcher's process runs, given the container's directory; returns its exit status.
    cgroup_manager: "cgroupfs", "systemd" or "disabled".
    preserve_fds:   how many descriptors from 3 on the caller wants in the container.
    is_own_bundle:  krunpy made the bundle: its annotations may name a source.
    """

    container_id: str
    bundle: str
    root: str
    launcher: Callable[[str], int]
    environment: Mapping[str, str]
    config_file: str = ""
    pid_file: str = ""
    console_socket: str = ""
    cgroup_manager: str = "cgroupfs"
    preserve_fds: int = 0
    is_own_bundle: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Intake:
    """An accepted bundle, its config.json byte for byte, and what of it concerns the host."""

    raw: bytes
    bundle: Bundle
    cgroup_limits: Mapping[str, Mapping[str, str]]  # as `limits.cgroup_limits` makes them
    oom_score_adj: int | None
    later_hooks: Mapping[str, object]  # as config.json has them, for `start` and `delete`


def take_in(request: Request) -> Intake:
    """Return a bundle that can be run.

    Raises BundleError, which names every refused setting.
    """
    path = request.config_file or f"{request.bundle}/config.json"
    raw = load_document(path, "config.json")
    top = parse_document(raw, "config.json")
    settings = [
        *review_config(top.value),
        *port_settings(find_inherited_ports()),
        *_option_settings(request),
    ]
    require_accepted(settings, request.container_id)
    bundle = parse_bundle(raw, request.bundle)
    if not request.is_own_bundle:
        require_no_own(bundle.annotations)
        require_engine_annotations(bundle.annotations, lambda: _load_settings(request))
    wishes = parse_annotations(bundle.annotations)
    process = bundle.process
    if process is None:
        raise BundleError("cannot read config.json", why="process is missing")
    _require_known(process)
    if wishes.source is None:
        require_executable(bundle.root, process.args, process.env, process.cwd)
    hooks = top["hooks"]
    return Intake(
        raw=raw,
        bundle=bundle,
        cgroup_limits=cgroup_limits(top["linux"]["resources"].value or {}),
        oom_score_adj=process.oom_score_adj,
        later_hooks={stage: hooks[stage].value for stage in STAGES_LATER if hooks[stage].value},
    )


def _load_settings(request: Request) -> Settings:
    from krunpy.core.settings import load_settings  # hardly any `create` needs them

    return load_settings(request.environment)


def require_engine_annotations(annotations: Mapping[str, object], load: Callable[[], Settings]) -> None:
    """Refuse annotations of an engine that weaken or rename a workload, unless the settings leave them to engines.

    Where nobody can register, a name is no more than a question: the server knows the manifest that belongs to it.

    load: reads the settings; only called if there is such an annotation. Raises BundleError, or as it does.
    """
    if not find_untrusted(annotations):
        return
    settings = load()
    trusted = set(parse_trust(settings.engine_annotations))
    if settings.server_url and not settings.token_file:
        trusted.add(WORKLOAD)
    require_trusted(annotations, trusted, next="name it in the setting engine_annotations of krunpy.toml")


def _require_known(process: Process) -> None:
    """Refuse what no manifest can hold, here and not when the container is started."""
    wrong = [f"process.env: {item[:40]!r} is not NAME=VALUE" for item in process.env if item.find("=") < 1]
    wrong += [
        f"process.rlimits: unknown type {item.type!r}" for item in process.rlimits if item.type not in RLIMITS
    ]
    named = process.capabilities.bounding if process.capabilities else ()
    wrong += [f"process.capabilities: unknown {name!r}" for name in named if name not in CAPABILITIES]
    if not process.args or not process.args[0]:
        wrong.append("process.args: there is no command")
    if wrong:
        raise BundleError("cannot use config.json", why="; ".join(wrong[:8])[:400])


def _option_settings(request: Request) -> list[Setting]:
    settings = []
    if request.console_socket:
        settings.append(Setting("--console-socket", request.console_socket, REFUSED, _NOT_YET))
    if request.preserve_fds:
        reason = "descriptors of the host cannot reach the guest"
        settings.append(Setting("--preserve-fds", str(request.preserve_fds), REFUSED, reason))
    return settings
