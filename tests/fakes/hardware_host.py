"""A launcher on a host that seems to have SEV-SNP and TDX: devices and parameters lie in a folder of the test.

Usage: python -m tests.fakes.hardware_host FOLDER CONTAINER SHIM_FD CHANNEL_FD GUEST_FD
"""

from __future__ import annotations

import fcntl
import os
import struct
import sys
from typing import TYPE_CHECKING

from krunpy.core import proc
from krunpy.runtime import control
from krunpy.tee import detect, host_snp
from krunpy.vmm import device

if TYPE_CHECKING:
    from pathlib import Path

C_BIT = 51
_LEAF = 0x8000001F


def make_host(folder: Path, *, parameter: str, devices: int = 0o666) -> None:
    """Write what a host with one of the TEEs has. parameter: "sev_snp" or "tdx". devices: their mode."""
    for name in ("sev", "kvm", "qgs"):
        (folder / name).touch()
        (folder / name).chmod(devices)
    (folder / parameter).write_text("Y\n")
    with (folder / "cpuid").open("wb") as stream:
        stream.seek(_LEAF)
        stream.write(struct.pack("<4I", 0, 1 << 6 | C_BIT, 0, 100))
    (folder / "bin").mkdir()
    (folder / "bin/qemu-system-x86_64").touch(mode=0o755)


def main(argv: list[str]) -> int:
    folder, container, *numbers = argv
    proc.PATH = f"{folder}/bin"
    detect.SNP_PARAMETER, detect.TDX_PARAMETER = f"{folder}/sev_snp", f"{folder}/tdx"
    detect.SEV_DEVICE, detect.QUOTE_SOCKET = f"{folder}/sev", f"{folder}/qgs"
    device.DEVICE = f"{folder}/kvm"
    host_snp._CPUID = f"{folder}/cpuid"
    high = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 100) for number in numbers]
    for number in numbers:
        os.close(int(number))
    wanted = (control.CONTROL_FD, control.CHANNEL_FD, control.GUEST_FD)
    for descriptor, number in zip(high, wanted, strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)
    from krunpy.runtime import launch  # it takes the names above as they are now

    return launch.main(container)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
