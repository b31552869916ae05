"""What one machine boots: firmware, kernel, initrd with the manifest, command line.

The bytes are read once; what is registered comes from the digests recorded when the guest was built, so a
part that was changed since then cannot become a reference value.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from enum import StrEnum

from krunpy.core.errors import FormatError, HostError, UsageError
from krunpy.core.files import load_bounded
from krunpy.core.octets import LaunchDigest
from krunpy.formats.narrow import Fields
from krunpy.guest import libkrun
from krunpy.guest.initrd import build_manifest_member, build_plain_initrd
from krunpy.guest.kernel import MAX_FIRMWARE, MAX_KERNEL
from krunpy.tee.detect import TeeKind


class VmmKind(StrEnum):
    """Which virtual machine monitor a guest is made for."""

    QEMU = "qemu"
    LIBKRUN = "libkrun"


KRUN_KERNEL = "vmlinux.krun"  # the part of a build that libkrun loads, from its own bundle
KRUN_SEV_KERNEL, KRUN_SEV_FIRMWARE = "vmlinux.krun-sev", "qboot.krun-sev"  # what its machines in SEV-SNP boot
# kernel and base
_KERNELS = {KRUN_KERNEL: "krun_kernel", KRUN_SEV_KERNEL: "krun_sev"}  # what guest.json says about them
_PARTS = {VmmKind.QEMU: ("vmlinuz", "base.cpio"), VmmKind.LIBKRUN: (KRUN_KERNEL, "agent")}
PACKAGES = {TeeKind.SNP: "ovmf-amdsev", TeeKind.TDX: "ovmf"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """A built guest, as it is on disk now, with the firmware of one TEE.

    base:     the generic part of the initrd; for libkrun the agent alone.
    firmware: empty for plain machines of libkrun.
    folded:   where libkrun boots from a bundle, the launch digest after firmware and kernel, from the build.
    """

    tee: TeeKind
    vmm: VmmKind = VmmKind.QEMU
    folder: str
    release: str
    cmdline: str
    kernel: bytes
    base: bytes
    firmware: bytes
    recorded: dict[str, str]  # part -> SHA-256 in hex, from the build
    folded: LaunchDigest | None = None

    @property
    def is_bundled(self) -> bool:
        """Whether libkrun boots it from a bundle of libkrunfw's kind, as it does in SEV-SNP."""
        return is_bundled(self.tee, self.vmm)


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestPayload:
    """Exactly the bytes that a machine is to load.

    firmware: empty for plain machines of libkrun. kernel: a bzImage, for libkrun an ELF file. initrd: for plain
    machines of libkrun the boot volume.
    """

    firmware: bytes
    kernel: bytes
    initrd: bytes
    cmdline: str


def is_bundled(tee: TeeKind, vmm: VmmKind) -> bool:
    """Return whether machines of this VMM in this TEE boot from a bundle of libkrunfw's kind."""
    return vmm is VmmKind.LIBKRUN and tee is TeeKind.SNP


def name_firmware(tee: TeeKind) -> str:
    """Return the name of the part that holds the firmware of a TEE."""
    return "firmware.bin" if tee is TeeKind.SOFTWARE else f"firmware-{tee}.fd"


def load_guest(
    guest_dir: str,
    build: str = "current",
    *,
    tee: TeeKind = TeeKind.SOFTWARE,
    vmm: VmmKind = VmmKind.QEMU,
) -> Guest:
    """Return the current guest (or a kept build) for a VMM, with the firmware of a TEE.

    Raises HostError if none was built, or without that firmware or kernel, FormatError if its description is broken.
    """
    folder = find_build(guest_dir, build)
    description = load_description(folder)
    digests = description.take_fields("sha256")
    names = _name_parts(tee, vmm)
    if vmm is VmmKind.LIBKRUN and not digests.has(names[0]):
        raise _make_kernelless(tee)
    if not digests.has(names[-1]):
        raise _make_lacking(tee)
    limits = (MAX_KERNEL, MAX_KERNEL, MAX_FIRMWARE)
    parts = [
        load_bounded(os.path.join(folder, name), limit) for name, limit in zip(names, limits, strict=False)
    ]
    kernel = description.take_fields(_KERNELS.get(names[0], "kernel"))
    return Guest(
        tee=tee,
        vmm=vmm,
        folder=folder,
        release=kernel.take_string("release"),
        cmdline=_choose_cmdline(description, tee, vmm),
        kernel=parts[0],
        base=parts[1],
        firmware=b"".join(parts[2:]),
        folded=LaunchDigest(kernel.take_hex("folded", 48)) if is_bundled(tee, vmm) else None,
        recorded={name: digests.take_string(name) for name in names},
    )


def _choose_cmdline(description: Fields, tee: TeeKind, vmm: VmmKind) -> str:
    """Return the command line; a bundle's kernel has its own, built in."""
    if vmm is VmmKind.QEMU:
        return description.take_string("cmdline")
    return "" if is_bundled(tee, vmm) else libkrun.CMDLINE


