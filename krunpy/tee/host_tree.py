"""A host's /proc, /sys and /dev as the readiness probes see them, and what they find there.

Everything below a folder that is given: tests give one of their own. Nothing is changed, no device is asked.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from enum import StrEnum

from krunpy.tee.detect import ON, read_host_file

_LARGEST_FILE = (
    256 * 1024
)  # characters; /proc/cpuinfo has about 1.5 KiB a CPU, and the first says what all are
_RELEASE = "/proc/sys/kernel/osrelease"
_CPUINFO = "/proc/cpuinfo"
_MSR = "/dev/cpu/0/msr"
_CMDLINE = "/proc/cmdline"


class Readiness(StrEnum):
    """What a probe came to. UNKNOWN: this user or kernel does not let us see it."""

    READY = "ready"
    GAP = "gap"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One subject of a host's readiness: what was seen, and what closes the gap."""

    subject: str
    readiness: Readiness
    seen: str
    fix: str = ""


def ready(subject: str, seen: str) -> Finding:
    """Return a finding that is as it must be."""
    return Finding(subject=subject, readiness=Readiness.READY, seen=seen)


def gap(subject: str, seen: str, fix: str) -> Finding:
    """Return a finding without which no guest can be launched or attested."""
    return Finding(subject=subject, readiness=Readiness.GAP, seen=seen, fix=fix)


def unknown(subject: str, seen: str, fix: str = "") -> Finding:
    """Return a finding that could not be made; fix: how it could be."""
    return Finding(subject=subject, readiness=Readiness.UNKNOWN, seen=seen, fix=fix)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostTree:
    """The files of a host; every path starts with "/" and is taken below `root`."""

    root: str = ""

    def locate(self, path: str) -> str:
        """Return where a path of the host is."""
        return self.root + path

    def read(self, path: str) -> str | None:
        """Return a file's text, cut at 256 KiB; "" for a device or what cannot be read, None if it does not exist."""
        return read_host_file(self.locate(path), _LARGEST_FILE)

    def read_at(self, path: str, offset: int, size: int) -> bytes | None:
        """Return `size` bytes of a device like /dev/cpu/0/msr, None if they cannot be had."""
        try:
            descriptor = os.open(self.locate(path), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            return None
        try:
            data = os.pread(descriptor, size, offset)
        except OSError:
            return None
        finally:
            os.close(descriptor)
        return data if len(data) == size else None

    def read_msr(self, number: int) -> int | None:
        """Return a model-specific register of the first CPU, None if it does not exist or cannot be read."""
        raw = self.read_at(_MSR, number, 8)
        return None if raw is None else int.from_bytes(raw, "little")

    def exists(self, path: str) -> bool:
        """Return whether there is anything of this name."""
        return os.path.exists(self.locate(path))

    def is_socket(self, path: str) -> bool:
        """Return whether this is a socket in the file system."""
        try:
            return stat.S_ISSOCK(os.stat(self.locate(path)).st_mode)
        except OSError:
            return False

    def list_names(self, path: str) -> tuple[str, ...]:
        """Return the names in a folder in order, none if it cannot be read."""
        try:
            return tuple(sorted(os.listdir(self.locate(path))))
        except OSError:
            return ()

    def cpu(self) -> tuple[str, frozenset[str]]:
        """Return vendor and flags of the first CPU, as /proc/cpuinfo has them."""
        first = (self.read(_CPUINFO) or "").split("\n\n", 1)[0]
        fields = {
            key.strip(): value.strip() for key, _, value in (x.partition(":") for x in first.split("\n"))
        }
        return fields.get("vendor_id", "unknown"), frozenset(fields.get("flags", "").split())

    def command_line(self) -> tuple[str, ...]:
        """Return the words of the kernel's command line."""
        return tuple((self.read(_CMDLINE) or "").split())

    def misc_capacity(self, resource: str) -> int | None:
        """Return how many of a cgroup misc resource, as "sev_es", the host has; None if it does not say."""
        for line in (self.read("/sys/fs/cgroup/misc.capacity") or "").splitlines():
            name, _, count = line.partition(" ")
            if name == resource and count.isdigit():
                return int(count)
        return None

    def check_kernel(self, wanted: tuple[int, int], fix: str) -> Finding:
        """Return whether the kernel is of this version or newer."""
        release = (self.read(_RELEASE) or "").strip()
        version = _parse_version(release)
        text = f"{wanted[0]}.{wanted[1]}"
        if version is None:
            return unknown("kernel", f'release "{release[:64]}" is not a version, wanted {text} or newer')
        if version < wanted:
            return gap("kernel", f"{release}, wanted {text} or newer", fix)
        return ready("kernel", release)

    def check_parameters(self, wanted: dict[str, str], *, fix: str) -> Finding:
        """Return whether module parameters are on. wanted: name as "kvm_amd.sev_snp" -> path."""
        lacking = []
        for name, path in wanted.items():
            value = self.read(path)
            if value is None:
                lacking.append(f"{name} does not exist")
            elif value.strip() not in ON:
                lacking.append(f"{name} is {value.strip() or 'nothing'}, wanted Y")
        if lacking:
            return gap("kvm", "; ".join(lacking), fix)
        return ready("kvm", ", ".join(f"{name}=Y" for name in wanted))

    def check_command_line(self, harmful: frozenset[str], *, why: str) -> Finding:
        """Return whether the kernel's command line has none of these words."""
        found = [word for word in self.command_line() if word in harmful]
        if found:
            words = " ".join(found)
            return gap(
                "cmdline", f"{words}: {why}", f"remove {words} from the kernel's command line, and reboot"
            )
        return ready("cmdline", "nothing in the way")


def _parse_version(release: str) -> tuple[int, int] | None:
    parts = release.split("-", 1)[0].split(".")
    numbers = [int(part) for part in parts[:2] if part.isascii() and part.isdigit()]
    return (numbers[0], numbers[1]) if len(numbers) == 2 else None  # noqa: PLR2004
