"""`krunpy attestation`: what guests proved, and what they were given."""

from __future__ import annotations

from typing import Annotated

import typer

from krunpy.cli.context import settings_of
from krunpy.cli.explain import print_record, show_attestation
from krunpy.cli.render import print_json, print_table
from krunpy.runtime.broker import open_broker

app = typer.Typer(no_args_is_help=True, help="Look at past attestations.")
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]
WorkloadOption = Annotated[str, typer.Option("--workload", help="Only of this workload.")]


@app.command("ls")
def list_attestations(
    context: typer.Context,
    workload: WorkloadOption = "",
    limit: Annotated[int, typer.Option(min=1, max=500)] = 20,
    json: JsonFlag = False,
) -> None:
    """List attestations, newest first."""
    with open_broker(settings_of(context)) as broker:
        found = broker.client.list_attestations(workload=workload, limit=limit)
    if json:
        print_json("attestations", found)
        return
    rows = [
        [
            str(item.get("id")),
            str(item.get("time"))[:19],
            str(item.get("workload") or "-"),
            "SIMULATED" if item.get("simulated") else str(item.get("tee")),
            str(item.get("outcome")),
            str(item.get("error") or ""),
        ]
        for item in found
    ]
    print_table(["attestation", "time (UTC)", "workload", "tee", "outcome", "reason"], rows)


@app.command()
def show(
    context: typer.Context,
    attestation: Annotated[str, typer.Argument(metavar="[ID|last]")] = "last",
    json: JsonFlag = False,
) -> None:
    """Show one attestation with every check."""
    with open_broker(settings_of(context)) as broker:
        found = show_attestation(broker, attestation)
    if json:
        print_json("attestation", found)
        return
    print_record(found, is_whole=True)
