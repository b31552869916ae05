"""Whether KVM can really boot a guest here: by booting one, never by the device file's existence.

The answer is kept per boot of the host, because a probe takes up to PROBE_TIMEOUT_S.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from typing import TYPE_CHECKING

from krunpy.core.errors import HostError, KrunpyError, ToolError
from krunpy.core.files import load_bounded, make_private_directory, write_atomically
from krunpy.core.proc import run
from krunpy.formats.frames import HEADER, parse_guest_header
from krunpy.vmm.device import DEVICE, is_open_to_machines
from krunpy.vmm.files import make_sealed_file
from krunpy.vmm.qemu import build_argv, require_qemu
from krunpy.vmm.spec import Accel, VmSpec

if TYPE_CHECKING:
    from krunpy.guest.payload import Guest

PROBE_TIMEOUT_S = 12.0


def choose_accel(wanted: str, guest: Guest, data_dir: str) -> Accel:
    """Return how to run a guest: as wanted, or for "auto" KVM where a guest boots under it, else TCG."""
    if wanted == "auto":
        return Accel.KVM if is_kvm_usable(guest, data_dir) else Accel.TCG
    try:
        return Accel(wanted)
    except ValueError:
        raise HostError(
            "cannot start a machine", why=f'accel is "{wanted}", wanted auto, tcg or kvm'
        ) from None


def is_kvm_usable(guest: Guest, data_dir: str) -> bool:
    """Return whether a guest boots under KVM; ask the machine once per boot of the host."""
    if not os.access(DEVICE, os.R_OK | os.W_OK) or not is_open_to_machines(DEVICE):
        return False
    path = os.path.join(data_dir, "kvm-probe.json")
    key = {
        "boot": load_bounded("/proc/sys/kernel/random/boot_id", 64).decode().strip(),
        "guest": guest.release,
    }
    with contextlib.suppress(KrunpyError, ValueError):
        known = json.loads(load_bounded(path, 4096))
        if isinstance(known, dict) and known.get("key") == key:
            return known.get("usable") is True
    usable = probe_kvm(guest)
    make_private_directory(data_dir)
    write_atomically(path, json.dumps({"key": key, "usable": usable}).encode())
    return usable


def probe_kvm(guest: Guest) -> bool:
    """Boot the agent without a manifest under KVM; it works if the agent gets to say why it stops."""
    ours, theirs = socket.socketpair()
    files = [make_sealed_file(name, data) for name, data in _probe_files(guest)]
    try:
        inherited = [*files, theirs.fileno()]
        spec = VmSpec(
            accel=Accel.KVM, memory_mib=256, cpus=1, cmdline=guest.cmdline,
            firmware_fd=0, kernel_fd=1, initrd_fd=2, channel_fd=3, disk_fd=None,
        )  # fmt: skip
        argv = [
            word.format(**{f"fd{i}": fd for i, fd in enumerate(inherited)})
            for word in build_argv(spec, require_qemu())
        ]
        with contextlib.suppress(ToolError):
            run(argv, timeout_s=PROBE_TIMEOUT_S, pass_fds=inherited)
        theirs.close()
        ours.settimeout(1.0)
        header = ours.recv(HEADER.size, socket.MSG_WAITALL)
        parse_guest_header(header)
    except (OSError, KrunpyError):
        return False
    else:
        return True
    finally:
        for end in (ours, theirs):
            end.close()
        for descriptor in files:
            os.close(descriptor)


def _probe_files(guest: Guest) -> list[tuple[str, bytes]]:
    return [("firmware", guest.firmware), ("kernel", guest.kernel), ("initrd", guest.base)]
