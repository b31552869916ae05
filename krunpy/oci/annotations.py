"""The annotations that krunpy reads from config.json; any other name with its prefix is refused as misspelt.

Annotations are host data, and an image's come among them: sizes of the machine, which of two equal ways binds the
manifest, and what makes a manifest stricter, may come from anybody. What names a workload or leaves its disk in the
clear is the user's own word, on krunpy's command line or in its settings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from krunpy.core.errors import BundleError, UsageError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

PREFIX = "io.krunpy."
CPUS = "io.krunpy.cpus"
MEMORY_MIB = "io.krunpy.memory_mib"
WORKLOAD = "io.krunpy.workload"
SOURCE = "io.krunpy.source"
INTEGRITY_ONLY = "io.krunpy.integrity_only"
TAMPER = "io.krunpy.tamper"
NO_HOST_SETTINGS = "io.krunpy.no_host_settings"
MANIFEST_IN = "io.krunpy.manifest_in"
PREPARED = "io.krunpy.prepared"
VOLUMES = "io.krunpy.volumes"
PORTS = "io.krunpy.ports"
NETWORK = "io.krunpy.network"
DNS = "io.krunpy.dns"
POD_ROLE = "io.kubernetes.cri-o.ContainerType"  # podman and CRI-O: "sandbox" or "container"

_TAMPERS = (
    "disk",
    "initrd",
    "cmdline",
    "kernel",
    "manifest",
    "nonce",
    "server-key",
    "evidence",
    "report-data",
    "sealed",
)
MEANINGS: Mapping[str, str] = {
    CPUS: "virtual CPUs of the machine, 1 to 64; part of the launch digest",
    MEMORY_MIB: "memory of the machine in MiB, 128 to 1048576",
    WORKLOAD: "the ID under which the workload is registered",
    SOURCE: "the source of the root file system instead of root.path, as `krunpy run` takes it",
    INTEGRITY_ONLY: "true: the disk is protected by dm-verity but not encrypted",
    NO_HOST_SETTINGS: "true: the manifest lets the host set neither the host name nor files of /etc",
    MANIFEST_IN: "initrd: the manifest is in the launch digest; host-data: HOST_DATA or MRCONFIGID names it",
    PREPARED: "set by the precreate hook: names what it registered",
    VOLUMES: "directories of the host in the guest, HOST:GUEST:ro or :rw, one a line, as `krunpy vm` takes them",
    PORTS: "TCP ports of the host that reach the guest, HOST:GUEST, divided by blanks",
    NETWORK: "true: the guest's connections are made by the host",
    DNS: "the guest's name server instead of the host's",
    TAMPER: "play a dishonest host; one of " + ", ".join(_TAMPERS),
}
_OWN = (SOURCE, TAMPER, VOLUMES, PORTS, NETWORK, DNS)
# what the settings may leave to engines, and so to images: word of the setting -> annotation
_ON_TRUST = {"integrity_only": INTEGRITY_ONLY, "workload": WORKLOAD}
_RANGES = {CPUS: (1, 64), MEMORY_MIB: (128, 1 << 20)}
_WORKLOAD_CHARS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789._-")
_MAX_WORKLOAD = 63


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the annotations ask for. None: nothing was asked."""

    cpus: int | None = None
    memory_mib: int | None = None
    workload: str | None = None
    source: str | None = None
    integrity_only: bool = False
    no_host_settings: bool = False
    manifest_in: str | None = None
    tamper: str | None = None
    prepared: str | None = None
    volumes: str | None = None  # as written; `runtime.vm_shares` reads these
    ports: str | None = None
    network: bool = False
    dns: str | None = None


