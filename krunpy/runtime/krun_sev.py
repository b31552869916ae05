"""A launch in SEV-SNP under libkrun: what the machine loads, and the message that makes the shim start it.

libkrun is told no kernel: the process of the machine loads a bundle of ours before it, whose name libkrun asks for.
Source: libkrun src/libkrun/src/lib.rs; docs/decisions/0007.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from krunpy.formats.krun_bundle import SONAMES, pack_parts
from krunpy.formats.krun_tee_config import encode_tee_config
from krunpy.guest.bundle import open_payload
from krunpy.runtime.confidential import choose_confidential_accel, find_device_groups
from krunpy.runtime.krun_machine import PANIC
from krunpy.runtime.machine import BundleFiles, MachineRequest
from krunpy.tee.detect import TeeKind
from krunpy.vmm.device import DEVICE, find_group
from krunpy.vmm.files import make_sealed_file
from krunpy.vmm.libkrun import build_argv
from krunpy.vmm.libkrun_features import require_sev
from krunpy.vmm.libkrun_find import find_libraries
from krunpy.vmm.libkrun_spec import Flavour, KrunSpec, TeeLaunch

if TYPE_CHECKING:
    from krunpy.core.settings import Settings
    from krunpy.guest.payload import GuestPayload
    from krunpy.runtime.machine import Machine

_BUNDLE, _CONFIG, _CHANNEL, _DISK = range(4)  # among the machine's descriptors


def load_bundle(payload: GuestPayload, *, workload: str, cpus: int, memory_mib: int) -> BundleFiles:
    """Return sealed files with the bundle and the TEE's configuration; nobody finds them by a path.

    Raises FormatError if the payload is no bundle, or its initrd does not fit below the kernel.
    """
    config = encode_tee_config(workload=workload, cpus=cpus, memory_mib=memory_mib)
    return BundleFiles(
        bundle=make_sealed_file("bundle", *pack_parts(open_payload(payload), SONAMES[0])),
        config=make_sealed_file("tee", config),
    )


def make_sev_request(machine: Machine, settings: Settings) -> MachineRequest:
    """Return the request for libkrun, of a machine with the files of `load_bundle`.

    Raises HostError if libkrun-sev is missing or not built for SEV-SNP, or only root may open a device.
    """
    choose_confidential_accel(settings.accel)
    libraries = find_libraries(settings.libkrun, settings.libkrunfw, Flavour.SEV)
    require_sev(libraries.libkrun)
    groups = dict.fromkeys((find_group(DEVICE), *find_device_groups(TeeKind.SNP)))
    # libkrun opens it anew, as the machine's user; others are kept out by the cache's private directory
    os.fchmod(machine.disk_fd, 0o444)
    spec = KrunSpec(
        libraries=libraries,
        memory_mib=machine.memory_mib,
        cpus=machine.cpus,
        cmdline="",
        kernel_fd=None,
        boot_fd=None,
        channel_fd=_CHANNEL,
        disk_fd=_DISK,
        tee=TeeLaunch(bundle_fd=_BUNDLE, config_fd=_CONFIG),
        groups=tuple(group for group in groups if group is not None),
    )
    return MachineRequest(
        argv=tuple(build_argv(spec)), descriptors=machine.descriptors, groups=None, fatal=PANIC
    )
