"""`krunpy image convert --format libkrun-sev`: confidential images of libkrun, as `buildah mkcw` makes them."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from krunpy.cli.image_legacy import PASSPHRASE_LIMIT
from krunpy.cli.render import Progress, print_json
from krunpy.core.errors import HostError, UsageError, make_plain
from krunpy.core.files import load_bounded, write_new
from krunpy.core.octets import Secret
from krunpy.formats.krun_footer import KrunConfig
from krunpy.image.libkrun_sev_config import (
    TEE,
    Generation,
    encode_tee_data,
    require_config,
    require_passphrase,
)
from krunpy.image.libkrun_sev_slop import parse_slop

if TYPE_CHECKING:
    from collections.abc import Iterator

    from krunpy.image.libkrun_sev import SevImage
    from krunpy.image.tree import Source

GENERATED_SIZE = 32  # bytes of a passphrase that is made here; it is their hex digits
DEFAULT_CPUS = 2
DEFAULT_MEMORY_MIB = 512
_ARCHIVE_SUFFIX = ".tar"


class ImageFormat(StrEnum):
    """What `convert` makes: an image in the cache, or one that libkrun's other users know."""

    KRUNPY = "krunpy"
    LIBKRUN_SEV = "libkrun-sev"


FormatOption = Annotated[
    ImageFormat,
    typer.Option(
        "--format", help="krunpy: into the cache. libkrun-sev: a confidential image of libkrun, to OUTPUT."
    ),
]
OutputArgument = Annotated[
    str,
    typer.Argument(
        metavar="[OUTPUT]", help="libkrun-sev only: a new directory, or a new file that ends in .tar."
    ),
]
PassphraseOption = Annotated[
    str,
    typer.Option(
        "--passphrase-file",
        metavar="FILE",
        help="libkrun-sev only: holds the passphrase; a newline at its end is not of it.",
    ),
]
PassphraseOutOption = Annotated[
    str,
    typer.Option(
        "--passphrase-out",
        metavar="FILE",
        help="libkrun-sev only: a new file for a passphrase made at random.",
    ),
]
CpusOption = Annotated[int, typer.Option("--cpus", min=1, max=255, help="libkrun-sev only: vCPUs.")]
MemoryOption = Annotated[
    int, typer.Option("--memory", min=128, max=2**24, help="libkrun-sev only: memory in MiB.")
]
WorkloadIdOption = Annotated[
    str,
    typer.Option(
        "--workload-id", help="libkrun-sev only: the server's name for the workload. Default: derived."
    ),
]
UrlOption = Annotated[
    str,
    typer.Option(
        "--attestation-url", metavar="URL", help="libkrun-sev only: the server that the guest asks."
    ),
]
SlopOption = Annotated[
    str, typer.Option("--slop", help="libkrun-sev only: free space, as 25%, 64MB or 25%+64MB.")
]
GenerationOption = Annotated[
    Generation, typer.Option("--gen", help="libkrun-sev only: the processor generation of the hosts.")
]
DiskOnlyOption = Annotated[
    bool,
    typer.Option("--disk-only", help="libkrun-sev only: write disk.img and krun-sev.json, no image layout."),
]
_OWN_WORDS = {
    "output": "OUTPUT",
    "passphrase_file": "--passphrase-file",
    "passphrase_out": "--passphrase-out",
    "cpus": "--cpus",
    "memory": "--memory",
    "workload_id": "--workload-id",
    "attestation_url": "--attestation-url",
    "slop": "--slop",
    "generation": "--gen",
    "disk_only": "--disk-only",
}
_CACHE_WORDS = {"integrity_only": "--integrity-only"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SevWords:
    """What the command line says of a confidential image of libkrun."""

    source: str
    output: str
    passphrase_file: str
    passphrase_out: str
    cpus: int
    memory: int
    workload_id: str
    attestation_url: str
    slop: str
    generation: Generation
    disk_only: bool


def require_words(context: typer.Context, image_format: ImageFormat) -> None:
    """Raise UsageError if an option was given that the format has no use for."""
    foreign, why = (
        (_CACHE_WORDS, "disks of libkrun-sev are encrypted, and have no integrity protection")
        if image_format is ImageFormat.LIBKRUN_SEV
        else (_OWN_WORDS, "it belongs to the format libkrun-sev")
    )
    for name, word in foreign.items():
        given = context.get_parameter_source(name)
        if given is not None and given.name == "COMMANDLINE":
            raise UsageError(f"cannot take {word} with --format {image_format}", why=why)


def convert_words(words: SevWords, *, json: bool) -> None:
    """Make a confidential image of libkrun and print what it is."""
    # 60 ms of imports that the other commands do without
    from krunpy.image.libkrun_sev import convert_libkrun_sev
    from krunpy.image.libkrun_sev_output import Form, make_output

    if not words.output:
        raise UsageError(
            "cannot convert to libkrun-sev",
            why="nothing says where to",
            next="name a new directory or .tar file",
        )
    is_archive = words.output.endswith(_ARCHIVE_SUFFIX)
    if words.disk_only and is_archive:
        raise UsageError(
            f"cannot write {words.output}", why="with --disk-only it is a directory, but it ends in .tar"
        )
    slop = parse_slop(words.slop)
    config = KrunConfig(
        workload_id=words.workload_id,
        cpus=words.cpus,
        ram_mib=words.memory,
        tee=TEE,
        tee_data=encode_tee_data(words.generation),
        attestation_url=words.attestation_url,
    )
    require_config(config)
    form = Form.DISK_ONLY if words.disk_only else Form.ARCHIVE if is_archive else Form.LAYOUT
    with (
        _open_source(words.source) as source,
        _take_passphrase(words.passphrase_file, words.passphrase_out) as passphrase,
        make_output(words.output, form) as output,
    ):
        image = convert_libkrun_sev(
            source, output, passphrase=passphrase, config=config, slop=slop, progress=Progress("convert")
        )
        has_command = bool(source.config.entrypoint or source.config.cmd)
    _print_image(words.output, image, json=json)
    if not has_command:
        print("krunpy: the source names no command: the guest will start /bin/sh", file=sys.stderr)


@contextlib.contextmanager
def _open_source(spec: str) -> Iterator[Source]:
    from krunpy.image.outer import require_no_outer
    from krunpy.image.source import IMAGE_PREFIX, open_source

    if spec.startswith(IMAGE_PREFIX):
        raise UsageError(
            f"cannot convert {spec} to libkrun-sev",
            why="an image in the cache is not unpacked",
            next="name the source it was made of",
        )
    source = open_source(spec)
    try:
        require_no_outer(source, spec)
        yield source
    finally:
        source.close()


@contextlib.contextmanager
def _take_passphrase(file: str, out: str) -> Iterator[Secret]:
    """Give the passphrase in a file, or a new one; the file of a new one is removed again if the block fails."""
    if bool(file) == bool(out):
        raise UsageError(
            "cannot choose the passphrase",
            why="both files are named" if file else "no file is named",
            next="add --passphrase-file FILE to use yours, or --passphrase-out FILE to have one made",
        )
    if file:
        passphrase = Secret(load_bounded(file, PASSPHRASE_LIMIT).removesuffix(b"\n"))
        require_passphrase(passphrase)
        yield passphrase
        return
    passphrase = Secret(secrets.token_hex(GENERATED_SIZE).encode())
    try:
        write_new(out, passphrase.reveal())
    except OSError as error:
        raise HostError(f"cannot write {out}", why=(error.strerror or "error").lower()) from error
    try:
        yield passphrase
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(out)
        raise


def _print_image(output: str, image: SevImage, *, json: bool) -> None:
    config = image.config
    facts = {
        "path": output,
        "workload_id": config.workload_id,
        "disk_size": image.size,
        "free": image.free,
        "cpus": config.cpus,
        "memory_mib": config.ram_mib,
        "attestation_url": config.attestation_url,
    }
    if json:
        print_json("libkrun-sev-image", facts)
        return
    for name, value in facts.items():
        print(make_plain(f"{name.replace('_', ' '):16} {value}"))
