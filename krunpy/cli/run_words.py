"""`krunpy run` in its usual form, read without typer, whose imports would cost more than the rest.

It takes the options of `krunpy.cli.run` and no others. A command line that it does not understand whole, wrong ones
among them, is left to typer, which says what is wrong with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from krunpy.core.settings import CHOICES
from krunpy.runtime.plan import Plan

if TYPE_CHECKING:
    from collections.abc import Sequence

# long name, short name -> parameter of `krunpy.cli.run.run`
TEXTS = {
    "--workdir": "workdir",
    "-w": "workdir",
    "--user": "user",
    "-u": "user",
    "--entrypoint": "entrypoint",
    "--workload": "workload",
    "--hostname": "hostname",
    "--name": "name",
    "--tee": "tee",
    "--vmm": "vmm",
    "--manifest-in": "manifest_in",
}
LISTS = {"--env": "env", "-e": "env", "--tmpfs": "tmpfs"}
NUMBERS = {"--cpus": "cpus", "--memory": "memory"}
FLAGS = {
    "--integrity-only": "integrity_only",
    "--no-host-settings": "no_host_settings",
    "--read-only": "read_only",
}
_MOST_CPUS = 64
_MOST_DIGITS = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What was asked for; name: the container ID, empty for a random one; tee, vmm: empty for the setting."""

    plan: Plan
    name: str
    tee: str
    vmm: str


def parse_run(words: Sequence[str]) -> Wanted | None:
    """Return what the words after `run` ask for, or None if typer has to look at them."""
    texts: dict[str, str] = {}
    lists: dict[str, list[str]] = {"env": [], "tmpfs": []}
    flags: set[str] = set()
    free: list[str] = []
    rest = iter(words)
    for word in rest:
        if word == "--":
            free += rest
        elif not word.startswith("-") or word == "-":
            free.append(word)
        elif word in FLAGS:
            flags.add(FLAGS[word])
        else:
            name, equals, value = word.partition("=")
            given = value if equals and name.startswith("--") else next(rest, None)
            if given is None or (equals and not name.startswith("--")):
                return None
            if name in LISTS:
                lists[LISTS[name]].append(given)
            elif name in TEXTS or name in NUMBERS:
                texts[TEXTS.get(name) or NUMBERS[name]] = given
            else:
                return None
    numbers = {name: texts.pop(name, "0") for name in NUMBERS.values()}
    if (
        not free
        or not all(_is_number(text) for text in numbers.values())
        or int(numbers["cpus"]) > _MOST_CPUS
        or (texts.get("tee") or "auto") not in CHOICES["tee"]
        or (texts.get("vmm") or "auto") not in CHOICES["vmm"]
        or texts.get("manifest_in", "initrd") not in CHOICES["manifest_in"]
    ):
        return None
    plan = _make_plan(free, texts, lists, numbers, flags)
    return Wanted(plan=plan, name=texts.get("name", ""), tee=texts.get("tee", ""), vmm=texts.get("vmm", ""))


def _make_plan(
    free: list[str],
    texts: dict[str, str],
    lists: dict[str, list[str]],
    numbers: dict[str, str],
    flags: set[str],
) -> Plan:
    return Plan(
        source=free[0],
        args=tuple(free[1:]),
        env=tuple(lists["env"]),
        tmpfs=tuple(lists["tmpfs"]),
        cwd=texts.get("workdir", ""),
        user=texts.get("user", ""),
        entrypoint=texts.get("entrypoint", ""),
        workload=texts.get("workload", ""),
        hostname=texts.get("hostname", ""),
        cpus=int(numbers["cpus"]),
        memory_mib=int(numbers["memory"]),
        integrity_only="integrity_only" in flags,
        no_host_settings="no_host_settings" in flags,
        manifest_in=texts.get("manifest_in", ""),
        read_only="read_only" in flags,
    )


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS
