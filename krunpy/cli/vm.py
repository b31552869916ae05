"""`krunpy vm`: named machines, with krunvm's commands. A machine is made of an image once, and started many times."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from krunpy.cli.context import globals_of
from krunpy.cli.render import Progress, print_json, print_table
from krunpy.cli.run import ArgsArgument, SourceArgument, TeeOption, VmmOption
from krunpy.cli.run_plan import prepare_config
from krunpy.cli.vm_show import describe_machine, print_machine, summarize
from krunpy.core.errors import KrunpyError
from krunpy.guest.payload import VmmKind
from krunpy.runtime.plan import describe_source
from krunpy.runtime.vm_machine import (
    convert_image,
    ensure_image,
    make_vm_config,
    name_container,
    open_store,
    remove_remains,
)
from krunpy.runtime.vm_record import (
    MAX_CPUS,
    MAX_MEMORY_MIB,
    MIN_MEMORY_MIB,
    VmDefaults,
    VmRecord,
    describe_defaults,
    require_name,
    require_valid,
)
from krunpy.runtime.vm_shares import make_shares, parse_port, parse_volume, require_possible
from krunpy.tee.detect import TeeKind

if TYPE_CHECKING:
    from krunpy.runtime.vm_store import VmStore

app = typer.Typer(no_args_is_help=True, help="Named machines, with krunvm's commands.")
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="Name of the machine.")]
CpusOption = Annotated[
    int | None, typer.Option("--cpus", min=1, max=MAX_CPUS, help="vCPUs; part of the launch digest.")
]
MemoryOption = Annotated[
    int | None, typer.Option("--mem", min=MIN_MEMORY_MIB, max=MAX_MEMORY_MIB, help="Memory in MiB.")
]
DnsOption = Annotated[
    str | None,
    typer.Option("--dns", help="The guest's name server; default: the host's. Needs a network."),
]
WorkdirOption = Annotated[
    str | None, typer.Option("--workdir", "-w", help="Working directory; default: the image's.")
]
VolumeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--volume",
        "-v",
        metavar="HOST:GUEST[:ro]",
        help="A directory of the host, in the guest at that path. What lies in it is the host's, not attested.",
    ),
]
PortOption = Annotated[
    list[str] | None,
    typer.Option(
        "--port",
        metavar="HOST:GUEST",
        help="A TCP port of the host that reaches the guest; brings --network.",
    ),
]
EnvOption = Annotated[
    list[str] | None, typer.Option("--env", "-e", help="NAME=VALUE; part of what is measured.")
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def create(
    context: typer.Context,
    image: SourceArgument,
    args: ArgsArgument = None,
    name: Annotated[str, typer.Option("--name", help="Name instead of a random one.")] = "",
    cpus: CpusOption = None,
    mem: MemoryOption = None,
    dns: DnsOption = None,
    workdir: WorkdirOption = None,
    volume: VolumeOption = None,
    port: PortOption = None,
    network: Annotated[
        bool, typer.Option("--network", help="The guest's connections go out through the host's network.")
    ] = False,
    env: EnvOption = None,
) -> None:
    """Make a machine of an image, and print its name. The same once more changes nothing."""
    settings, store = globals_of(context).settings, _open_store(context)
    defaults = store.load_defaults()
    has_network = network or bool(port)
    wanted = VmRecord(
        name=require_name(name or f"vm-{os.urandom(3).hex()}"),
        source=describe_source(image),
        image="",
        fingerprint="",
        user=(0, 0, ()),
        cpus=cpus or defaults.cpus or settings.cpus,
        memory_mib=mem or defaults.memory_mib or settings.memory_mib,
        dns=(defaults.dns if has_network else "") if dns is None else dns,
        workdir=workdir or "",
        volumes=tuple(parse_volume(text) for text in volume or ()),
        ports=tuple(parse_port(text) for text in port or ()),
        network=network,
        env=tuple(env or ()),
        args=tuple(args or ()),
    )
    require_valid(wanted)  # before a conversion that takes minutes
    store.require_free(wanted)
    converted, user = convert_image(settings, wanted.source, Progress("convert"))
    record = replace(wanted, image=converted.image_id, fingerprint=converted.source, user=user)
    make_vm_config(record, converted)
    store.create(record)
    print(record.name)


@app.command()
def start(
    context: typer.Context,
    name: NameArgument,
    args: ArgsArgument = None,
    env: EnvOption = None,
    cpus: CpusOption = None,
    mem: MemoryOption = None,
    tee: TeeOption = None,
    vmm: VmmOption = None,
) -> None:
    """Run a machine in the foreground, attested as `krunpy run` does; exit with the workload's status."""
    given, store = globals_of(context), _open_store(context)
    record, held = store.hold(name)
    record = replace(record, cpus=cpus or record.cpus, memory_mib=mem or record.memory_mib)
    chosen = str(vmm or given.settings.vmm)
    if record.shares:
        chosen = VmmKind.LIBKRUN if chosen == "auto" else chosen
        require_possible(record.shares, VmmKind(chosen), TeeKind.SOFTWARE)  # the launcher knows the TEE
    image = ensure_image(given.settings, record, Progress("convert"))
    config = make_vm_config(record, image, args=tuple(args or ()), env=tuple(env or ()))
    remove_remains(given.state_root, name)
    argv, environment = prepare_config(given, config, name_container(name), tee=tee or "", vmm=chosen)
    os.set_inheritable(held, True)  # the lean process that waits in our place holds the machine
    sys.stdout.flush()
    os.execve(argv[0], argv, environment)  # noqa: S606 - a program, not a line