def parse_annotations(annotations: Mapping[str, str]) -> Wishes:
    """Return what the annotations ask for.

    Raises BundleError on an unknown io.krunpy name or a value out of its range.
    """
    for name in annotations:
        if name.startswith(PREFIX) and name not in MEANINGS:
            raise BundleError(
                f"cannot use annotation {name}",
                why="krunpy knows no such annotation",
                next=f"known: {', '.join(MEANINGS)}",
            )
    return Wishes(
        cpus=_take_number(annotations, CPUS),
        memory_mib=_take_number(annotations, MEMORY_MIB),
        workload=_take_workload(annotations),
        source=annotations.get(SOURCE),
        integrity_only=_take_choice(annotations, INTEGRITY_ONLY, ("true", "false")) == "true",
        no_host_settings=_take_choice(annotations, NO_HOST_SETTINGS, ("true", "false")) == "true",
        manifest_in=_take_choice(annotations, MANIFEST_IN, ("initrd", "host-data")),
        prepared=annotations.get(PREPARED),
        tamper=_take_choice(annotations, TAMPER, _TAMPERS),
        volumes=annotations.get(VOLUMES),
        ports=annotations.get(PORTS),
        network=_take_choice(annotations, NETWORK, ("true", "false")) == "true",
        dns=annotations.get(DNS),
    )


def require_no_own(annotations: Mapping[str, object]) -> None:
    """Refuse the annotations that only krunpy may write, into a bundle that it made itself.

    An engine copies the annotations of an image into config.json: whoever made the image would otherwise choose
    a directory of this host to be read. Raises BundleError.
    """
    for name in _OWN:
        if name in annotations:
            raise BundleError(
                f"cannot use annotation {name}",
                why="only krunpy's own commands may set it: an image's annotations come here too",
                next="run the source itself, with `krunpy run SOURCE`",
            )


def parse_trust(text: str) -> frozenset[str]:
    """Return the annotations that the setting engine_annotations names, such as "workload,integrity_only".

    Raises UsageError on any other word.
    """
    words = {word.strip() for word in text.split(",") if word.strip()}
    if unknown := sorted(words - set(_ON_TRUST)):
        raise UsageError(
            "cannot use the setting engine_annotations",
            why=f'seen "{unknown[0][:40]}", wanted some of {", ".join(_ON_TRUST)}',
        )
    return frozenset(_ON_TRUST[word] for word in words)


def find_untrusted(annotations: Mapping[str, object]) -> list[str]:
    """Return those that weaken or rename a workload: an image must not, if only by what an engine copies from it."""
    return [name for name in _ON_TRUST.values() if name in annotations and annotations[name] != "false"]


def require_trusted(annotations: Mapping[str, object], trusted: Collection[str], *, next: str) -> None:
    """Refuse what `find_untrusted` finds beyond `trusted`. next: how to ask for it. Raises BundleError."""
    for name in find_untrusted(annotations):
        if name not in trusted:
            raise BundleError(
                f"cannot use annotation {name}",
                why="whoever made the image could have set it: engines pass an image's annotations on as the user's",
                next=next,
            )


def _take_choice(annotations: Mapping[str, str], name: str, choices: tuple[str, ...]) -> str | None:
    text = annotations.get(name)
    if text is not None and text not in choices:
        raise BundleError(
            f"cannot use annotation {name}", why=f'seen "{text[:40]}", wanted {", ".join(choices)}'
        )
    return text


def _take_number(annotations: Mapping[str, str], name: str) -> int | None:
    text = annotations.get(name)
    if text is None:
        return None
    low, high = _RANGES[name]
    if not (text.isascii() and text.isdigit() and len(text) < 10 and low <= int(text) <= high):  # noqa: PLR2004
        raise BundleError(
            f"cannot use annotation {name}", why=f'seen "{text[:40]}", wanted a number in {low} to {high}'
        )
    return int(text)


def _take_workload(annotations: Mapping[str, str]) -> str | None:
    text = annotations.get(WORKLOAD)
    if text is None:
        return None
    if not 1 <= len(text) <= _MAX_WORKLOAD or not _WORKLOAD_CHARS.issuperset(text) or text[0] in "._-":
        raise BundleError(
            f"cannot use annotation {WORKLOAD}",
            why=f'seen "{text[:80]}", wanted 1 to {_MAX_WORKLOAD} of [a-z0-9._-], a letter or digit first',
        )
    return text
