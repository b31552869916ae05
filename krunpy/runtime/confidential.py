"""Which TEE a machine is launched in, and what a launch in a hardware TEE needs of the host.

Nothing is chosen silently: where the host offers hardware, `auto` means that hardware, and what is missing for it is an
error. The software TEE is used where there is no hardware, or where it was chosen by name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from krunpy.core.errors import HostError
from krunpy.formats.manifest import make_host_data, make_mrconfigid
from krunpy.tee.detect import QUOTE_SOCKET, SEV_DEVICE, TeeKind, find_host_tee, read_host_file
from krunpy.vmm.device import find_group
from krunpy.vmm.spec import Accel, SnpLaunch, TdxLaunch

if TYPE_CHECKING:
    from collections.abc import Callable

    from krunpy.core.octets import Digest32
    from krunpy.tee.host_tree import HostTree

AUTO = "auto"
# what a machine's process opens by name
_OPENED = {TeeKind.SNP: SEV_DEVICE, TeeKind.TDX: QUOTE_SOCKET}


@dataclass(frozen=True, slots=True, kw_only=True)
class Confidential:
    """A launch in a hardware TEE, and the groups that its machine's user is to be in for it."""

    launch: SnpLaunch | TdxLaunch
    groups: tuple[int, ...]


def choose_tee(wanted: str, read: Callable[[str], str | None] = read_host_file) -> TeeKind:
    """Return the TEE that the setting `tee` means here.

    wanted: auto, software, snp or tdx. read: as for `find_host_tee`.
    """
    return find_host_tee(read).kind if wanted == AUTO else TeeKind(wanted)


def require_offered(tee: TeeKind, read: Callable[[str], str | None] = read_host_file) -> None:
    """Raise HostError if this host cannot launch machines in a TEE."""
    if tee is TeeKind.SOFTWARE:
        return
    found = find_host_tee(read)
    if found.kind is tee:
        return
    why = [reason.partition(": ")[2] for reason in found.reasons if reason.startswith(f"{tee}: ")]
    if tee is TeeKind.SNP and read(SEV_DEVICE) is None:
        why += [f"{SEV_DEVICE} does not exist"]
    raise HostError(
        f"cannot launch a machine in {tee}",
        why=f"this host does not offer it: {', '.join(dict.fromkeys(why)) or f'it offers {found.kind}'}",
        next=_find_help(tee),
    )


def choose_confidential_accel(wanted: str) -> Accel:
    """Return KVM, without which there is no hardware TEE. Raises HostError if the setting `accel` is tcg."""
    if wanted in (AUTO, Accel.KVM):
        return Accel.KVM
    raise HostError(
        "cannot launch a machine in a hardware TEE",
        why=f"accel is {wanted}, wanted kvm",
        next='set accel to "auto", or tee to "software"',
    )


def make_confidential(
    tee: TeeKind, manifest_hash: Digest32, tree: HostTree | None = None
) -> Confidential | None:
    """Return what a machine's launch in a TEE is told, None for the software TEE.

    tree: of a host in place of this one.

    Raises HostError if the host does not let an ordinary user launch it, or does not say how.
    """
    if tee is TeeKind.SOFTWARE:
        return None
    from krunpy.tee.host_tree import HostTree

    tree = tree or HostTree()
    groups = find_device_groups(tee, tree)
    launch = (
        _make_snp(manifest_hash, tree)
        if tee is TeeKind.SNP
        else TdxLaunch(mrconfigid=make_mrconfigid(manifest_hash))
    )
    return Confidential(launch=launch, groups=groups)


def find_device_groups(tee: TeeKind, tree: HostTree | None = None) -> tuple[int, ...]:
    """Return the groups that open what a machine in a hardware TEE opens by name. tree: of a host in place of this one.

    Raises HostError if the host does not let an ordinary user do so.
    """
    from krunpy.tee.host_tree import HostTree

    try:
        group = find_group((tree or HostTree()).locate(_OPENED[tee]))
    except HostError as error:
        error.next = error.next or _find_help(tee)
        raise
    return () if group is None else (group,)


def _find_help(tee: TeeKind) -> str:
    return f'`krunpy doctor --require {tee}` lists what is missing; tee = "software" does without, NOT CONFIDENTIAL'


def _make_snp(manifest_hash: Digest32, tree: HostTree) -> SnpLaunch:
    from krunpy.measure.launch import DEFAULT_VCPU_TYPE
    from krunpy.tee.host_snp import find_sev_cpuid

    cpuid = find_sev_cpuid(tree)
    if cpuid is None or not cpuid.c_bit:
        raise HostError(
            "cannot launch a machine in snp",
            why="/dev/cpu/0/cpuid, which says where the encryption bit is, cannot be read or has none",
            next="modprobe cpuid, and run krunpy as root; `krunpy doctor --require snp` lists what else is missing",
        )
    return SnpLaunch(
        host_data=make_host_data(manifest_hash),
        c_bit=cpuid.c_bit,
        reduced_phys_bits=cpuid.reduced_phys_bits,
        vcpu_type=DEFAULT_VCPU_TYPE,
    )
