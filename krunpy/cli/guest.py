"""`krunpy guest`: get a kernel, build what guests boot, say what it is."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from krunpy.cli.context import settings_of
from krunpy.cli.render import format_size, print_json, print_table
from krunpy.core.errors import UsageError
from krunpy.formats.narrow import Fields
from krunpy.guest.build import build_guest
from krunpy.guest.fetch import fetch_kernel
from krunpy.guest.firmware import HARDWARE
from krunpy.guest.kernel import load_kernel, require_kernel
from krunpy.guest.payload import load_description, load_guest, name_firmware, require_unchanged
from krunpy.tee.detect import TeeKind

if TYPE_CHECKING:
    from krunpy.guest.kernel import Kernel

app = typer.Typer(no_args_is_help=True, help="Build and show what guests boot.")
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("fetch-kernel")
def fetch(context: typer.Context) -> None:
    """Unpack this distribution's cloud kernel for guests; nothing is installed on the host."""
    folder = fetch_kernel(settings_of(context).guest_dir)
    print(f"kernel  {require_kernel([folder]).release} in {folder}")


@app.command()
def build(
    context: typer.Context,
    kernel: Annotated[str, typer.Option(help="Kernel image (bzImage) instead of the one found.")] = "",
    modules: Annotated[str, typer.Option(help="Folder of its modules, with --kernel.")] = "",
    snp_firmware: Annotated[
        str, typer.Option("--snp-firmware", metavar="FILE", help="OVMF for SEV-SNP; default: the installed.")
    ] = "",
    tdx_firmware: Annotated[
        str, typer.Option("--tdx-firmware", metavar="FILE", help="TDVF for TDX; default: the installed.")
    ] = "",
    json: JsonFlag = False,
) -> None:
    """Compile the agent, choose kernel and modules, and assemble the initrd reproducibly."""
    guest_dir = settings_of(context).guest_dir
    built = build_guest(
        guest_dir,
        _choose_kernel(guest_dir, kernel, modules),
        note=lambda text: print(f"guest: {text}", file=sys.stderr),
        firmwares={TeeKind.SNP: snp_firmware, TeeKind.TDX: tdx_firmware},
    )
    _show(built.folder, json=json)


@app.command()
def show(context: typer.Context, json: JsonFlag = False) -> None:
    """Show the current guest, and check that its parts are what was built."""
    guest_dir = settings_of(context).guest_dir
    guest = load_guest(guest_dir)
    require_unchanged(guest)
    for tee in _find_confidential(load_description(guest.folder).take_fields("sha256")):
        require_unchanged(load_guest(guest_dir, tee=tee))
    _show(guest.folder, json=json)


def _find_confidential(digests: Fields) -> list[TeeKind]:
    """Return the hardware TEEs that a build has a firmware for."""
    return [tee for tee in HARDWARE if digests.has(name_firmware(tee))]


def _choose_kernel(guest_dir: str, image: str, modules: str) -> Kernel:
    if bool(image) != bool(modules):
        raise UsageError("cannot choose the kernel", why="--kernel and --modules go together")
    if image:
        return load_kernel(image, modules)
    kept = os.path.join(guest_dir, "kernels")
    fetched = [os.path.join(kept, name) for name in sorted(os.listdir(kept))] if os.path.isdir(kept) else []
    return require_kernel([*fetched, "/"])


def _show(folder: str, *, json: bool) -> None:
    fields = load_description(folder)
    kernel = fields.take_fields("kernel")
    digests, sizes = fields.take_fields("sha256"), fields.take_fields("bytes")
    confidential = _find_confidential(digests)
    sources = fields.take_fields("firmwares") if confidential else Fields({}, folder)
    firmwares = {str(tee): sources.take_string(tee) for tee in confidential}
    parts = {
        name: {"sha256": digests.take_string(name), "bytes": sizes.take_integer(name, maximum=2**40)}
        for name in ("vmlinuz", "base.cpio", "agent", "firmware.bin", *map(name_firmware, confidential))
    }
    facts = {
        "folder": folder,
        "kernel": kernel.take_string("release"),
        "kernel_image": kernel.take_string("image"),
        "firmware": fields.take_string("firmware"),
        "firmwares": firmwares,
        "cmdline": fields.take_string("cmdline"),
        "modules": list(fields.take_strings("modules", limit=1000)),
        "parts": parts,
    }
    if json:
        print_json("guest", facts)
        return
    for name in ("folder", "kernel", "kernel_image", "firmware", "cmdline"):
        print(f"{name.replace('_', ' '):13} {facts[name]}")
    for tee, path in firmwares.items():
        print(f"{f'{tee} firmware':13} {path}")
    print(f"{'modules':13} {' '.join(facts['modules'])}")
    print_table(
        ["part", "size", "sha256"],
        [[name, format_size(int(str(part["bytes"]))), str(part["sha256"])] for name, part in parts.items()],
    )
