"""`krunpy register` and `krunpy workload`: what the attestation server releases keys to."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from krunpy.cli.context import settings_of
from krunpy.cli.render import Progress, print_json, print_table
from krunpy.cli.run import (
    ArgsArgument,
    CpusOption,
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
from krunpy.core.errors import BrokerError, UsageError, make_plain
from krunpy.runtime.broker import open_broker
from krunpy.runtime.planned import prepare_plan
from krunpy.runtime.prepare import load_key

if TYPE_CHECKING:
    from collections.abc import Iterator

_LAST_SECOND = 253402300799  # the year 9999, where datetime ends
app = typer.Typer(no_args_is_help=True, help="Look at and revoke registered workloads.")
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]
WorkloadArgument = Annotated[str, typer.Argument(metavar="WORKLOAD")]


def register(
    context: typer.Context,
    source: SourceArgument,
    args: ArgsArgument = None,
    env: EnvOption = None,
    workdir: CwdOption = "",
    user: UserOption = "",
    entrypoint: EntryOption = "",
    workload: WorkloadOption = "",
    cpus: CpusOption = 0,
    integrity_only: PlainOption = False,
    read_only: ReadOnlyOption = False,
    tmpfs: TmpfsOption = None,
    hostname: HostnameOption = "",
    uses: Annotated[int, typer.Option(min=0, help="Releases before the registration ends. 0: no limit.")] = 0,
    json: JsonFlag = False,
) -> None:
    """Convert a source and register what it will measure, so that `krunpy run` with the same words gets its key."""
    plan = read_plan(context)
    settings = settings_of(context)
    with open_broker(settings) as broker:
        if not broker.may_register:
            raise UsageError(
                f"cannot register at {settings.server_url}",
                why="token_file is not set",
                next="`krunpy server token create --role registrar` on the server, then set token_file",
            )
        prepared = prepare_plan(settings, plan, identity=broker.identity(), progress=Progress("convert"))
        shown = broker.register(prepared, key=load_key(settings, prepared.image), uses=uses)
    facts = {
        "workload": prepared.parsed.workload,
        "manifest_hash": prepared.manifest_hash.hex(),
        "image": prepared.image.image_id,
        "root_hash": prepared.image.disk.root_hash.hex(),
        "launch_digest": prepared.digest.hex(),
        "vcpus": prepared.description.vcpus,
        "status": shown.get("status", ""),
        "uses_left": shown.get("uses_left"),
    }
    if json:
        print_json("registration", facts)
        return
    for name, value in facts.items():
        print(f"{name.replace('_', ' '):14} {'no limit' if value is None else value}")


@app.command("ls")
def list_workloads(context: typer.Context, json: JsonFlag = False) -> None:
    """List the registered workloads."""
    with open_broker(settings_of(context)) as broker:
        found = broker.client.list_workloads()
    if json:
        print_json("workloads", found)
        return
    rows = [
        [
            str(item.get("id")),
            str(item.get("status")),
            str(item.get("released")),
            "no limit" if item.get("uses_left") is None else str(item.get("uses_left")),
            _time(item.get("updated_at")),
            str(item.get("manifest_hash"))[:16],
        ]
        for item in found
    ]
    print_table(["workload", "status", "released", "uses left", "changed", "manifest"], rows)


@app.command()
def show(context: typer.Context, workload: WorkloadArgument, json: JsonFlag = False) -> None:
    """Show everything about a workload but its key."""
    with open_broker(settings_of(context)) as broker, _hinted():
        found = broker.client.show_workload(workload)
    if json:
        print_json("workload", found)
        return
    for name in ("id", "status", "manifest_hash", "released", "uses_left"):
        print(make_plain(f"{name.replace('_', ' '):14} {found.get(name)}"))
    for name in ("created_at", "updated_at", "expires_at"):
        print(f"{name.replace('_', ' '):14} {_time(found.get(name))}")
    values = found.get("reference_values")
    for value in [item for item in values if isinstance(item, dict)] if isinstance(values, list) else []:
        inputs = _object(value.get("inputs"))
        kernel = _object(inputs.get("kernel")).get("name", "")
        print(make_plain(f"reference      {value.get('tee')} {value.get('launch_digest')}"))
        shape = (
            f"{inputs.get('vcpus')} vCPU {inputs.get('vcpu_type')}, {kernel}, layout {inputs.get('layout')}"
        )
        print(make_plain(f"{'':14} {shape}"))


@app.command()
def revoke(context: typer.Context, workload: WorkloadArgument, json: JsonFlag = False) -> None:
    """Release nothing more to a workload; its key on the server is erased."""
    with open_broker(settings_of(context)) as broker, _hinted():
        found = broker.client.revoke(workload)
    if json:
        print_json("workload", found)
        return
    print(make_plain(f"{workload}: {found.get('status', 'revoked')}"))


def _object(value: object) -> dict[str, object]:
    return value if isinstance(value, dict) else {}


@contextlib.contextmanager
def _hinted() -> Iterator[None]:
    """Say with a refusal of the server where to look."""
    try:
        yield
    except BrokerError as error:
        error.next = error.next or "see `krunpy workload ls`"
        raise


def _time(value: object) -> str:
    if not isinstance(value, int) or not value:
        return "never"
    if not 0 < value <= _LAST_SECOND:
        return f"{str(value)[:20]} s"
    return f"{datetime.fromtimestamp(value, UTC):%Y-%m-%d %H:%M:%S}"
