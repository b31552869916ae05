"""The command line of the process that becomes a machine of libkrun. Starts nothing.

libkrun is a library that never returns and ends the process: each machine has one of its own, see `libkrun_child`.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import krunpy
from krunpy.vmm.spec import placeholder

if TYPE_CHECKING:
    from krunpy.vmm.libkrun_spec import KrunSpec

_START = (
    "import sys; sys.path.append(sys.argv[1]); from krunpy.vmm.libkrun_child import main; main(sys.argv[2:])"
)


def build_argv(spec: KrunSpec) -> list[str]:
    """Return the argv of the machine's process; files stand as {fdN}, to be replaced by inherited descriptors."""
    return [*build_start(), *_list_words(spec)]


def build_start() -> list[str]:
    """Return the part of every such argv that is known before the machine is: with WAIT, it waits for the rest."""
    # the virtual environment's own python is a link, often into a directory that machines may not enter
    python = os.path.realpath(sys.executable)
    package = os.path.dirname(os.path.dirname(os.path.abspath(krunpy.__file__)))
    return [python, "-I", "-S", "-c", _START, package]


def _list_words(spec: KrunSpec) -> list[str]:
    words = [
        f"library={spec.libraries.libkrun}",
        f"cpus={spec.cpus}",
        f"memory_mib={spec.memory_mib}",
        f"network={'shared' if spec.is_network_shared else 'none'}",
        f"channel={_path(spec.channel_fd)}",
    ]
    words += [f"group={group}" for group in spec.groups]
    if spec.owner is not None:
        words.append(f"owner={spec.owner[0]}:{spec.owner[1]}")
    disks = (("boot", spec.boot_fd), ("disk", spec.disk_fd))
    words += [f"{name}={_path(index)}" for name, index in disks if index is not None]
    if spec.kernel_fd is not None:
        words += [f"kernel={_path(spec.kernel_fd)}", f"cmdline={spec.cmdline}"]
    if spec.tee is not None:
        tee = spec.tee
        words += [
            f"tee={spec.libraries.flavour}",
            f"bundle={_path(tee.bundle_fd)}",
            f"config={_path(tee.config_fd)}",
        ]
    for share in spec.shares:
        words.append(f"{'ro' if share.is_read_only else 'rw'}={_path(share.directory)}:{share.tag}")
    return words + [f"port={host}:{guest}" for host, guest in spec.ports]


def _path(index: int) -> str:
    return f"/proc/self/fd/{placeholder(index)}"
