"""How `krunpy vm` shows machines: JSON values, one fact a line, one row of a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from krunpy.core.errors import make_plain
from krunpy.runtime.vm_record import describe_record

if TYPE_CHECKING:
    from krunpy.runtime.vm_record import VmRecord

_LIST_WORDS = {"volumes": "volume", "ports": "port", "env": "env", "args": "arg", "groups": "group"}


def describe_machine(record: VmRecord, *, is_running: bool) -> dict[str, object]:
    """Return a machine as JSON values."""
    return {**describe_record(record), "network": record.shares.has_network, "running": is_running}


def print_machine(machine: dict[str, object]) -> None:
    """Print a machine, one fact a line; what it has not is left out."""
    for name, value in machine.items():
        if isinstance(value, list):
            for item in value:
                print(f"{_LIST_WORDS.get(name, name):12} {make_plain(str(item))}")
        elif isinstance(value, bool):
            print(f"{name:12} {'yes' if value else 'no'}")
        elif value != "":
            print(f"{name.replace('_', ' '):12} {make_plain(str(value))}")


def summarize(machine: dict[str, object]) -> list[str]:
    """Return the cells of a machine's row."""
    if "error" in machine:
        return [str(machine["name"]), f"damaged: {machine['error']}", "", "", "", "", ""]
    cells = [
        str(machine["name"]),
        str(machine["image"])[:12],
        str(machine["cpus"]),
        f"{machine['memory_mib']} MiB",
    ]
    cells += [" ".join(_texts(machine[name])) or "none" for name in ("volumes", "ports")]
    return [*cells, "yes" if machine["running"] else "no"]


def _texts(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else []
