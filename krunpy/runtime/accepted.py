"""What becomes of every setting of config.json: the table `create` refuses from and `inspect` prints.

A setting holds in the guest (measured, enforced by the agent), on the host only, or not at all; or it is
refused, because ignoring it would break what the user asked for. Nothing is ignored in silence.
Source: OCI runtime specification 1.2, config.md and config-linux.md; what engines add, from podman 4.3.1.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple, cast

from krunpy.core.errors import BundleError
from krunpy.oci.annotations import NO_HOST_SETTINGS, POD_ROLE
from krunpy.runtime.accepted_lists import (
    review_annotations,
    review_capability_set,
    review_devices,
    review_mounts,
    review_namespaces,
    review_sysctls,
)
from krunpy.runtime.setting import GUEST, HOST, NOWHERE, REFUSED, Setting, shorten

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    Review = Callable[[str, object], Iterator[Setting]]


class Rule(NamedTuple):
    """Where a setting holds, and why there."""

    where: str
    reason: str


_MEASURED = "part of the manifest, which is measured"
_OWN_KERNEL = "the guest has a kernel of its own; no system call of the workload reaches the host's"
_NOT_YET = "not supported yet"
_NO_LIMIT = "the limit would not hold, neither for the machine nor in it"

RULES: Mapping[str, Rule] = {
    "ociVersion": Rule(HOST, "any 1.x is read"),
    "root.path": Rule(GUEST, "converted into the measured disk; the guest never sees the host's directory"),
    "root.readonly": Rule(GUEST, _MEASURED),
    "hostname": Rule(GUEST, "handed over by the host if the manifest allows it"),
    "domainname": Rule(NOWHERE, "the guest has no NIS domain"),
    "process.args": Rule(GUEST, _MEASURED),
    "process.env": Rule(GUEST, _MEASURED),
    "process.cwd": Rule(GUEST, _MEASURED),
    "process.user.uid": Rule(GUEST, _MEASURED),
    "process.user.gid": Rule(GUEST, _MEASURED),
    "process.user.umask": Rule(GUEST, _MEASURED),
    "process.user.additionalGids": Rule(GUEST, _MEASURED),
    "process.user.username": Rule(NOWHERE, "meant for Windows"),
    "process.commandLine": Rule(NOWHERE, "meant for Windows"),
    "process.noNewPrivileges": Rule(GUEST, _MEASURED),
    "process.rlimits": Rule(GUEST, _MEASURED),
    "process.oomScoreAdj": Rule(HOST, "applies to the machine as a process of the host"),
    "process.terminal": Rule(REFUSED, f"a terminal is {_NOT_YET}; run without -t"),
    "process.consoleSize": Rule(NOWHERE, "there is no terminal"),
    "process.apparmorProfile": Rule(NOWHERE, _OWN_KERNEL),
    "process.selinuxLabel": Rule(NOWHERE, _OWN_KERNEL),
    "process.ioPriority": Rule(REFUSED, _NO_LIMIT),
    "process.scheduler": Rule(REFUSED, "the guest's kernel schedules by itself"),
    "process.execCPUAffinity": Rule(NOWHERE, "it concerns exec, which is refused"),
    "hooks.prestart": Rule(HOST, "run by `create`"),
    "hooks.createRuntime": Rule(HOST, "run by `create`"),
    "hooks.createContainer": Rule(REFUSED, "it would run in namespaces that do not exist; use createRuntime"),
    "hooks.startContainer": Rule(REFUSED, "the host runs no program in the guest; put it into the image"),
    "hooks.poststart": Rule(HOST, "run by `start`"),
    "hooks.poststop": Rule(HOST, "run by `delete`"),
    "linux.cgroupsPath": Rule(HOST, "holds the machine"),
    "linux.maskedPaths": Rule(GUEST, _MEASURED),
    "linux.readonlyPaths": Rule(GUEST, _MEASURED),
    "linux.seccomp": Rule(NOWHERE, _OWN_KERNEL),
    "linux.mountLabel": Rule(NOWHERE, _OWN_KERNEL),
    "linux.rootfsPropagation": Rule(NOWHERE, "nothing is mounted between host and guest"),
    "linux.uidMappings": Rule(REFUSED, f"user namespaces are {_NOT_YET}: the files' owners are shifted"),
    "linux.gidMappings": Rule(REFUSED, f"user namespaces are {_NOT_YET}: the files' owners are shifted"),
    "linux.timeOffsets": Rule(REFUSED, "the guest has a clock of its own"),
    "linux.netDevices": Rule(REFUSED, f"network devices are {_NOT_YET}"),
    "linux.intelRdt": Rule(REFUSED, _NO_LIMIT),
    "linux.memoryPolicy": Rule(REFUSED, _NO_LIMIT),
    "linux.personality": Rule(REFUSED, "the guest runs programs of its own architecture only"),
    "linux.resources.memory.limit": Rule(
        GUEST, "sizes the machine, 128 MiB at least; the memory cgroup gets no limit"
    ),
    "linux.resources.memory.reservation": Rule(NOWHERE, "the machine's memory is fixed"),
    "linux.resources.memory.swap": Rule(NOWHERE, "the guest has no swap"),
    "linux.resources.memory.swappiness": Rule(NOWHERE, "the guest has no swap"),
    "linux.resources.memory.kernel": Rule(NOWHERE, "the guest's kernel lives in the machine's memory"),
    "linux.resources.memory.kernelTCP": Rule(NOWHERE, "the guest's kernel lives in the machine's memory"),
    "linux.resources.memory.disableOOMKiller": Rule(REFUSED, "the guest's kernel decides what ends"),
    "linux.resources.memory.useHierarchy": Rule(NOWHERE, "the machine's memory is fixed"),
    "linux.resources.memory.checkBeforeUpdate": Rule(NOWHERE, "limits are not updated"),
    "linux.resources.cpu.shares": Rule(HOST, "limits the machine"),
    "linux.resources.cpu.quota": Rule(HOST, "limits the machine"),
    "linux.resources.cpu.period": Rule(HOST, "limits the machine"),
    "linux.resources.cpu.cpus": Rule(HOST, "limits the machine"),
    "linux.resources.cpu.mems": Rule(HOST, "limits the machine"),
    "linux.resources.cpu.burst": Rule(REFUSED, _NO_LIMIT),
    "linux.resources.cpu.idle": Rule(REFUSED, _NO_LIMIT),
    "linux.resources.cpu.realtimeRuntime": Rule(REFUSED, _NO_LIMIT),
    "linux.resources.cpu.realtimePeriod": Rule(REFUSED, _NO_LIMIT),
    "linux.resources.pids.limit": Rule(HOST, "limits the threads of the machine, not the guest's processes"),
    "linux.resources.devices": Rule(NOWHERE, "the guest sees no device of the host"),
    "linux.resources.blockIO": Rule(REFUSED, _NO_LIMIT),
    "linux.resources.hugepageLimits": Rule(REFUSED, _NO_LIMIT),
    "linux.resources.network": Rule(REFUSED, _NO_LIMIT),
    "linux.resources.rdma": Rule(REFUSED, _NO_LIMIT),
    "linux.resources.unified": Rule(REFUSED, _NO_LIMIT),
    "windows": Rule(NOWHERE, "meant for another system"),
    "solaris": Rule(NOWHERE, "meant for another system"),
    "zos": Rule(NOWHERE, "meant for another system"),
    "vm": Rule(REFUSED, "kernel, hypervisor and image are krunpy's: a host must not choose them unmeasured"),
}
_OBJECTS = frozenset(path.rpartition(".")[0] for path in RULES if "." in path) | {"process.capabilities"}
_REVIEWS: Mapping[str, Review] = {
    "annotations": review_annotations,
    "mounts": review_mounts,
    "linux.namespaces": review_namespaces,
    "linux.devices": review_devices,
    "linux.sysctl": review_sysctls,
    "process.capabilities.bounding": review_capability_set,
    "process.capabilities.effective": review_capability_set,
    "process.capabilities.permitted": review_capability_set,
    "process.capabilities.inheritable": review_capability_set,
    "process.capabilities.ambient": review_capability_set,
}
_UNKNOWN = Rule(NOWHERE, "not a setting that krunpy knows")
_DEFAULT_PERSONALITY = {"domain": "LINUX"}
_MAX_DEPTH = 8
_MAX_SHOWN = 8  # refused settings in one message
_HOST_SETTINGS = ("hostname", "mounts /etc/hosts", "mounts /etc/resolv.conf", "mounts /etc/hostname")


def review_config(config: Mapping[str, object]) -> list[Setting]:
    """Return what becomes of every setting of a config.json, in its order.

    config: the decoded document; values of unexpected types are shown, never trusted.
    """
    settings = list(_review_object(config, ""))
    annotations = config.get("annotations")
    if isinstance(annotations, dict) and annotations.get(NO_HOST_SETTINGS) == "true":
        settings = [_close(setting) for setting in settings]
    return [*settings, *_review_whole(config)]


def _close(setting: Setting) -> Setting:
    if setting.name not in _HOST_SETTINGS or setting.where == REFUSED:
        return setting
    return setting._replace(where=NOWHERE, reason="the manifest lets the host set nothing")


def require_accepted(settings: Sequence[Setting], container_id: str) -> None:
    """Refuse a container of which any setting is refused, naming each. Raises BundleError."""
    refused = [setting for setting in settings if setting.where == REFUSED]
    if refused:
        shown = [f"{item.name} {item.value} is refused: {item.reason}" for item in refused[:_MAX_SHOWN]]
        if len(refused) > _MAX_SHOWN:  # conmon cuts a message at 8 KiB
            shown.append(f"and {len(refused) - _MAX_SHOWN} more")
        raise BundleError(f"cannot create container {container_id}", why="; ".join(shown))


def port_settings(ports: Sequence[str]) -> list[Setting]:
    """Return the settings that published ports are, each "ADDRESS:PORT/PROTOCOL"."""
    return [
        Setting("published port", port, REFUSED, "the guest has no network yet; run without -p")
        for port in ports
    ]


def _review_object(value: Mapping[str, object], prefix: str) -> Iterator[Setting]:
    for key, member in value.items():
        path = f"{prefix}{key}"
        if path in _REVIEWS:
            yield from _REVIEWS[path](path, member)
        elif path in _OBJECTS and isinstance(member, dict) and path.count(".") < _MAX_DEPTH:
            yield from _review_object(cast("dict[str, object]", member), f"{path}.")
        else:
            yield from _review_value(path, member)


def _review_value(path: str, value: object) -> Iterator[Setting]:
    rule = RULES.get(path, _UNKNOWN)
    if rule.where == REFUSED and (not value or value == _DEFAULT_PERSONALITY):
        return  # false, empty or the default: nothing was asked
    yield Setting(path, _shown(path, value), rule.where, rule.reason)


def _review_whole(config: Mapping[str, object]) -> Iterator[Setting]:
    """Judge what more than one setting says together."""
    annotations = config.get("annotations")
    role = annotations.get(POD_ROLE) if isinstance(annotations, dict) else None
    if role in ("sandbox", "container"):
        yield Setting("pod", str(role), REFUSED, f"pods are {_NOT_YET}")


def _shown(path: str, value: object) -> str:
    if path == "process.env" and isinstance(value, list):
        names = [str(item).partition("=")[0] for item in value]  # values may be secrets
        return shorten(" ".join(names))
    return shorten(value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), default=str))
