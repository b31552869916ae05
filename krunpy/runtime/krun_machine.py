"""The message that makes the shim start a machine under libkrun."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from krunpy.runtime import control
from krunpy.runtime.machine import LoadedFiles, MachineRequest
from krunpy.runtime.vm_host import choose_owner, describe_shares
from krunpy.tee.detect import TeeKind
from krunpy.vmm.device import DEVICE, find_group
from krunpy.vmm.libkrun import build_argv, build_start
from krunpy.vmm.libkrun_child import WAIT
from krunpy.vmm.libkrun_find import find_libraries
from krunpy.vmm.libkrun_spec import KrunSpec

if TYPE_CHECKING:
    import socket

    from krunpy.core.settings import Settings
    from krunpy.runtime.machine import Machine
    from krunpy.runtime.vm_shares import Shares

PANIC = " panicked at "  # libkrun's threads are Rust's: one that panics leaves the others waiting for it
_KERNEL, _BOOT, _CHANNEL, _DISK, _FIRST_SHARED = 1, 2, 3, 4, 5  # among the machine's descriptors


def announce_machine(shim: socket.socket, settings: Settings, tee: TeeKind) -> None:
    """Have the shim start the machine's process now: it is ready when the launcher knows what machine it will be.

    Raises HostError if a plain machine has no libkrun.
    """
    words = [WAIT]
    if tee is TeeKind.SOFTWARE:  # in a TEE the bundle is loaded first
        words.append(find_libraries(settings.libkrun, settings.libkrunfw).libkrun)
    control.send_message(shim, {"kind": "prepare", "argv": build_start(), "words": words})


def make_krun_request(machine: Machine, shares: Shares, settings: Settings) -> MachineRequest:
    """Return the request for libkrun.

    Raises HostError if libkrun is missing, only root may open /dev/kvm, or the machine cannot be anybody who may have
    the shared directories.
    """
    group = find_group(DEVICE)
    assert isinstance(machine.files, LoadedFiles)
    # libkrun opens it anew, as the machine's user; others are kept out by the cache's private directory
    os.fchmod(machine.disk_fd, 0o444)
    spec = KrunSpec(
        libraries=find_libraries(settings.libkrun, settings.libkrunfw),
        memory_mib=machine.memory_mib,
        cpus=machine.cpus,
        cmdline=machine.files.cmdline,
        kernel_fd=_KERNEL,
        boot_fd=_BOOT,
        channel_fd=_CHANNEL,
        disk_fd=_DISK,
        shares=describe_shares(shares, first=_FIRST_SHARED),
        ports=shares.ports,
        is_network_shared=shares.has_network,
        groups=() if group is None else (group,),
        owner=choose_owner(shares, machine.shared),
    )
    return MachineRequest(
        argv=tuple(build_argv(spec)), descriptors=machine.descriptors, groups=None, fatal=PANIC
    )
