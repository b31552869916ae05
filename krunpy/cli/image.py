"""`krunpy image`: convert sources ahead of time, and look after the cache."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from krunpy.cli import image_libkrun
from krunpy.cli.context import settings_of
from krunpy.cli.render import Progress, format_size, print_json, print_table
from krunpy.cli.run import SourceArgument
from krunpy.image.libkrun_sev_config import Generation
from krunpy.image.libkrun_sev_slop import DEFAULT_SLOP
from krunpy.image.workload import describe_config
from krunpy.runtime.prepare import convert_source, open_cache

if TYPE_CHECKING:
    from krunpy.image.workload import WorkloadImage

app = typer.Typer(no_args_is_help=True, help="Convert sources to workload images and look after the cache.")
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ImageArgument = Annotated[str, typer.Argument(metavar="IMAGE", help="Image ID, or the beginning of one.")]


@app.command()
def convert(
    context: typer.Context,
    source: SourceArgument,
    output: image_libkrun.OutputArgument = "",
    image_format: image_libkrun.FormatOption = image_libkrun.ImageFormat.KRUNPY,
    integrity_only: Annotated[
        bool, typer.Option("--integrity-only", help="Protect by dm-verity, do not encrypt.")
    ] = False,
    passphrase_file: image_libkrun.PassphraseOption = "",
    passphrase_out: image_libkrun.PassphraseOutOption = "",
    cpus: image_libkrun.CpusOption = image_libkrun.DEFAULT_CPUS,
    memory: image_libkrun.MemoryOption = image_libkrun.DEFAULT_MEMORY_MIB,
    workload_id: image_libkrun.WorkloadIdOption = "",
    attestation_url: image_libkrun.UrlOption = "",
    slop: image_libkrun.SlopOption = DEFAULT_SLOP,
    generation: image_libkrun.GenerationOption = Generation.MILAN,
    disk_only: image_libkrun.DiskOnlyOption = False,
    json: JsonFlag = False,
) -> None:
    """Convert a source, or find it in the cache, and print the image; or write one in another format."""
    image_libkrun.require_words(context, image_format)
    if image_format is image_libkrun.ImageFormat.LIBKRUN_SEV:
        words = image_libkrun.SevWords(
            source=source,
            output=output,
            passphrase_file=passphrase_file,
            passphrase_out=passphrase_out,
            cpus=cpus,
            memory=memory,
            workload_id=workload_id,
            attestation_url=attestation_url,
            slop=slop,
            generation=generation,
            disk_only=disk_only,
        )
        image_libkrun.convert_words(words, json=json)
        return
    image = convert_source(
        settings_of(context), source, encrypt=not integrity_only, progress=Progress("convert")
    )
    if json:
        print_json("image", describe_image(image))
        return
    print_image(image)


@app.command("ls")
def list_images(context: typer.Context, json: JsonFlag = False) -> None:
    """List the images in the cache."""
    cache = open_cache(settings_of(context))
    images = sorted(cache.list_images(), key=lambda image: image.created, reverse=True)
    if json:
        print_json("images", [describe_image(image) for image in images])
        return
    rows = [
        [
            image.image_id[:12],
            format_size(image.size),
            "yes" if image.key_id else "no",
            f"{datetime.fromtimestamp(image.created, UTC):%Y-%m-%d %H:%M}",
            image.disk.root_hash.hex()[:16],
            "yes" if cache.is_held(image.image_id) else "no",
        ]
        for image in images
    ]
    print_table(["image", "size", "encrypted", "created", "root hash", "in use"], rows)


@app.command()
def show(context: typer.Context, image: ImageArgument, json: JsonFlag = False) -> None:
    """Show one image."""
    cache = open_cache(settings_of(context))
    found = cache.load(cache.resolve(image))
    if json:
        print_json("image", describe_image(found))
        return
    print_image(found)


@app.command()
def rm(context: typer.Context, images: Annotated[list[str], typer.Argument(metavar="IMAGE...")]) -> None:
    """Remove images; one that a machine uses is refused."""
    cache = open_cache(settings_of(context))
    for name in images:
        image_id = cache.resolve(name)
        cache.remove(image_id)
        print(image_id)


@app.command()
def prune(
    context: typer.Context,
    unused_hours: Annotated[float, typer.Option(min=0, help="Only images unused for so long.")] = 0.0,
    json: JsonFlag = False,
) -> None:
    """Remove every image that no machine uses."""
    removed = open_cache(settings_of(context)).prune(unused_s=unused_hours * 3600)
    if json:
        print_json("pruned", list(removed))
        return
    for image_id in removed:
        print(image_id)


def describe_image(image: WorkloadImage) -> dict[str, object]:
    """Return an image as JSON values."""
    disk = image.disk
    return {
        "id": image.image_id,
        "path": image.disk_path,
        "size": image.size,
        "encrypted": bool(image.key_id),
        "root_hash": disk.root_hash.hex(),
        "salt": disk.salt.hex(),
        "data_blocks": disk.data_blocks,
        "hash_start_block": disk.hash_start_block,
        "payload_offset": disk.payload_offset,
        "payload_size": disk.payload_size,
        "source": image.source,
        "created": image.created,
        "config": describe_config(image.config),
    }


def print_image(image: WorkloadImage) -> None:
    """Print an image, one fact a line."""
    for name, value in describe_image(image).items():
        if name != "config":
            print(f"{name.replace('_', ' '):16} {value}")
