"""Build the guest: compile the agent, choose the modules, write kernel, base initrd and what they are.

The result is a folder named by its contents, with a `current` link; older builds stay for `krunpy explain`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from krunpy.core.errors import HostError
from krunpy.core.files import load_bounded, lock, make_private_directory, write_atomically
from krunpy.core.proc import find_program, run
from krunpy.guest.firmware import HARDWARE, find_firmware, load_firmware
from krunpy.guest.initrd import build_base
from krunpy.guest.kernel import MAX_FIRMWARE, MAX_KERNEL, ElfKernel, Kernel
from krunpy.guest.modules import load_modules
from krunpy.guest.payload import KRUN_KERNEL, KRUN_SEV_FIRMWARE, KRUN_SEV_KERNEL, name_firmware
from krunpy.tee.detect import TeeKind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from krunpy.guest.bundle import SevParts

KEPT_BUILDS = 5
# console: messages of the kernel; notests: the kernel's own crypto self-tests cost 0.4 s of a boot under TCG;
# the agent takes nothing from the command line
CMDLINE = "console=ttyS0 quiet loglevel=1 panic=-1 reboot=t cryptomgr.notests=1"
# qboot does nothing that a direct boot does not need: under TCG that saves 0.1 s, and 0.1 s more with a disk
_NONE_NAMED: Mapping[TeeKind, str] = {}
FIRMWARES = ("/usr/share/qemu/qboot.rom", "/usr/share/seabios/bios-256k.bin", "/usr/share/qemu/bios-256k.bin")


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltGuest:
    """What `build_guest` wrote: its folder and the contents of guest.json."""

    folder: str
    description: dict[str, object]


def find_agent_source() -> str:
    """Return the folder of the agent's C source: inside the package, or in the checkout."""
    here = os.path.dirname(os.path.abspath(__file__))
    for folder in (f"{here}/agent_source", f"{here}/../../images/guest/agent"):
        if os.path.exists(f"{folder}/Makefile"):
            return os.path.realpath(folder)
    raise HostError(
        "cannot build the guest agent", why="its source is not installed", next="reinstall krunpy"
    )


def compile_agent(workspace: str) -> bytes:
    """Return the static agent, compiled in a scratch folder. Raises ToolError with the compiler's words."""
    for program, package in (("make", "make"), ("gcc", "gcc libc6-dev libsodium-dev")):
        if find_program(program) is None:
            raise HostError(
                "cannot build the guest agent", why=f"{program} is missing", next=f"apt-get install {package}"
            )
    source = os.path.join(workspace, "source")
    shutil.copytree(find_agent_source(), source, ignore=shutil.ignore_patterns("build"))
    out = os.path.join(workspace, "out")
    run(["make", "-s", "-C", source, f"OUT={out}"], timeout_s=300)
    return load_bounded(os.path.join(out, "agent"), MAX_KERNEL)


