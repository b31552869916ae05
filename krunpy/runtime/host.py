"""Facts about this host and its processes. The one door of `psutil`; never imported by the fast OCI verbs."""

from __future__ import annotations

from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """Sizes of this host, in bytes; cpus that this process may use."""

    cpus: int
    memory_total: int
    memory_available: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessFacts:
    """One process of a container: its role is told by its program."""

    pid: int
    program: str
    resident: int  # bytes


def find_host_facts() -> HostFacts:
    """Return the sizes of this host."""
    memory = psutil.virtual_memory()
    return HostFacts(
        cpus=len(psutil.Process().cpu_affinity() or [0]),
        memory_total=memory.total,
        memory_available=memory.available,
    )


def find_disk_free(path: str) -> int:
    """Return the bytes that are free on the file system of a path."""
    return psutil.disk_usage(path).free


def list_processes(pid: int) -> list[ProcessFacts]:
    """Return a process and its descendants, those that vanish meanwhile left out."""
    found: list[ProcessFacts] = []
    try:
        root = psutil.Process(pid)
        processes = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return found
    for process in processes:
        try:
            with process.oneshot():
                facts = ProcessFacts(
                    pid=process.pid, program=process.name(), resident=process.memory_info().rss
                )
        except psutil.NoSuchProcess:
            continue
        found.append(facts)
    return found
