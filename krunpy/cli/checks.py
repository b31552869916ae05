"""What `krunpy doctor` looks at, one function a subject; each says what it saw and what would mend it."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING

from krunpy.core.errors import KrunpyError
from krunpy.core.proc import find_program, run
from krunpy.guest.payload import VmmKind, load_guest, require_unchanged
from krunpy.runtime.confidential import choose_tee, require_offered
from krunpy.runtime.host import find_disk_free, find_host_facts
from krunpy.runtime.vmm_choice import choose_vmm, has_libkrun
from krunpy.tee.detect import TeeKind, find_host_tee, read_host_file
from krunpy.vmm.device import DEVICE, find_group
from krunpy.vmm.libkrun_find import find_libraries
from krunpy.vmm.libkrun_spec import Flavour
from krunpy.vmm.probe import is_kvm_usable

if TYPE_CHECKING:
    from collections.abc import Callable

    from krunpy.core.settings import Settings

_GIB = 1024**3
_LEAST_DISK = 2 * _GIB
_LEAST_MEMORY = 1 * _GIB
_OLDEST_CLOCK = datetime(2026, 1, 1, tzinfo=UTC)


class Health(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One line of the doctor: subject, health, what was seen, what to do."""

    name: str
    health: Health
    seen: str
    fix: str = ""


def ok(name: str, seen: str) -> Check:
    """Return a check that holds."""
    return Check(name=name, health=Health.OK, seen=seen)


def warn(name: str, seen: str, fix: str = "") -> Check:
    """Return a check that limits what works."""
    return Check(name=name, health=Health.WARN, seen=seen, fix=fix)


def fail(name: str, seen: str, fix: str) -> Check:
    """Return a check without which no workload runs."""
    return Check(name=name, health=Health.FAIL, seen=seen, fix=fix)


def check_cpu(_: Settings) -> Check:
    """Say which CPU this is."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as stream:
            lines = dict(line.partition(":")[::2] for line in stream if ":" in line)
        model = next(
            (value.strip() for key, value in lines.items() if key.strip() == "model name"), "unknown"
        )
    except OSError:
        model = "unknown"
    return ok("cpu", f"{model}, {find_host_facts().cpus} usable")


def check_tee(settings: Settings, read: Callable[[str], str | None] = read_host_file) -> Check:
    """Say which TEE guests are launched in. read: as for `find_host_tee`."""
    found, chosen = find_host_tee(read), choose_tee(settings.tee, read)
    if chosen is TeeKind.SOFTWARE:
        why = "; ".join(found.reasons)
        if found.kind is not TeeKind.SOFTWARE:
            why = f"this host offers {found.kind}, and the setting tee is {settings.tee}"
        return warn("tee", f"software: guests are NOT CONFIDENTIAL ({why})")
    try:
        require_offered(chosen, read)
        vmm = choose_vmm(settings, chosen)
        require_unchanged(load_guest(settings.guest_dir, tee=chosen, vmm=vmm))
    except KrunpyError as error:
        return fail("tee", f"{chosen} is what guests are launched in, but {error.why}", error.next)
    return ok("tee", f"guests are launched in {chosen} by {vmm}")


def check_kvm(settings: Settings) -> Check:
    """Say whether a guest boots under KVM, by booting one."""
    if not os.path.exists(DEVICE):
        return warn(
            "kvm",
            f"{DEVICE} is missing: guests run under TCG, many times slower",
            "load kvm_amd or kvm_intel",
        )
    try:
        find_group(DEVICE)
    except KrunpyError as error:
        return warn("kvm", f"{error.why}: guests run under TCG", error.next)
    try:
        guest = load_guest(settings.guest_dir)
    except KrunpyError as error:
        return warn(
            "kvm", f"{DEVICE} is there; not probed, because {error.why}", error.next or "krunpy guest build"
        )
    if is_kvm_usable(guest, settings.data_dir):
        return ok("kvm", "a guest boots")
    return warn("kvm", f"{DEVICE} is there but no guest boots under it: guests run under TCG", "")


def check_qemu(settings: Settings) -> Check:
    """Say which QEMU there is; without one, plain machines may be libkrun's."""
    program = find_program("qemu-system-x86_64")
    if program is None:
        say = warn if has_libkrun(settings) else fail
        return say("qemu", "qemu-system-x86_64 is missing", "apt-get install qemu-system-x86")
    words = run([program, "--version"], timeout_s=30).stdout.decode(errors="replace").splitlines()
    return ok("qemu", words[0] if words else program)


