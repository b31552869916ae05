"""`krunpy image inspect`, `unpack`, `import`: confidential images of libkrun, as buildah and oci2cw make them."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from krunpy.cli.context import settings_of
from krunpy.cli.render import Progress, print_json
from krunpy.core.errors import UsageError, make_plain
from krunpy.core.files import load_bounded
from krunpy.core.octets import Secret
from krunpy.image.convert import ConvertOptions, convert
from krunpy.image.keys import load_build_secret
from krunpy.image.legacy import LegacyImage, open_legacy
from krunpy.image.legacy_report import report_image
from krunpy.image.legacy_unpack import describe_losses, unpack
from krunpy.runtime.prepare import open_cache

if TYPE_CHECKING:
    from krunpy.core.settings import Settings
    from krunpy.oci.manifest import ImageConfig

PASSPHRASE_LIMIT = 8192  # bytes
SourceArgument = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE", help="A disk.img, a directory that holds one, or an image with one in it."
    ),
]
PassphraseOption = Annotated[
    str,
    typer.Option(
        "--passphrase-file", metavar="FILE", help="Holds the passphrase; a newline at its end is not of it."
    ),
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def add_commands(app: typer.Typer) -> None:
    """Add the commands to `krunpy image`."""
    app.command("inspect")(inspect_image)
    app.command("unpack")(unpack_image)
    app.command("import")(import_image)


def inspect_image(
    context: typer.Context,
    source: SourceArgument,
    passphrase_file: PassphraseOption = "",
    json: JsonFlag = False,
) -> None:
    """Say what a confidential image of libkrun is, and what is wrong with it."""
    passphrase = _load_passphrase(passphrase_file)
    with _open(settings_of(context), source) as image:
        opened = image.open(passphrase) if passphrase is not None or image.volume is None else None
        report = report_image(image, opened, passphrase)
    if json:
        print_json("legacy-image", {**report.facts, "findings": list(report.findings)})
        return
    _print_facts(report.facts)
    for finding in report.findings:
        print(make_plain(f"{'finding':16} {finding}"))


def unpack_image(
    context: typer.Context,
    source: SourceArgument,
    directory: Annotated[str, typer.Argument(metavar="DIRECTORY", help="Is made; must not exist.")],
    passphrase_file: PassphraseOption = "",
) -> None:
    """Write the root file system of a confidential image of libkrun to a directory, in the clear."""
    with _open(settings_of(context), source) as image:
        done = unpack(image.open(_load_passphrase(passphrase_file)), directory)
    print(f"{done.names} names in {directory}")
    for loss in describe_losses(done):
        print(f"krunpy: {loss}", file=sys.stderr)


def import_image(
    context: typer.Context,
    source: SourceArgument,
    passphrase_file: PassphraseOption = "",
    integrity_only: Annotated[
        bool, typer.Option("--integrity-only", help="Protect by dm-verity, do not encrypt.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Convert a confidential image of libkrun to a workload image: encrypted anew, with integrity protection."""
    settings = settings_of(context)
    with _open(settings, source) as legacy:
        secret = None if integrity_only else load_build_secret(settings.data_dir)
        image = convert(
            legacy.open(_load_passphrase(passphrase_file)),
            cache=open_cache(settings),
            options=ConvertOptions(encrypt=not integrity_only, build_secret=secret),
            progress=Progress("import"),
        )
    if json:
        print_json(
            "image", {"id": image.image_id, "path": image.disk_path, "root_hash": image.disk.root_hash.hex()}
        )
        return
    print(f"{'id':16} {image.image_id}")
    print(f"{'root hash':16} {image.disk.root_hash.hex()}")
    print(make_plain(f"{'run it with':16} {_make_command(image.image_id[:12], image.config)}"))


def _make_command(image: str, config: ImageConfig) -> str:
    """Return the command that runs an image as its configuration says."""
    command = [] if config.entrypoint or config.cmd else ["--", "COMMAND"]
    return shlex.join(["krunpy", "run", f"image:{image}", *command])


def _open(settings: Settings, source: str) -> LegacyImage:
    return open_legacy(source, spool_directory=open_cache(settings).directory)


def _load_passphrase(path: str) -> Secret | None:
    if not path:
        return None
    value = load_bounded(path, PASSPHRASE_LIMIT).removesuffix(b"\n")
    if not value:
        raise UsageError(f"cannot use the passphrase in {path}", why="it is empty")
    return Secret(value)


def _print_facts(facts: dict[str, object], prefix: str = "") -> None:
    for name, value in facts.items():
        label = f"{prefix}{name.replace('_', ' ')}"
        if isinstance(value, dict):
            _print_facts(value, f"{label} ")
        elif isinstance(value, list):
            for item in value:
                print(make_plain(f"{label:16} {', '.join(str(part) for part in item.values())}"))
        else:
            print(make_plain(f"{label:16} {value}"))
