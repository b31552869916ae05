"""linux.resources as lines for cgroup files, and as the machine's memory: arithmetic, nothing is written here.

Each limit is given for both versions of cgroups; `cgroup.apply_limits` writes those whose file exists.
Source: OCI runtime specification, config-linux.md, "Control groups"; the weight formula is crun's and runc's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Mapping

_DEFAULT_PERIOD = 100_000  # microseconds
_MIB = 1024 * 1024
_MOST_MEMORY_MIB = 1 << 20
LEAST_MEMORY_MIB = 128  # below that no guest boots


def cgroup_limits(resources: Mapping[str, object]) -> dict[str, str]:
    """Return cgroup file name -> value for the pids and cpu limits of a validated linux.resources."""
    limits: dict[str, str] = {}
    pids = _number(_object(resources, "pids"), "limit")
    if pids is not None:
        limits["pids.max"] = str(pids) if pids > 0 else "max"
    cpu = _object(resources, "cpu")
    shares = _number(cpu, "shares")
    if shares:
        limits["cpu.shares"] = str(shares)
        limits["cpu.weight"] = str(min(10_000, max(1, 1 + (shares - 2) * 9999 // 262142)))
    period, quota = _number(cpu, "period"), _number(cpu, "quota")
    if period:
        limits["cpu.cfs_period_us"] = str(period)
    if quota:
        limits["cpu.cfs_quota_us"] = str(quota)
    if period or quota:
        shown = str(quota) if quota and quota > 0 else "max"
        limits["cpu.max"] = f"{shown} {period or _DEFAULT_PERIOD}"
    for name, file in (("cpus", "cpuset.cpus"), ("mems", "cpuset.mems")):
        value = cpu.get(name)
        if isinstance(value, str) and value:
            limits[file] = value
    return limits


def choose_memory_mib(*, limit: int | None, wish: int | None, default: int) -> int:
    """Return the memory of the machine in MiB: the wish, else the limit, else the default.

    limit: linux.resources.memory.limit in bytes; none if it is missing or not positive. A wish never gets more
    than the limit; nothing gets less than LEAST_MEMORY_MIB.
    """
    if limit is None or limit <= 0:
        return wish or default
    most = max(LEAST_MEMORY_MIB, limit // _MIB)
    return min(wish or most, most, _MOST_MEMORY_MIB)


def _object(parent: Mapping[str, object], name: str) -> Mapping[str, object]:
    value = parent.get(name)
    return cast("Mapping[str, object]", value) if isinstance(value, dict) else {}


def _number(parent: Mapping[str, object], name: str) -> int | None:
    value = parent.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
