"""`krunpy evidence`: look at a report or quote, and verify it, on any machine and without a server."""

from __future__ import annotations

from typing import Annotated

import typer

from krunpy.cli.context import settings_of
from krunpy.cli.evidence_options import VerifyWords
from krunpy.cli.evidence_show import show_file
from krunpy.cli.evidence_verify import verify_file

app = typer.Typer(no_args_is_help=True, help="Look at evidence of a TEE, and verify it.")
FileArgument = Annotated[
    str, typer.Argument(metavar="FILE", help="A report, a quote or their JSON; - for standard input.")
]
ValueOption = Annotated[
    list[str] | None, typer.Option(metavar="HEX", help="An accepted value of this field.")
]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def show(file: FileArgument, json: JsonFlag = False) -> None:
    """Show every field with its meaning. Nothing is verified."""
    raise typer.Exit(show_file(file, as_json=json))


@app.command()
def verify(
    context: typer.Context,
    file: FileArgument,
    chain: Annotated[str, typer.Option(metavar="PEM", help="Certificates between root and key.")] = "",
    vek: Annotated[str, typer.Option(metavar="FILE", help="VCEK or VLEK, DER or PEM.")] = "",
    collateral: Annotated[str, typer.Option(metavar="JSON", help="Intel's collateral for a quote.")] = "",
    event_log: Annotated[
        str, typer.Option(metavar="FILE", help="It must lead to the RTMRs: CCEL or dstack's JSON.")
    ] = "",
    crl: Annotated[
        list[str] | None, typer.Option(metavar="FILE", help="Revocation list, DER or PEM.")
    ] = None,
    at: Annotated[
        str, typer.Option(metavar="TIME", help="As of this time, ISO 8601.", show_default="now")
    ] = "",
    policy: Annotated[str, typer.Option(metavar="FILE", help="Policy, TOML or JSON.")] = "",
    nonce: Annotated[str, typer.Option(metavar="HEX", help="The challenge; zeros follow it.")] = "",
    report_data: Annotated[str, typer.Option(metavar="HEX", help="All 64 bytes of REPORT_DATA.")] = "",
    measurement: Annotated[
        list[str] | None, typer.Option(metavar="HEX", help="An accepted launch digest or MRTD.")
    ] = None,
    host_data: ValueOption = None,
    mrconfigid: ValueOption = None,
    rtmr0: ValueOption = None,
    rtmr1: ValueOption = None,
    rtmr2: ValueOption = None,
    rtmr3: ValueOption = None,
    json: JsonFlag = False,
) -> None:
    """Verify evidence and print every check.

    Exit status: 0 trusted, 3 valid but not trusted, 4 malformed or forged, 5 could not check.
    """
    values = {
        "--measurement": measurement,
        "--host-data": host_data,
        "--mrconfigid": mrconfigid,
        "--rtmr0": rtmr0,
        "--rtmr1": rtmr1,
        "--rtmr2": rtmr2,
        "--rtmr3": rtmr3,
    }
    words = VerifyWords(
        file=file,
        chain=chain,
        vek=vek,
        collateral=collateral,
        event_log=event_log,
        crl=tuple(crl or ()),
        at=at,
        policy=policy,
        nonce=nonce,
        report_data=report_data,
        values={name: tuple(given or ()) for name, given in values.items()},
        json=json,
    )
    raise typer.Exit(verify_file(words, settings_of(context)))
