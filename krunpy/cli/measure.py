"""`krunpy measure`: the launch digests a workload will have, before it runs anywhere."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import typer

from krunpy.cli.context import settings_of
from krunpy.cli.render import Progress, print_json, print_table
from krunpy.cli.run import (
    ArgsArgument,
    CwdOption,
    EntryOption,
    EnvOption,
    HostnameOption,
    PlainOption,
    ReadOnlyOption,
    SourceArgument,
    TmpfsOption,
    UserOption,
    WorkloadOption,
    read_plan,
)
from krunpy.core.errors import UsageError
from krunpy.measure.description import predict_described
from krunpy.runtime.broker import open_broker
from krunpy.runtime.planned import prepare_plan

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
    read_only: ReadOnlyOption = False,
    tmpfs: TmpfsOption = None,
    hostname: HostnameOption = "",
    cpus: Annotated[str, typer.Option("--cpus", help="vCPU counts: 1, 1,2,4 or 1..16.")] = "1",
    json: Annotated[bool, typer.Option("--json", help="Print JSON, with every input.")] = False,
) -> None:
    """Print the launch digests that `krunpy run` with the same words will have in the software TEE."""
    counts = parse_counts(cpus)
    plan = read_plan(context)
    settings = settings_of(context)
    with open_broker(settings) as broker:
        prepared = prepare_plan(settings, plan, identity=broker.identity(), progress=Progress("convert"))
    described = [replace(prepared.description, vcpus=count) for count in counts]
    digests = [predict_described(item) for item in described]
    if json:
        values = [
            {"tee": "software", "launch_digest": digest.hex(), "inputs": item.to_dict()}
            for digest, item in zip(digests, described, strict=True)
        ]
        facts = {
            "workload": prepared.parsed.workload,
            "manifest_hash": prepared.manifest_hash.hex(),
            "root_hash": prepared.image.disk.root_hash.hex(),
            "reference_values": values,
        }
        print_json("measurement", facts)
        return
    print(f"workload  {prepared.parsed.workload}")
    print(f"manifest  {prepared.manifest_hash.hex()}")
    print(f"root hash {prepared.image.disk.root_hash.hex()}")
    print_table(
        ["vcpus", "launch digest"],
        [[str(n), digest.hex()] for n, digest in zip(counts, digests, strict=True)],
    )


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