def _name_parts(tee: TeeKind, vmm: VmmKind) -> tuple[str, ...]:
    """Return the files of a build that a guest is made of: kernel, base and, but for plain libkrun, firmware."""
    if is_bundled(tee, vmm):
        return (KRUN_SEV_KERNEL, "agent", KRUN_SEV_FIRMWARE)
    return _PARTS[vmm] if vmm is VmmKind.LIBKRUN else (*_PARTS[vmm], name_firmware(tee))


def _make_kernelless(tee: TeeKind) -> HostError:
    if tee is TeeKind.SNP:
        return HostError(
            "cannot use the guest under libkrun in snp",
            why="it was built without kernel and firmware of libkrunfw for SEV",
            next="install libkrunfw-sev (or set libkrunfw to its path), then `krunpy guest build`",
        )
    return HostError(
        "cannot use the guest under libkrun",
        why="it was built without a kernel for libkrun",
        next="install libkrunfw, or `krunpy guest kernel build`, then `krunpy guest build`",
    )


def _make_lacking(tee: TeeKind) -> HostError:
    if tee is TeeKind.SOFTWARE:
        return HostError(
            "cannot use the guest under QEMU",
            why="it was built without a firmware for QEMU, where none was installed",
            next="apt-get install qemu-system-data, then `krunpy guest build`; or --vmm libkrun",
        )
    return HostError(
        f"cannot use the guest in {tee}",
        why=f"it was built without a firmware for {tee}",
        next=f"apt-get install {PACKAGES[tee]} (Debian sid has one that fits) and `krunpy guest build`, or "
        f'`krunpy guest build --{tee}-firmware FILE`; tee = "software" does without, NOT CONFIDENTIAL',
    )


def list_uses(folder: str) -> list[tuple[TeeKind, VmmKind]]:
    """Return the TEEs and VMMs that a build has all parts for. Raises FormatError if its description is broken."""
    digests = load_description(folder).take_fields("sha256")
    uses = [(tee, vmm) for vmm in VmmKind for tee in TeeKind if vmm is VmmKind.QEMU or tee is not TeeKind.TDX]
    return [(tee, vmm) for tee, vmm in uses if all(map(digests.has, _name_parts(tee, vmm)))]


def find_build(guest_dir: str, build: str = "current") -> str:
    """Return the folder of the current guest, or of a kept build. Raises HostError if there is none."""
    folder = os.path.join(guest_dir, build if build == "current" else os.path.join("builds", build))
    if not os.path.exists(os.path.join(folder, "guest.json")):
        raise HostError(
            "cannot find the guest", why=f"{folder} does not exist", next="run `krunpy guest build`"
        )
    return os.path.realpath(folder)


def load_description(folder: str) -> Fields:
    """Return the members of a build's guest.json."""
    text = load_bounded(os.path.join(folder, "guest.json"), 1024 * 1024)
    try:
        return Fields(json.loads(text), f"{folder}/guest.json")
    except (ValueError, RecursionError) as error:
        raise FormatError(f"cannot read {folder}/guest.json", why="it is not JSON") from error


def load_agent(guest: Guest) -> bytes:
    """Return the agent of a guest's build. Raises HostError if it is not what was built."""
    agent = load_bounded(os.path.join(guest.folder, "agent"), MAX_KERNEL)
    _require_recorded(
        "agent", agent, load_description(guest.folder).take_fields("sha256").take_string("agent")
    )
    return agent


def require_unchanged(guest: Guest) -> None:
    """Raise HostError if a part is not what was built: such a guest is booted by nobody who means well."""
    seen = zip(_name_parts(guest.tee, guest.vmm), (guest.kernel, guest.base, guest.firmware), strict=False)
    for name, data in seen:
        _require_recorded(name, data, guest.recorded[name])


def _require_recorded(name: str, data: bytes, recorded: str) -> None:
    digest = hashlib.sha256(data).hexdigest()
    if digest != recorded:
        raise HostError(
            f"cannot use the guest's {name}",
            why=f"SHA-256 is {digest}, recorded when it was built {recorded}",
            next="find out who changed it, then run `krunpy guest build`",
        )


def assemble_payload(guest: Guest, manifest: bytes) -> GuestPayload:
    """Return the bytes that boot the workload of this manifest."""
    if guest.is_bundled:
        return _assemble(guest, build_plain_initrd(guest.base, manifest))
    if guest.vmm is VmmKind.LIBKRUN:
        return _assemble(guest, libkrun.build_boot_volume(guest.base, manifest))
    return _assemble(guest, guest.base + build_manifest_member(manifest))


def assemble_class_payload(guest: Guest) -> GuestPayload:
    """Return the bytes that boot every workload of a class: its manifest comes over the channel.

    Raises UsageError for SEV-SNP under libkrun.
    """
    if guest.is_bundled:
        raise UsageError(
            "cannot bind the manifest by HOST_DATA",
            why="libkrun sets none in snp",
            next="leave it in the initrd, --manifest-in initrd; or --vmm qemu",
        )
    if guest.vmm is VmmKind.LIBKRUN:
        return _assemble(guest, libkrun.build_boot_volume(guest.base, None))
    return _assemble(guest, guest.base)


def _assemble(guest: Guest, initrd: bytes) -> GuestPayload:
    return GuestPayload(firmware=guest.firmware, kernel=guest.kernel, initrd=initrd, cmdline=guest.cmdline)