@app.command("list")
def list_machines(context: typer.Context, json: JsonFlag = False) -> None:
    """List the machines."""
    store = _open_store(context)
    machines = [_describe(store, name) for name in store.list_names()]
    if json:
        print_json("vms", machines)
        return
    print_table(
        ["name", "image", "cpus", "memory", "volumes", "ports", "running"],
        [summarize(item) for item in machines],
    )


@app.command()
def inspect(context: typer.Context, name: NameArgument, json: JsonFlag = False) -> None:
    """Show a machine."""
    store = _open_store(context)
    machine = describe_machine(store.load(name), is_running=store.is_running(name))
    if json:
        print_json("vm", machine)
        return
    print_machine(machine)


@app.command()
def changevm(
    context: typer.Context,
    name: NameArgument,
    new_name: Annotated[str, typer.Option("--new-name", help="Another name.")] = "",
    cpus: CpusOption = None,
    mem: MemoryOption = None,
    dns: DnsOption = None,
    workdir: WorkdirOption = None,
    remove_volumes: Annotated[
        bool, typer.Option("--remove-volumes", help="First forget all volumes.")
    ] = False,
    volume: VolumeOption = None,
    remove_ports: Annotated[bool, typer.Option("--remove-ports", help="First forget all ports.")] = False,
    port: PortOption = None,
    network: Annotated[
        bool | None, typer.Option("--network/--no-network", help="Whether there is a network without ports.")
    ] = None,
) -> None:
    """Change a machine that does not run; what is not named stays."""
    volumes = tuple(parse_volume(text) for text in volume or ())
    ports = tuple(parse_port(text) for text in port or ())

    def change(kept: VmRecord) -> VmRecord:
        return replace(
            kept,
            name=new_name or kept.name,
            cpus=cpus or kept.cpus,
            memory_mib=mem or kept.memory_mib,
            dns=kept.dns if dns is None else dns,
            workdir=kept.workdir if workdir is None else workdir,
            volumes=(*(() if remove_volumes else kept.volumes), *volumes),
            ports=(*(() if remove_ports else kept.ports), *ports),
            network=kept.network if network is None else network,
        )

    print_machine(describe_machine(_open_store(context).change(name, change), is_running=False))


@app.command()
def delete(context: typer.Context, name: NameArgument) -> None:
    """Forget a machine; its image stays in the cache, for `krunpy image prune`."""
    _open_store(context).delete(name)
    print(name)


@app.command()
def config(
    context: typer.Context,
    cpus: CpusOption = None,
    mem: MemoryOption = None,
    dns: DnsOption = None,
    json: JsonFlag = False,
) -> None:
    """Show what new machines get by default, after changing what is given."""
    if dns:
        make_shares(has_network=True, dns=dns)

    def change(kept: VmDefaults) -> VmDefaults:
        return VmDefaults(
            cpus=cpus or kept.cpus,
            memory_mib=mem or kept.memory_mib,
            dns=kept.dns if dns is None else dns,
        )

    store = _open_store(context)
    is_changed = (cpus, mem, dns) != (None, None, None)
    kept = store.change_defaults(change) if is_changed else store.load_defaults()
    settings = globals_of(context).settings
    shown = VmDefaults(
        cpus=kept.cpus or settings.cpus, memory_mib=kept.memory_mib or settings.memory_mib, dns=kept.dns
    )
    if json:
        print_json("vm-defaults", describe_defaults(shown))
        return
    for member, value in describe_defaults(shown).items():
        print(f"{member.replace('_', ' '):12} {value or 'of the host'}")


def _open_store(context: typer.Context) -> VmStore:
    given = globals_of(context)
    return open_store(given.settings, given.state_root)


def _describe(store: VmStore, name: str) -> dict[str, object]:
    """Return one machine for the list: one whose file is damaged does not hide the others."""
    try:
        return describe_machine(store.load(name), is_running=store.is_running(name))
    except KrunpyError as error:
        return {"name": name, "error": str(error)}
