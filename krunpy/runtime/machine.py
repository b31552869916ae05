"""Load a machine: sealed files, the software TEE that measures them, and the message that makes the shim start it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from krunpy.vmm.device import DEVICE, find_group
from krunpy.vmm.files import make_sealed_file, read_sealed_file
from krunpy.vmm.qemu import build_argv, require_qemu
from krunpy.vmm.spec import Accel, VmSpec

if TYPE_CHECKING:
    from krunpy.core.octets import HostData, LaunchDigest
    from krunpy.guest.payload import GuestPayload
    from krunpy.runtime.confidential import Confidential
    from krunpy.tee.software import UnsafeSoftwareTee


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedFiles:
    """Descriptors of what the machine loads, and its command line; nobody can change them any more."""

    firmware: int
    kernel: int
    initrd: int
    cmdline: str

    @property
    def descriptors(self) -> tuple[int, ...]:
        """All of them: firmware, kernel, initrd."""
        return (self.firmware, self.kernel, self.initrd)


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleFiles:
    """Descriptors of what a machine of libkrun in SEV-SNP loads: a bundle, and the TEE's configuration."""

    bundle: int
    config: int

    @property
    def descriptors(self) -> tuple[int, ...]:
        """All of them: bundle, configuration."""
        return (self.bundle, self.config)


def load_files(payload: GuestPayload) -> LoadedFiles:
    """Return sealed files with the payload's bytes."""
    return LoadedFiles(
        firmware=make_sealed_file("firmware", payload.firmware),
        kernel=make_sealed_file("kernel", payload.kernel),
        initrd=make_sealed_file("initrd", payload.initrd),
        cmdline=payload.cmdline,
    )


def measure_loaded(
    files: LoadedFiles, *, cpus: int, host_data: HostData, authority_dir: str
) -> tuple[UnsafeSoftwareTee, LaunchDigest]:
    """Return the software TEE of this machine and its launch digest.

    The pages are made from the bytes in the sealed files, in the order in which a launch measures them.
    """
    # 40 ms of imports that must not stand before the machine's start
    from datetime import UTC, datetime

    from krunpy.measure.kernel_hashes import hash_direct_boot
    from krunpy.measure.launch import LaunchInputs, find_layout, iter_launch_pages
    from krunpy.tee.authority import open_authority
    from krunpy.tee.software import UnsafeSoftwareTee

    firmware = read_sealed_file(files.firmware)
    inputs = LaunchInputs(
        layout=find_layout(firmware),
        firmware=firmware,
        kernel_hashes=hash_direct_boot(
            read_sealed_file(files.kernel), read_sealed_file(files.initrd), files.cmdline
        ),
        vcpus=cpus,
    )
    tee = UnsafeSoftwareTee(open_authority(authority_dir, now=datetime.now(UTC)))
    tee.launch_start()
    for page in iter_launch_pages(inputs):
        tee.launch_update(page.kind, page.gpa, page.contents)
    return tee, tee.launch_finish(host_data)


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineRequest:
    """What the shim is asked to start: argv with placeholders, the files they stand for, and those to keep open.

    groups: the only ones that the machine's user is in: those of the devices that it opens by name. None: it leaves
            root by itself.
    fatal:  what a machine says that will neither go on nor end by itself; empty for none.
    """

    argv: tuple[str, ...]
    descriptors: tuple[int, ...]
    groups: tuple[int, ...] | None
    fatal: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A machine to start: its size, its files, and its descriptors.

    channel_fd: the guest's end of the channel. disk_fd: the workload's disk, for reading.
    shared:     directories that the guest may mount.
    kept:       what lives as long as the machine, the cache's hold on the image.
    """

    files: LoadedFiles | BundleFiles
    memory_mib: int
    cpus: int
    channel_fd: int
    disk_fd: int
    shared: tuple[int, ...] = ()
    kept: tuple[int, ...] = ()

    @property
    def descriptors(self) -> tuple[int, ...]:
        """All of them: the files', channel, disk, what is shared, and what is kept."""
        return (*self.files.descriptors, self.channel_fd, self.disk_fd, *self.shared, *self.kept)


def make_machine_request(
    machine: Machine, *, accel: Accel, confidential: Confidential | None = None
) -> MachineRequest:
    """Return the request for QEMU. confidential: the launch in a hardware TEE; None for a plain machine.

    Raises HostError if a device is needed that only root may open, or a hardware TEE without KVM.
    """
    assert isinstance(machine.files, LoadedFiles)
    spec = VmSpec(
        accel=accel,
        memory_mib=machine.memory_mib,
        cpus=machine.cpus,
        cmdline=machine.files.cmdline,
        firmware_fd=0,
        kernel_fd=1,
        initrd_fd=2,
        channel_fd=3,
        disk_fd=4,
        tee=None if confidential is None else confidential.launch,
    )
    groups = [find_group(DEVICE) if accel is Accel.KVM else None]
    groups += [] if confidential is None else confidential.groups
    return MachineRequest(
        argv=tuple(build_argv(spec, require_qemu())),
        descriptors=machine.descriptors,
        groups=tuple(dict.fromkeys(group for group in groups if group is not None)),
    )


def open_disk(path: str) -> int:
    """Return a descriptor of the disk, for reading only."""
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
