"""What `krunpy doctor` says about hardware TEEs: the host's readiness, and that of QEMU, firmware and guest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from krunpy.cli.checks import Check, ok, warn
from krunpy.core.errors import HostError, KrunpyError
from krunpy.core.proc import find_program
from krunpy.guest.firmware import require_fit
from krunpy.guest.payload import VmmKind, load_description, load_guest, require_unchanged
from krunpy.runtime.vmm_choice import choose_vmm
from krunpy.tee import host_snp, host_tdx
from krunpy.tee.detect import QUOTE_SOCKET, SEV_DEVICE, TeeKind
from krunpy.tee.host_tree import Finding, Readiness, gap, ready, unknown
from krunpy.vmm import qemu_snp, qemu_tdx
from krunpy.vmm.device import find_group
from krunpy.vmm.libkrun_features import require_sev
from krunpy.vmm.libkrun_find import find_libraries
from krunpy.vmm.libkrun_spec import Flavour
from krunpy.vmm.qemu import PROGRAM
from krunpy.vmm.qemu_objects import list_objects

if TYPE_CHECKING:
    from krunpy.core.settings import Settings
    from krunpy.tee.host_tree import HostTree

_MOST_MODULES = 1000
_OBJECTS = {
    TeeKind.SNP: (qemu_snp.OBJECT, "install QEMU 9.1 or newer"),
    TeeKind.TDX: (qemu_tdx.OBJECT, "install QEMU 10.1 or newer"),
}
_OPENED = {TeeKind.SNP: SEV_DEVICE, TeeKind.TDX: QUOTE_SOCKET}
_DRIVERS = {TeeKind.SNP: "sev_guest", TeeKind.TDX: "tdx_guest"}
_VENDORS = {host_snp.VENDOR: TeeKind.SNP, host_tdx.VENDOR: TeeKind.TDX}


def find_tee_findings(kind: TeeKind, settings: Settings, tree: HostTree) -> list[Finding]:
    """Return what a launch in this hardware TEE needs, of the host and of what krunpy brings."""
    findings = host_snp.find_snp_findings(tree) if kind is TeeKind.SNP else host_tdx.find_tdx_findings(tree)
    parts = (
        _check_libkrun(kind, settings)
        if settings.vmm == VmmKind.LIBKRUN
        else [_check_qemu(kind), *_check_guest(kind, settings)]
    )
    return [*findings, *_check_access(kind, tree), *parts]


def find_gaps(findings: list[Finding]) -> list[str]:
    """Return the subjects of what is known to be missing."""
    return [finding.subject for finding in findings if finding.readiness is Readiness.GAP]


def choose_kind(tree: HostTree, required: str) -> TeeKind | None:
    """Return the hardware TEE to look at: the one required, else that of the CPU's vendor, if it has one."""
    if required in (TeeKind.SNP, TeeKind.TDX):
        return TeeKind(required)
    return _VENDORS.get(tree.cpu()[0])


def list_tee_checks(kind: TeeKind, findings: list[Finding], *, is_required: bool) -> list[Check]:
    """Return the doctor's lines. A CPU that does not offer the TEE gets one line, unless it is required."""
    first = findings[0]
    if first.readiness is Readiness.GAP and not is_required:
        return [warn(f"{kind}", first.seen, f"{first.fix}; `krunpy doctor --require {kind}` lists every gap")]
    return [_to_check(kind, finding) for finding in findings]


def _to_check(kind: TeeKind, finding: Finding) -> Check:
    name = f"{kind} {finding.subject}"
    if finding.readiness is Readiness.READY:
        return ok(name, finding.seen)
    return warn(name, finding.seen, finding.fix)


def _check_access(kind: TeeKind, tree: HostTree) -> list[Finding]:
    """Say whether a machine, which is not root, can open what its TEE needs by name; nothing if it is not there."""
    path = _OPENED[kind]
    if not tree.exists(path):
        return []
    try:
        group = find_group(tree.locate(path))
    except HostError as error:
        return [gap("access", f"{path}: {error.why}", error.next)]
    return [ready("access", f"{path} is open to {'everybody' if group is None else f'group {group}'}")]


def _check_qemu(kind: TeeKind) -> Finding:
    wanted, fix = _OBJECTS[kind]
    program = find_program(PROGRAM)
    if program is None:
        return gap("qemu", f"{PROGRAM} is missing", fix)
    try:
        objects = list_objects(program)
    except KrunpyError as error:
        return unknown("qemu", f"{error.what}: {error.why}", fix)
    if wanted not in objects:
        return gap("qemu", f"{program} does not know {wanted}", fix)
    return ready("qemu", f"knows {wanted}")


def _check_libkrun(kind: TeeKind, settings: Settings) -> list[Finding]:
    """Say whether libkrun launches such machines, and whether the guest has what they boot."""
    try:
        choose_vmm(settings, kind)
        library = find_libraries(settings.libkrun, settings.libkrunfw, Flavour.SEV).libkrun
        require_sev(library)
        found = ready("libkrun", f"{library} is built for SEV-SNP")
    except KrunpyError as error:
        return [gap("libkrun", error.why, error.next)]
    try:
        guest = load_guest(settings.guest_dir, tee=kind, vmm=VmmKind.LIBKRUN)
        require_unchanged(guest)
    except KrunpyError as error:
        return [found, gap("guest", error.why, error.next)]
    return [found, ready("guest", f"kernel {guest.release} and firmware of libkrunfw")]


def _check_guest(kind: TeeKind, settings: Settings) -> list[Finding]:
    try:
        guest = load_guest(settings.guest_dir)
        modules = load_description(guest.folder).take_strings("modules", limit=_MOST_MODULES)
    except KrunpyError as error:
        return [gap("guest", error.why, error.next or "krunpy guest build")]
    findings = [_check_firmware(kind, settings)]
    wanted = _DRIVERS[kind]
    if wanted in modules:
        return [*findings, ready("guest", f"kernel {guest.release} with {wanted}")]
    seen = (
        f"its kernel {guest.release} has no module {wanted}: guests can be attested only if that is built in"
    )
    return [*findings, unknown("guest", seen, "build the guest with a kernel of 6.12 or newer")]


def _check_firmware(kind: TeeKind, settings: Settings) -> Finding:
    try:
        guest = load_guest(settings.guest_dir, tee=kind)
        require_unchanged(guest)
        require_fit(kind, guest.firmware)
    except KrunpyError as error:
        return gap("ovmf", error.why, error.next)
    return ready("ovmf", f"the guest has one, {len(guest.firmware) >> 10} KiB")