def check_libkrun(settings: Settings) -> Check:
    """Say which libkrun there is, and whether the guest has a kernel for it; krunpy works without."""
    is_wanted = settings.vmm == VmmKind.LIBKRUN
    is_sev = is_wanted and choose_tee(settings.tee) is TeeKind.SNP
    try:
        flavour = Flavour.SEV if is_sev else Flavour.PLAIN
        libraries = find_libraries(settings.libkrun, settings.libkrunfw, flavour)
    except KrunpyError as error:
        say = fail if is_wanted else warn
        return say("libkrun", f"{error.why}: machines are QEMU's", error.next)
    try:
        tee = TeeKind.SNP if is_sev else TeeKind.SOFTWARE
        guest = load_guest(settings.guest_dir, tee=tee, vmm=VmmKind.LIBKRUN)
        require_unchanged(guest)
    except KrunpyError as error:
        return warn("libkrun", f"{libraries.libkrun}; {error.why}", error.next or "krunpy guest build")
    return ok("libkrun", f"{libraries.libkrun}, kernel {guest.release}")


def check_guest(settings: Settings) -> Check:
    """Say which guest is built, and whether it is still what was built."""
    try:
        guest = load_guest(settings.guest_dir, vmm=choose_vmm(settings, TeeKind.SOFTWARE))
        require_unchanged(guest)
    except KrunpyError as error:
        return fail("guest", error.why, error.next or "krunpy guest build")
    base = "base initrd" if guest.vmm is VmmKind.QEMU else "for libkrun, agent"
    return ok("guest", f"kernel {guest.release}, {base} {len(guest.base) / 1048576:.1f} MiB")


def check_podman(_: Settings) -> Check:
    """Say which podman there is; krunpy works without."""
    program = find_program("podman")
    if program is None:
        return warn("podman", "not installed: `krunpy run` works all the same", "apt-get install podman")
    text = run([program, "--version"], timeout_s=30).stdout.decode(errors="replace").strip()
    return ok("podman", text)


def check_cgroups(_: Settings) -> Check:
    """Say which cgroup layout this host has."""
    if os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
        return ok("cgroups", "v2")
    if os.path.isdir("/sys/fs/cgroup/unified"):
        return ok("cgroups", "hybrid v1 and v2 (crun refuses this, krunpy does not)")
    return (
        ok("cgroups", "v1") if os.path.isdir("/sys/fs/cgroup/memory") else warn("cgroups", "none mounted", "")
    )


def check_disk(settings: Settings) -> Check:
    """Say whether the cache has room."""
    path = settings.cache_dir
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    free = find_disk_free(path)
    text = f"{free / _GIB:.1f} GiB free for {settings.cache_dir}"
    return ok("disk", text) if free >= _LEAST_DISK else warn("disk", text, "krunpy image prune")


def check_memory(settings: Settings) -> Check:
    """Say whether a guest of the default size fits."""
    facts = find_host_facts()
    text = f"{facts.memory_available / _GIB:.1f} of {facts.memory_total / _GIB:.1f} GiB available"
    needed = max(_LEAST_MEMORY, settings.memory_mib * 1048576)
    return (
        ok("memory", text)
        if facts.memory_available >= needed
        else warn("memory", text, "run fewer workloads")
    )


def check_clock(_: Settings) -> Check:
    """Say whether the clock can be right: certificates are judged by it."""
    now = datetime.now(UTC)
    if now < _OLDEST_CLOCK:
        return fail("clock", f"it says {now:%Y-%m-%d}, before krunpy was made", "set the clock")
    return ok("clock", f"{now:%Y-%m-%d %H:%M:%S} UTC")


def check_tools(_: Settings) -> Check:
    """Say whether what `krunpy guest build` needs is there."""
    missing = [name for name in ("gcc", "make") if shutil.which(name) is None]
    if missing:
        return warn(
            "compiler", f"{', '.join(missing)} missing", "apt-get install gcc make libc6-dev libsodium-dev"
        )
    return ok("compiler", "gcc, make")


CHECKS: tuple[Callable[[Settings], Check], ...] = (
    check_cpu,
    check_tee,
    check_kvm,
    check_qemu,
    check_libkrun,
    check_guest,
    check_podman,
    check_cgroups,
    check_disk,
    check_memory,
    check_clock,
    check_tools,
)