def build_guest(
    guest_dir: str,
    kernel: Kernel,
    *,
    note: Callable[[str], None],
    firmwares: Mapping[TeeKind, str] = _NONE_NAMED,
    krun_kernel: ElfKernel | None = None,
    krun_sev: SevParts | None = None,
) -> BuiltGuest:
    """Build into `guest_dir` and make it the current guest.

    note: told each step in a few words. firmwares: files of hardware TEEs; of the others the installed ones are taken.
    krun_kernel: what libkrun boots; without one the guest is for QEMU alone, and without a firmware for QEMU it is
                 libkrun's alone.
    krun_sev:    what it boots in SEV-SNP; without them such machines are QEMU's.

    Raises HostError, ToolError, or FormatError if a named firmware does not fit; the previous guest then stays current.
    """
    make_private_directory(guest_dir)
    with lock(os.path.join(guest_dir, "lock")):
        workspace = os.path.join(guest_dir, f"build.{os.getpid()}")
        shutil.rmtree(workspace, ignore_errors=True)
        make_private_directory(workspace)
        try:
            firmware_path = _find_plain_firmware(is_needed=krun_kernel is None)
            if not firmware_path:
                note("no firmware for QEMU is installed: the guest is libkrun's alone")
            note("compiling the agent")
            agent = compile_agent(workspace)
            note(
                f"choosing modules of {kernel.release}"
                if kernel.modules
                else f"taking {kernel.release}, our own"
            )
            modules = load_modules(kernel)
            confidential = _load_confidential(firmwares, note)
            parts = {
                "agent": agent,
                "base.cpio": build_base(agent, modules.early, modules.late),
                "vmlinuz": load_bounded(kernel.image, MAX_KERNEL),
                **{name_firmware(kind): data for kind, (_, data) in confidential.items()},
            }
            if firmware_path:
                parts[name_firmware(TeeKind.SOFTWARE)] = load_bounded(firmware_path, MAX_FIRMWARE)
            if krun_kernel is not None:
                parts[KRUN_KERNEL] = krun_kernel.contents
            if krun_sev is not None:
                parts |= {KRUN_SEV_KERNEL: krun_sev.kernel.contents, KRUN_SEV_FIRMWARE: krun_sev.qboot}
            description: dict[str, object] = {
                "version": 1,
                "cmdline": CMDLINE,
                "kernel": {"release": kernel.release, "image": kernel.image, "origin": kernel.origin},
                **({} if krun_kernel is None else {"krun_kernel": _describe_krun(krun_kernel)}),
                **({} if krun_sev is None else {"krun_sev": describe_krun_sev(krun_sev)}),
                "firmware": firmware_path,
                "firmwares": {str(kind): path for kind, (path, _) in confidential.items()},
                "modules": [module.name for module in (*modules.early, *modules.late)],
                "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in parts.items()},
                "bytes": {name: len(data) for name, data in parts.items()},
            }
            return _install(guest_dir, parts, description)
        finally:
            shutil.rmtree(workspace, ignore_errors=True)


def _describe_krun(kernel: ElfKernel) -> dict[str, object]:
    return {"release": kernel.release, "origin": kernel.origin}


def describe_krun_sev(parts: SevParts) -> dict[str, object]:
    """Return what is known of a build's parts for SEV-SNP under libkrun: a JSON object."""
    return {**_describe_krun(parts.kernel), "folded": parts.folded.hex()}


def _find_plain_firmware(*, is_needed: bool) -> str:
    """Return the path of a firmware for QEMU, empty if none is installed. Raises HostError if that is needed."""
    path = next((path for path in FIRMWARES if os.path.exists(path)), "")
    if not path and is_needed:
        raise HostError(
            "cannot build the guest",
            why="neither qboot nor SeaBIOS is installed, which QEMU needs, and there is no kernel for libkrun",
            next="apt-get install qemu-system-data; or for libkrun install libkrunfw, or `krunpy guest kernel build`",
        )
    return path


def _load_confidential(
    named: Mapping[TeeKind, str], note: Callable[[str], None]
) -> dict[TeeKind, tuple[str, bytes]]:
    """Return path and contents of the firmware of each hardware TEE that there is one for."""
    found: dict[TeeKind, tuple[str, bytes]] = {}
    for kind in HARDWARE:
        if named.get(kind):
            found[kind] = (named[kind], load_firmware(kind, named[kind]))
        elif (installed := find_firmware(kind, note=note)) is not None:
            found[kind] = installed
    return found


def _install(guest_dir: str, parts: dict[str, bytes], description: dict[str, object]) -> BuiltGuest:
    text = json.dumps(description, indent=1, sort_keys=True).encode() + b"\n"
    name = hashlib.sha256(text).hexdigest()[:16]
    folder = os.path.join(guest_dir, "builds", name)
    make_private_directory(folder)
    for part, data in parts.items():
        write_atomically(os.path.join(folder, part), data)
    write_atomically(os.path.join(folder, "guest.json"), text)
    os.utime(folder)
    link = os.path.join(guest_dir, "current.new")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(link)
    os.symlink(os.path.join("builds", name), link)
    os.rename(link, os.path.join(guest_dir, "current"))
    _remove_old(os.path.join(guest_dir, "builds"), keep=name)
    return BuiltGuest(folder=folder, description=description)


def _remove_old(builds: str, *, keep: str) -> None:
    names = sorted(
        os.listdir(builds), key=lambda name: os.stat(os.path.join(builds, name)).st_mtime, reverse=True
    )
    for name in names[KEPT_BUILDS:]:
        if name != keep:
            shutil.rmtree(os.path.join(builds, name), ignore_errors=True)
