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


def cgroup_limits(resources: Mapping[str, object]) -> dict[str, dict[str, str]]:
    """Return setting -> cgroup file name -> value, for the pids and cpu limits of a validated linux.resources.

    The files of one setting are alternatives; a limit that does not limit is left out.
    """
    limits: dict[str, dict[str, str]] = {}
    pids = _number(_object(resources, "pids"), "limit")
    if pids is not None and pids > 0:
        limits["pids.limit"] = {"pids.max": str(pids)}
    cpu = _object(resources, "cpu")
    shares = _number(cpu, "shares")
    if shares:
        weight = min(10_000, max(1, 1 + (shares - 2) * 9999 // 262142))
        limits["cpu.shares"] = {"cpu.shares": str(shares), "cpu.weight": str(weight)}
    period, quota = _number(cpu, "period"), _number(cpu, "quota")
    shown = {"cpu.max": f"{quota if quota and quota > 0 else 'max'} {period or _DEFAULT_PERIOD}"}
    if period:
        limits["cpu.period"] = {"cpu.cfs_period_us": str(period), **shown}
    if quota and quota > 0:
        limits["cpu.quota"] = {"cpu.cfs_quota_us": str(quota), **shown}
    for name in ("cpus", "mems"):
        value = cpu.get(name)
        if isinstance(value, str) and value:
            limits[f"cpu.{name}"] = {f"cpuset.{name}": value}
    return {f"linux.resources.{name}": files for name, files in limits.items()}


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
