"""`krunpy measure`: the measurements a workload will have, before it runs anywhere."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from krunpy.cli.measure_document import print_values, write_document
from krunpy.cli.measure_values import (
    BundleParts,
    NamedFile,
    Wish,
    build_wished_bundle,
    predict_values,
    require_possible,
)
from krunpy.cli.render import Progress, print_json
from krunpy.cli.run import (
    ArgsArgument,
    ClosedOption,
    CwdOption,
    EntryOption,
    EnvOption,
    HostnameOption,
    ManifestInOption,
    MemoryOption,
    PlainOption,
    ReadOnlyOption,
    SourceArgument,
    TeeOption,
    TmpfsOption,
    UserOption,
    WorkloadOption,
    read_plan,
    settings_with_options,
)
from krunpy.core.errors import UsageError
from krunpy.core.files import load_bounded, write_atomically
from krunpy.core.octets import Digest48
from krunpy.formats.krun_bundle import SONAMES, pack_parts
from krunpy.formats.manifest import ManifestIn
from krunpy.formats.ovmf import LARGEST_FIRMWARE
from krunpy.guest.payload import load_agent
from krunpy.measure.reference_values import Tee
from krunpy.runtime.broker import open_broker
from krunpy.runtime.confidential import choose_tee
from krunpy.runtime.planned import draft_plan
from krunpy.tee.detect import TeeKind
from krunpy.vmm.libkrun_bundle import load_bundle_parts

if TYPE_CHECKING:
    from krunpy.core.settings import Settings
    from krunpy.measure.reference_values import ReferenceValues
    from krunpy.runtime.prepare import Drafted

MOST_CPUS = 64


def measure(
    context: typer.Context,
    source: SourceArgument,
    args: ArgsArgument = None,
    env: EnvOption = None,
    workdir: CwdOption = "",
    user: UserOption = "",
    entrypoint: EntryOption = "",
    workload: WorkloadOption = "",
    integrity_only: PlainOption = False,
    no_host_settings: ClosedOption = False,
    manifest_in: ManifestInOption = None,
    read_only: ReadOnlyOption = False,
    tmpfs: TmpfsOption = None,
    hostname: HostnameOption = "",
    cpus: Annotated[str, typer.Option("--cpus", help="vCPU counts: 1, 1,2,4 or 1..16.")] = "1",
    memory: MemoryOption = 0,
    tee: TeeOption = None,
    vmm: Annotated[str, typer.Option("--vmm", help="qemu or libkrun. Default: the setting, or qemu.")] = "",
    firmware: Annotated[str, typer.Option("--firmware", help="Firmware FILE instead of the guest's.")] = "",
    libkrunfw: Annotated[
        str,
        typer.Option(
            "--libkrunfw", help="libkrun in SNP: FILE of a libkrunfw-sev.so instead of the guest's."
        ),
    ] = "",
    bundle: Annotated[
        str, typer.Option("--bundle", help="libkrun in SNP: write the bundle that is measured to FILE.")
    ] = "",
    vcpu_type: Annotated[
        str, typer.Option("--vcpu-type", help="SNP: QEMU's CPU model. Default: EPYC-v4.")
    ] = "",
    rtmr0: Annotated[str, typer.Option("--rtmr0", help="TDX: RTMR0 of the pinned machine, in hex.")] = "",
    table: Annotated[bool, typer.Option("--table", help="Print a table, with every input.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON, with every input.")] = False,
    output: Annotated[str, typer.Option("--output", help="Write a reference-value document to FILE.")] = "",
    sign_key: Annotated[
        str, typer.Option("--sign-key", help="Sign the document with the Ed25519 key in FILE.")
    ] = "",
) -> None:
    """Print the measurements that a workload will have: in the software TEE, or on SEV-SNP or TDX hardware."""
    del tee  # among the context's parameters
    settings = settings_with_options(context)
    if sign_key and not output:
        raise UsageError("cannot sign", why="no document is written", next="name it with --output FILE")
    if table and json:
        raise UsageError("cannot print", why="--table and --json were both given", next="give one of them")
    vmm = vmm or (settings.vmm if settings.vmm != "auto" else "qemu")
    wish = Wish(
        tee=Tee(choose_tee(settings.tee)),
        vmm=vmm,
        counts=tuple(parse_counts(cpus)),
        firmware=_load(firmware, LARGEST_FIRMWARE),
        bundle=_load_parts(libkrunfw),
        vcpu_type=vcpu_type,
        memory_mib=memory,
        usual_memory_mib=settings.memory_mib,
        rtmr0=_parse_register(rtmr0),
    )
    require_possible(wish)
    if output and not wish.is_whole:
        why = "RTMR0 and RTMR1 under TD-Shim are not predicted: MRTD alone says nothing of the workload"
        raise UsageError("cannot write reference values", why=why, next="--vmm qemu")
    if bundle and not wish.is_bundled:
        raise UsageError("cannot write a bundle", why="only libkrun in SNP has one", next="--vmm libkrun")
    drafted = _draft(context, replace(settings, vmm=vmm), wish)
    agent = load_agent(drafted.guest) if wish.bundle is not None else b""
    built = build_wished_bundle(drafted, wish, agent)
    values = predict_values(drafted, wish, built)
    if bundle and built is not None:
        write_atomically(bundle, pack_parts(built, SONAMES[0]), mode=0o644)
    if output:
        write_document(output, values, sign_key)
    if json:
        _print_json(drafted, values)
        return
    print(f"workload  {drafted.parsed.workload}")
    print(f"manifest  {drafted.manifest_hash.hex()}")
    if drafted.manifest_in is ManifestIn.HOST_DATA:
        print("bound by  host_data: the values below are those of every workload of its class")
    print(f"root hash {drafted.image.disk.root_hash.hex()}")
    print_values(values, with_inputs=table)
    if not wish.is_whole:
        print("kernel, initrd and manifest are not in MRTD: TD-Shim measures them into RTMR1, not predicted")


def _draft(context: typer.Context, settings: Settings, wish: Wish) -> Drafted:
    plan = read_plan(context)
    with open_broker(settings) as broker:
        return draft_plan(
            settings,
            plan,
            identity=broker.identity(),
            tee=TeeKind(wish.tee),
            has_firmware=wish.firmware is None and wish.bundle is None,
            progress=Progress("convert"),
        )


def _print_json(drafted: Drafted, values: ReferenceValues) -> None:
    facts = {
        "workload": drafted.parsed.workload,
        "manifest_hash": drafted.manifest_hash.hex(),
        "manifest_in": drafted.manifest_in,
        "root_hash": drafted.image.disk.root_hash.hex(),
        "vmm": values.vmm,
        "reference_values": [{"tee": str(values.tee), **value.to_dict()} for value in values.values],
    }
    print_json("measurement", facts)


def _load(path: str, limit: int) -> NamedFile | None:
    return NamedFile(name=path, contents=load_bounded(path, limit)) if path else None


def _load_parts(path: str) -> BundleParts | None:
    if not path:
        return None
    kernel, qboot = load_bundle_parts(os.path.abspath(path))
    return BundleParts(name=path, kernel=kernel, qboot=qboot)


def _parse_register(text: str) -> Digest48 | None:
    try:
        return Digest48.from_hex(text) if text else None
    except ValueError:
        raise UsageError("cannot read --rtmr0", why="wanted 96 lower-case hex digits") from None


def parse_counts(text: str) -> list[int]:
    """Return the counts in "1", "1,2,4" or "1..16". Raises UsageError outside 1 to 64."""
    counts: list[int] = []
    for part in text.split(","):
        low, dots, high = part.partition("..")
        if not part.isascii() or not low.isdigit() or (dots and not high.isdigit()) or len(part) > 8:  # noqa: PLR2004
            raise UsageError(f'cannot read vCPU counts "{text[:40]}"', why="wanted 1, 1,2,4 or 1..16")
        counts += range(int(low), int(high or low) + 1)
    if not counts or min(counts) < 1 or max(counts) > MOST_CPUS:
        raise UsageError(f'cannot read vCPU counts "{text[:40]}"', why=f"wanted counts in 1 to {MOST_CPUS}")
    return counts
