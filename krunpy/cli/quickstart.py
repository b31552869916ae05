"""`krunpy quickstart`: the whole path once, each step with its time; with --tamper, the refusal that belongs to it."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from dataclasses import replace
from typing import IO, TYPE_CHECKING, Annotated

import typer

from krunpy.cli.context import globals_of
from krunpy.cli.run import ArgsArgument, MemoryOption, TeeOption, VmmOption, settings_with_options
from krunpy.cli.run_plan import make_id, prepare_run
from krunpy.core.errors import UsageError
from krunpy.core.proc import start
from krunpy.runtime.confidential import choose_tee
from krunpy.runtime.lifecycle import delete_container
from krunpy.runtime.plan import Plan
from krunpy.runtime.sample import open_sample
from krunpy.runtime.tamper import Tamper
from krunpy.tee.detect import TeeKind

if TYPE_CHECKING:
    from krunpy.cli.context import Globals

STEPS = ("server", "convert", "measure", "register", "launch", "attest")
SIMULATED = "SIMULATED - NOT CONFIDENTIAL"
DEFAULT_COMMAND = ("sh", "-c", "echo hello from the guest: kernel $(uname -r), $(id -un) on $(hostname)")
_POLL_S = 0.02


def quickstart(
    context: typer.Context,
    source: Annotated[
        str, typer.Argument(metavar="[SOURCE]", help="As for `krunpy run`; default: a sample.")
    ] = "",
    args: ArgsArgument = None,
    tamper: Annotated[str, typer.Option(help=f"Play a dishonest host: {', '.join(Tamper)}.")] = "",
    memory: MemoryOption = 0,
    tee: TeeOption = None,
    vmm: VmmOption = None,
) -> None:
    """Convert, measure, register, launch and attest a workload, and show its output."""
    if tamper and tamper not in list(Tamper):
        raise UsageError(f'cannot tamper with "{tamper}"', why=f"wanted one of {', '.join(Tamper)}")
    del tee, vmm  # among the context's parameters
    given = replace(globals_of(context), settings=settings_with_options(context))
    if source:
        raise typer.Exit(
            show_run(given, Plan(source=source, args=tuple(args or ()), tamper=tamper, memory_mib=memory))
        )
    plan = Plan(
        source=f"dir:{open_sample(given.settings.data_dir)}",
        args=tuple(args or DEFAULT_COMMAND),
        hostname="quickstart",
        tamper=tamper,
        memory_mib=memory,
    )
    raise typer.Exit(show_run(given, plan))


def show_run(given: Globals, plan: Plan) -> int:
    """Run a plan, print its steps on stderr as they end and its output on stdout; return its exit status."""
    container_id = make_id()
    tee = choose_tee(given.settings.tee)
    argv, environment = prepare_run(given, plan, container_id, tee=tee, vmm=given.settings.vmm)
    path = os.path.join(given.state_root, container_id, "steps.jsonl")
    heading = SIMULATED if tee is TeeKind.SOFTWARE else f"CONFIDENTIAL ({tee})"
    signer = "this host's software TEE" if tee is TeeKind.SOFTWARE else f"this host's {tee} hardware"
    print(f"{heading}: {signer} signs the evidence", file=sys.stderr)
    if plan.tamper:
        print(f"the host will change: {plan.tamper}", file=sys.stderr)
    try:
        with start([*argv, "--keep"], env=environment) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            gate = threading.Event()
            copies = [
                _copy(process.stdout, sys.stdout.buffer, gate),
                _copy(process.stderr, sys.stderr.buffer, gate),
            ]
            shown = 0
            while process.poll() is None and shown < len(STEPS):
                shown = _show_steps(path, shown)
                time.sleep(_POLL_S)
            shown = _show_steps(path, shown)
            if shown == len(STEPS):
                print(
                    f"{heading}: attested, the disk key was released to this workload only\n",
                    file=sys.stderr,
                )
            gate.set()
            status = process.wait()
            for copy in copies:
                copy.join()
    finally:
        delete_container(given.state_root, container_id, force=True)
    if status and plan.tamper:
        print(f"\n{heading}: refused, as it must be; no byte of the workload ran", file=sys.stderr)
    return status


def _show_steps(path: str, shown: int) -> int:
    try:
        with open(path, encoding="utf-8") as stream:
            lines = stream.read().splitlines()
    except FileNotFoundError:
        return shown
    for line in lines[shown:]:
        step = json.loads(line)
        number = STEPS.index(step["step"]) + 1
        text = f"[{number}/{len(STEPS)}] {step['step']:9} {step['seconds']:7.2f} s  {step['detail']}"
        print(text.rstrip(), file=sys.stderr)
    return len(lines)


def _copy(source: IO[bytes], target: IO[bytes], gate: threading.Event) -> threading.Thread:
    """Copy a stream once the gate is open: the verdict stands before the workload's output."""

    def work() -> None:
        gate.wait()
        while data := source.read1(65536):  # type: ignore[attr-defined]
            target.write(data)
            target.flush()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread
