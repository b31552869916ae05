"""`krunpy register` and `krunpy workload`: what the attestation server releases keys to."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from krunpy.cli.context import settings_of
from krunpy.cli.measure_document import load_document, to_registered
from krunpy.cli.render import Progress, print_json, print_table
from krunpy.cli.run import (
    ArgsArgument,
    ClosedOption,
    CpusOption,
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
    TeeWish,
    TmpfsOption,
    UserOption,
    VmmOption,
    WorkloadOption,
    read_plan,
    settings_with_options,
)
from krunpy.core.errors import BrokerError, UsageError, make_plain
from krunpy.runtime.broker import open_broker
from krunpy.runtime.confidential import choose_tee
from krunpy.runtime.planned import draft_plan, prepare_plan
from krunpy.runtime.prepare import load_key
from krunpy.tee.detect import TeeKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from krunpy.core.settings import Settings
    from krunpy.measure.reference_values import ReferenceValues
    from krunpy.runtime.broker import Broker
    from krunpy.runtime.plan import Plan
    from krunpy.runtime.prepare import Drafted

_SHAPE = (
    "vcpus",
    "vcpu_type",
    "layout",
    "guest_features",
    "vmsa",
    "page_order",
    "kernel_form",
    "load_options",
)
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
    memory: MemoryOption = 0,
    integrity_only: PlainOption = False,
    no_host_settings: ClosedOption = False,
    manifest_in: ManifestInOption = None,
    read_only: ReadOnlyOption = False,
    tmpfs: TmpfsOption = None,
    hostname: HostnameOption = "",
    tee: TeeOption = None,
    vmm: VmmOption = None,
    uses: Annotated[int, typer.Option(min=0, help="Releases before the registration ends. 0: no limit.")] = 0,
    reference_values: Annotated[
        str,
        typer.Option("--reference-values", help="FILE of `krunpy measure --output`: register its values."),
    ] = "",
    signed_by: Annotated[
        str, typer.Option("--signed-by", help="Ed25519 key, in hex, that must have signed that FILE.")
    ] = "",
    json: JsonFlag = False,
) -> None:
    """Convert a source and register what it will measure, so that `krunpy run` with the same words gets its key."""
    if signed_by and not reference_values:
        raise UsageError("cannot use --signed-by", why="no file is given by --reference-values")
    values = load_document(reference_values, signer=signed_by) if reference_values else None
    if values is not None and tee not in (None, TeeWish.AUTO) and str(tee) != values.tee:
        raise UsageError(f"cannot register for {tee}", why=f"{reference_values} is for {values.tee}")
    plan = read_plan(context)
    settings = settings_with_options(context)
    if values is not None:
        settings = replace(settings, tee=str(values.tee))
    with open_broker(settings) as broker:
        if not broker.may_register:
            raise UsageError(
                f"cannot register at {settings.server_url}",
                why="token_file is not set",
                next="`krunpy server token create --role registrar` on the server, then set token_file",
            )
        if values is None:
            drafted, shown, measured = _register_predicted(settings, broker, plan, uses=uses)
        else:
            drafted, shown, measured = _register_values(settings, broker, plan, values, uses=uses)
    facts = {
        "workload": drafted.parsed.workload,
        "manifest_hash": drafted.manifest_hash.hex(),
        "manifest_in": drafted.manifest_in,
        "image": drafted.image.image_id,
        "root_hash": drafted.image.disk.root_hash.hex(),
        **measured,
        "status": shown.get("status", ""),
        "uses_left": shown.get("uses_left"),
    }
    if json:
        print_json("registration", facts)
        return
    for name, value in facts.items():
        print(f"{name.replace('_', ' '):14} {'no limit' if value is None else value}")


_Registered = tuple[
    "Drafted", dict[str, object], dict[str, object]
]  # the workload, how it stands, what was measured


def _register_predicted(settings: Settings, broker: Broker, plan: Plan, *, uses: int) -> _Registered:
    """Register a workload with the values that a run would predict."""
    tee = choose_tee(settings.tee)
    prepared = prepare_plan(settings, plan, identity=broker.identity(), tee=tee, progress=Progress("convert"))
    shown = broker.register(prepared, key=load_key(settings, prepared.image), uses=uses)
    first = prepared.predicted[0]
    measured = {"launch_digest": first.digest.hex(), "vcpus": first.description.vcpus}
    return prepared, shown, {"tee": str(tee), **measured} if tee is not TeeKind.SOFTWARE else measured


def _register_values(
    settings: Settings, broker: Broker, plan: Plan, values: ReferenceValues, *, uses: int
) -> _Registered:
    """Register a workload with the values of a document instead of those that this run would predict."""
    drafted = draft_plan(
        settings,
        plan,
        identity=broker.identity(),
        tee=TeeKind(values.tee),
        has_firmware=False,
        progress=Progress("convert"),
    )
    registered = to_registered(values, manifest_hash=drafted.manifest_hash, manifest_in=drafted.manifest_in)
    shown = broker.register_values(drafted, registered, key=load_key(settings, drafted.image), uses=uses)
    return drafted, shown, {"tee": str(values.tee), "reference_values": len(values.values)}


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
            str(item.get("manifest_hash"))[:16] or "none (reference-kbs)",
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
    for name in ("id", "status", "manifest_hash", "manifest_in", "released", "uses_left"):
        value = "none (reference-kbs)" if found.get(name) == "" else found.get(name)
        print(make_plain(f"{name.replace('_', ' '):14} {value}"))
    for name in ("created_at", "updated_at", "expires_at"):
        print(f"{name.replace('_', ' '):14} {_time(found.get(name))}")
    values = found.get("reference_values")
    for item in [item for item in values if isinstance(item, dict)] if isinstance(values, list) else []:
        for line in _describe_value(item):
            print(make_plain(line))


@app.command()
def revoke(context: typer.Context, workload: WorkloadArgument, json: JsonFlag = False) -> None:
    """Release nothing more to a workload; its key on the server is erased."""
    with open_broker(settings_of(context)) as broker, _hinted():
        found = broker.client.revoke(workload)
    if json:
        print_json("workload", found)
        return
    print(make_plain(f"{workload}: {found.get('status', 'revoked')}"))


def _describe_value(value: dict[str, object]) -> list[str]:
    """Return the lines of one reference value: its registers, and the inputs that tell it from others."""
    inputs = _object(value.get("inputs"))
    rtmrs = value.get("rtmrs")
    shape = [f"{name.replace('_', ' ')} {inputs[name]}" for name in _SHAPE if name in inputs]
    shape.append(str(_object(inputs.get("kernel")).get("name", "")))
    return [
        f"reference      {value.get('tee')} {value.get('launch_digest') or value.get('mrtd')}",
        *(f"{'':14} rtmr{at} {rtmr}" for at, rtmr in enumerate(rtmrs if isinstance(rtmrs, list) else [])),
        f"{'':14} {', '.join(shape)}",
    ]


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
