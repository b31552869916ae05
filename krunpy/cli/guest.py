"""`krunpy guest`: get a kernel, build what guests boot, say what it is."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from krunpy.cli import guest_kernel
from krunpy.cli.context import settings_of
from krunpy.cli.render import format_size, print_json, print_table
from krunpy.core.errors import FormatError, HostError, UsageError
from krunpy.formats.krun_kernel import wrap_kernel
from krunpy.formats.narrow import Fields
from krunpy.guest.build import build_guest
from krunpy.guest.bundle import SevParts, prepare_parts
from krunpy.guest.fetch import fetch_kernel
from krunpy.guest.firmware import HARDWARE
from krunpy.guest.kernel import (
    DESCRIPTION,
    OWN,
    ElfKernel,
    find_own_kernels,
    find_release,
    load_elf,
    load_kernel,
    load_own_kernel,
    require_kernel,
)
from krunpy.guest.payload import (
    KRUN_KERNEL,
    KRUN_SEV_FIRMWARE,
    KRUN_SEV_KERNEL,
    find_build,
    list_uses,
    load_description,
    load_guest,
    name_firmware,
    require_unchanged,
)
from krunpy.tee.detect import TeeKind
from krunpy.vmm.libkrun_bundle import load_bundle_parts
from krunpy.vmm.libkrun_find import find_libkrunfw
from krunpy.vmm.libkrun_spec import Flavour

if TYPE_CHECKING:
    from collections.abc import Iterator

    from krunpy.core.settings import Settings
    from krunpy.formats.krun_kernel import KrunKernel
    from krunpy.guest.kernel import Kernel

app = typer.Typer(no_args_is_help=True, help="Build and show what guests boot.")
app.add_typer(guest_kernel.app, name="kernel")
DISTRIBUTION = "distribution"
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("fetch-kernel")
def fetch(context: typer.Context) -> None:
    """Unpack this distribution's cloud kernel for guests; nothing is installed on the host."""
    folder = fetch_kernel(settings_of(context).guest_dir)
    print(f"kernel  {require_kernel([folder]).release} in {folder}")


@app.command()
def build(
    context: typer.Context,
    kernel: Annotated[
        str,
        typer.Option(
            metavar="own|distribution|PATH",
            help="The newest that `guest kernel build` made, the distribution's, the folder of one of our own, or a "
            "bzImage (with --modules); default: own if there is one.",
        ),
    ] = "",
    modules: Annotated[str, typer.Option(help="Folder of the modules of a bzImage.")] = "",
    snp_firmware: Annotated[
        str, typer.Option("--snp-firmware", metavar="FILE", help="OVMF for SEV-SNP; default: the installed.")
    ] = "",
    tdx_firmware: Annotated[
        str, typer.Option("--tdx-firmware", metavar="FILE", help="TDVF for TDX; default: the installed.")
    ] = "",
    json: JsonFlag = False,
) -> None:
    """Compile the agent, choose kernel and modules, and assemble the initrd reproducibly."""
    settings = settings_of(context)
    chosen = _choose_kernel(settings.guest_dir, kernel, modules)
    built = build_guest(
        settings.guest_dir,
        chosen,
        note=_note,
        firmwares={TeeKind.SNP: snp_firmware, TeeKind.TDX: tdx_firmware},
        krun_kernel=load_elf(chosen) or _find_bundled(settings),
        krun_sev=_find_sev_parts(settings),
    )
    _show(built.folder, json=json)


@app.command()
def show(context: typer.Context, json: JsonFlag = False) -> None:
    """Show the current guest, and check that its parts are what was built."""
    guest_dir = settings_of(context).guest_dir
    folder = find_build(guest_dir)
    for tee, vmm in list_uses(folder):
        require_unchanged(load_guest(guest_dir, tee=tee, vmm=vmm))
    _show(folder, json=json)


def _find_confidential(digests: Fields) -> list[TeeKind]:
    """Return the hardware TEEs that a build has a firmware for."""
    return [tee for tee in HARDWARE if digests.has(name_firmware(tee))]


def _choose_kernel(guest_dir: str, chosen: str, modules: str) -> Kernel:
    """Return the kernel that was asked for; of none, one of our own before the distribution's."""
    kept = os.path.join(guest_dir, "kernels")
    folder = chosen if os.path.exists(os.path.join(chosen, DESCRIPTION)) else ""
    if bool(modules) == (bool(folder) or chosen in ("", OWN, DISTRIBUTION)):
        why = "--modules goes with --kernel BZIMAGE, and with nothing else"
        raise UsageError("cannot choose the kernel", why=why)
    if modules:
        return load_kernel(chosen, modules)
    own = [folder] if folder else find_own_kernels(kept)
    if own and chosen != DISTRIBUTION:
        return load_own_kernel(os.path.abspath(own[0]))
    if chosen == OWN:
        next_step = "run `krunpy guest kernel build`"
        raise HostError("cannot choose the kernel", why=f"there is none of our own in {kept}", next=next_step)
    fetched = [os.path.join(kept, name) for name in sorted(os.listdir(kept))] if os.path.isdir(kept) else []
    return require_kernel([*fetched, "/"])


