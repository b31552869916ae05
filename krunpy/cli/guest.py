"""`krunpy guest`: get a kernel, build what guests boot, say what it is."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from krunpy.cli.context import settings_of
from krunpy.cli.render import format_size, print_json, print_table
from krunpy.core.errors import UsageError
from krunpy.guest.build import build_guest
from krunpy.guest.fetch import fetch_kernel
from krunpy.guest.kernel import load_kernel, require_kernel
from krunpy.guest.payload import load_description, load_guest, require_unchanged

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
    json: JsonFlag = False,
) -> None:
    """Compile the agent, choose kernel and modules, and assemble the initrd reproducibly."""
    guest_dir = settings_of(context).guest_dir
    built = build_guest(
        guest_dir,
        _choose_kernel(guest_dir, kernel, modules),
        note=lambda text: print(f"guest: {text}", file=sys.stderr),
    )
    _show(built.folder, json=json)


@app.command()
def show(context: typer.Context, json: JsonFlag = False) -> None:
    """Show the current guest, and check that its parts are what was built."""
    guest = load_guest(settings_of(context).guest_dir)
    require_unchanged(guest)
    _show(guest.folder, json=json)


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
    parts = {
        name: {"sha256": digests.take_string(name), "bytes": sizes.take_integer(name, maximum=2**40)}
        for name in ("vmlinuz", "base.cpio", "agent", "firmware.bin")
    }
    facts = {
        "folder": folder,
        "kernel": kernel.take_string("release"),
        "kernel_image": kernel.take_string("image"),
        "firmware": fields.take_string("firmware"),
        "cmdline": fields.take_string("cmdline"),
        "modules": list(fields.take_strings("modules", limit=1000)),
        "parts": parts,
    }
    if json:
        print_json("guest", facts)
        return
    for name in ("folder", "kernel", "kernel_image", "firmware", "cmdline"):
        print(f"{name.replace('_', ' '):13} {facts[name]}")
    print(f"{'modules':13} {' '.join(facts['modules'])}")
    print_table(
        ["part", "size", "sha256"],
        [[name, format_size(int(str(part["bytes"]))), str(part["sha256"])] for name, part in parts.items()],
    )
