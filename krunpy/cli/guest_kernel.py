"""`krunpy guest kernel`: build a guest kernel of our own configuration."""

from __future__ import annotations

import os
import sys
import time
from typing import Annotated

import typer

from krunpy.cli.context import settings_of
from krunpy.cli.render import format_size, print_json
from krunpy.formats.narrow import Fields
from krunpy.guest.kernel import ELF, IMAGE
from krunpy.guest.kernel_build import build_kernel
from krunpy.guest.kernel_options import find_fragments
from krunpy.guest.kernel_source import find_source

app = typer.Typer(no_args_is_help=True, help="Build a kernel for guests.")


@app.callback()
def kernel() -> None:
    """Build a kernel for guests: small, without modules, for QEMU and libkrun, SEV-SNP and TDX."""


@app.command()
def build(
    context: typer.Context,
    source: Annotated[
        str,
        typer.Option(metavar="TREE|TARBALL", help="Linux source; default: the distribution's linux-source."),
    ] = "",
    patches: Annotated[
        str, typer.Option(metavar="DIR", help="Apply DIR/*.patch to it, in the order of their names.")
    ] = "",
    jobs: Annotated[
        int, typer.Option(min=1, max=1024, help="Compilers at a time; default: one a processor.")
    ] = os.cpu_count() or 1,
    output: Annotated[
        str, typer.Option(metavar="DIR", help="Put its folder there, not where `guest build` looks.")
    ] = "",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compile a guest kernel reproducibly; the same source, options and compiler give nothing to do."""
    progress = _Progress()
    try:
        built = build_kernel(
            os.path.abspath(output) if output else os.path.join(settings_of(context).guest_dir, "kernels"),
            find_source(source, patches),
            fragments=find_fragments(),
            jobs=jobs,
            progress=progress,
        )
    finally:
        progress.close()
    fields = Fields(built.description, built.folder)
    sizes, digests = fields.take_fields("bytes"), fields.take_fields("sha256")
    facts = {
        "folder": built.folder,
        "release": fields.take_string("release"),
        "was_there": built.was_there,
        "source": fields.take_string("source_name"),
        "source_sha256": fields.take_string("source"),
        "patches": list(fields.take_strings("patch_names", limit=1000)),
        "compiler": fields.take_string("compiler"),
        "unknown": list(fields.take_strings("unknown", limit=1000)),
        "parts": {
            name: {"sha256": digests.take_string(name), "bytes": sizes.take_integer(name, maximum=2**40)}
            for name in (IMAGE, ELF)
        },
    }
    print_json("kernel", facts) if json else _show(facts, built.was_there)


def _show(facts: dict[str, object], was_there: bool) -> None:
    parts = Fields(facts["parts"], "parts")
    for name in ("release", "folder", "source", "compiler"):
        print(f"{name:9} {facts[name]}")
    for name in (IMAGE, ELF):
        part = parts.take_fields(name)
        size = format_size(part.take_integer("bytes", maximum=2**40))
        print(f"{name:9} {size}, sha256 {part.take_string('sha256')}")
    if was_there:
        print("nothing to do: the same source, options and compiler built it before")


class _Progress:
    """Stage, percent and time on one line of stderr if that is a terminal, else a line for each stage."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._is_terminal = sys.stderr.isatty()
        self._stage = ""
        self._shown = 0.0

    def __call__(self, stage: str, part: float) -> None:
        """Show a stage and how much of it is done, 0 to 1, at most five times a second."""
        now = time.monotonic()
        if stage != self._stage:
            self.close()
        elif not self._is_terminal or now - self._shown < 0.2:  # noqa: PLR2004
            return
        self._stage, self._shown = stage, now
        if not self._is_terminal:
            print(f"kernel: {stage}", file=sys.stderr, flush=True)
            return
        minutes, seconds = divmod(int(now - self._began), 60)
        percent = f" {part:4.0%}" if part else ""
        print(
            f"\rkernel: {stage}{percent}  {minutes}:{seconds:02}\x1b[K", end="", file=sys.stderr, flush=True
        )

    def close(self) -> None:
        """End the line."""
        if self._is_terminal and self._stage:
            print(file=sys.stderr)