def _find_bundled(settings: Settings) -> ElfKernel | None:
    """Return the kernel in a libkrunfw for plain machines, None if there is none: then they are QEMU's alone."""
    for path, kernel, _ in _list_libkrunfw(settings, Flavour.PLAIN):
        try:
            return ElfKernel(contents=wrap_kernel(kernel), release=find_release(kernel.image), origin=path)
        except FormatError as error:
            _note(f"{error.what}: {error.why}")
    return None


def _find_sev_parts(settings: Settings) -> SevParts | None:
    """Return kernel and firmware in a libkrunfw for SEV, None if there is none: then SEV-SNP is QEMU's alone."""
    for path, kernel, qboot in _list_libkrunfw(settings, Flavour.SEV):
        try:
            return prepare_parts(kernel, qboot, origin=path)
        except FormatError as error:
            _note(f"{error.what}: {error.why}")
    return None


def _list_libkrunfw(settings: Settings, flavour: Flavour) -> Iterator[tuple[str, KrunKernel, bytes]]:
    """Yield path, kernel and firmware of each libkrunfw of a flavour: the configured one, then the installed one.

    Raises HostError if the settings name a library that is not there.
    """
    paths = (find_libkrunfw(settings.libkrunfw, flavour), find_libkrunfw("", flavour))
    for path in dict.fromkeys(path for path in paths if path is not None):
        try:
            kernel, qboot = load_bundle_parts(path)
        except HostError as error:
            _note(f"{error.what}: {error.why}")
            continue
        if bool(qboot) == (flavour is not Flavour.PLAIN):  # a firmware is for a TEE
            _note(f"taking the kernel for libkrun{'' if flavour is Flavour.PLAIN else '-sev'} out of {path}")
            yield path, kernel, qboot


def _note(text: str) -> None:
    print(f"guest: {text}", file=sys.stderr)


def _describe_krun(description: Fields, name: str) -> str:
    """Return release and origin of a kernel for libkrun."""
    if not description.has(name):
        return "none: not for libkrun" if name == "krun_kernel" else "none: SEV-SNP is QEMU's"
    kernel = description.take_fields(name)
    return f"{kernel.take_string('release')} ({kernel.take_string('origin')})"


def _show(folder: str, *, json: bool) -> None:
    fields = load_description(folder)
    kernel = fields.take_fields("kernel")
    digests, sizes = fields.take_fields("sha256"), fields.take_fields("bytes")
    confidential = _find_confidential(digests)
    sources = fields.take_fields("firmwares") if confidential else Fields({}, folder)
    firmwares = {str(tee): sources.take_string(tee) for tee in confidential}
    parts = {
        name: {"sha256": digests.take_string(name), "bytes": sizes.take_integer(name, maximum=2**40)}
        for name in (
            "vmlinuz",
            "base.cpio",
            "agent",
            "firmware.bin",
            *map(name_firmware, confidential),
            KRUN_KERNEL,
            KRUN_SEV_KERNEL,
            KRUN_SEV_FIRMWARE,
        )
        if digests.has(name)
    }
    facts = {
        "folder": folder,
        "kernel": kernel.take_string("release"),
        "kernel_image": kernel.take_string("image"),
        "kernel_origin": kernel.take_string("origin"),
        "krun_kernel": _describe_krun(fields, "krun_kernel"),
        "krun_sev": _describe_krun(fields, "krun_sev"),
        "firmware": fields.take_string("firmware") or "none: not for QEMU",
        "firmwares": firmwares,
        "cmdline": fields.take_string("cmdline"),
        "modules": list(fields.take_strings("modules", limit=1000)),
        "parts": parts,
    }
    if json:
        print_json("guest", facts)
        return
    for name in ("folder", "kernel", "kernel_image", "krun_kernel", "krun_sev", "firmware", "cmdline"):
        print(f"{name.replace('_', ' '):13} {facts[name]}")
    for tee, path in firmwares.items():
        print(f"{f'{tee} firmware':13} {path}")
    print(f"{'modules':13} {' '.join(facts['modules']) or 'none: built in'}")
    print_table(
        ["part", "size", "sha256"],
        [[name, format_size(int(str(part["bytes"]))), str(part["sha256"])] for name, part in parts.items()],
    )
