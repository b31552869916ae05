"""`krunpy inspect ID`: what became of every setting that the engine gave, and what runs."""

from __future__ import annotations

import json as jsonlib
from typing import Annotated, cast

import typer

from krunpy.cli.context import globals_of
from krunpy.cli.render import format_size, print_json, print_table
from krunpy.core.errors import FormatError, HostError, StateError
from krunpy.runtime import container as files
from krunpy.runtime.accepted import review_config
from krunpy.runtime.container import load_container, load_containers
from krunpy.runtime.host import list_processes
from krunpy.runtime.setting import NOWHERE
from krunpy.tee.detect import TeeKind
from krunpy.vmm.net import list_interfaces

_LIMIT = 4 * 1024 * 1024  # bytes


def inspect(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="ID", help="Container ID, or the beginning of one.")],
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say for each setting of a container whether it holds in the guest, on the host only, or not at all."""
    container = _find(globals_of(context).state_root, name)
    config = _load_object(container, files.CONFIG)
    lost = container.load_bytes(files.NO_LIMITS, _LIMIT).decode(errors="replace").splitlines()
    settings = [
        each._replace(where=NOWHERE, reason="the engine wants no cgroup") if each.name in lost else each
        for each in review_config(config)
    ]
    pid = container.record.pid if container.record else 0
    processes = list_processes(pid) if container.status() in ("created", "running") else []
    interfaces = _interfaces(config)
    facts = {
        "id": container.id,
        "status": container.status(),
        "tee": container.load_bytes(files.TEE, _LIMIT).decode(errors="replace"),
        "vmm": container.load_bytes(files.VMM, _LIMIT).decode(errors="replace"),
        "settings": [setting._asdict() for setting in settings],
        "host_interfaces": interfaces,
        "processes": [
            {"pid": item.pid, "program": item.program, "resident": item.resident} for item in processes
        ],
        "timings": _load_object(container, files.TIMINGS),
        "failure": _load_object(container, files.FAILURE) or None,
    }
    if json:
        print_json("container", facts)
        return
    words = ("container", container.id, container.status(), _describe_tee(str(facts["tee"])), facts["vmm"])
    print("  ".join(str(word) for word in words if word))
    rows = [[setting.where, setting.name, setting.value[:48], setting.reason] for setting in settings]
    print_table(["holds", "setting", "value", "reason"], sorted(rows))
    for item in interfaces:
        print(f"host only: interface {item['name']} {' '.join(cast('list[str]', item['addresses']))}")
    print_table(
        ["pid", "program", "memory"], [[str(p.pid), p.program, format_size(p.resident)] for p in processes]
    )


def _describe_tee(tee: str) -> str:
    return f"{tee} TEE, NOT CONFIDENTIAL" if tee == TeeKind.SOFTWARE else tee


def _load_object(container: files.Container, name: str) -> dict[str, object]:
    """Return a JSON object of a container, empty if there is none. Raises FormatError."""
    raw = container.load_bytes(name, _LIMIT)
    try:
        value = jsonlib.loads(raw) if raw else {}
    except (ValueError, RecursionError) as error:
        raise _damaged(container, name, "is not JSON") from error
    if not isinstance(value, dict):
        raise _damaged(container, name, "is not an object")
    return value


def _damaged(container: files.Container, name: str, why: str) -> FormatError:
    return FormatError(
        f"cannot inspect container {container.id}",
        why=f"{container.path(name)} {why}",
        next=f"krunpy delete --force {container.id}",
    )


def _find(root: str, name: str) -> files.Container:
    matches = [item for item in load_containers(root) if item.id.startswith(name)]
    exact = [item for item in matches if item.id == name]
    if len(exact or matches) > 1:
        raise StateError(f"cannot choose container {name}", why=f"{len(matches)} begin with this")
    return (exact or matches)[0] if matches else load_container(root, name)


def _interfaces(config: dict[str, object]) -> list[dict[str, object]]:
    linux = config.get("linux")
    namespaces = linux.get("namespaces") if isinstance(linux, dict) else None
    for item in namespaces if isinstance(namespaces, list) else []:
        if isinstance(item, dict) and item.get("type") == "network" and item.get("path"):
            try:
                found = list_interfaces(str(item["path"]))
            except HostError:
                return []
            return [{"name": each.name, "mac": each.mac, "addresses": list(each.addresses)} for each in found]
    return []
