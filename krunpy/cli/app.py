"""The commands for people. Each lives in its own module; the heavy imports happen here, never for OCI verbs."""

from __future__ import annotations

import io
import signal
import sys
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

import krunpy
from krunpy.cli import attestation, collateral, evidence, guest, image, image_legacy, server, vm, workload
from krunpy.cli.context import make_globals
from krunpy.cli.doctor import doctor
from krunpy.cli.explain import explain
from krunpy.cli.hook import app as hook_app
from krunpy.cli.inspect import inspect
from krunpy.cli.lean import INTERRUPTED, discard_output
from krunpy.cli.measure import measure
from krunpy.cli.quickstart import quickstart
from krunpy.cli.render import print_error
from krunpy.cli.run import run
from krunpy.cli.workload import register
from krunpy.core.errors import HostError, KrunpyError

if TYPE_CHECKING:
    from types import FrameType

HELP = """Run containers as measured, attested, encrypted virtual machines.

SEV-SNP or TDX hardware signs the evidence where the host offers it. Elsewhere a software TEE does: SIMULATED - NOT
CONFIDENTIAL. `krunpy doctor` says which it is here.

For container engines krunpy is an OCI runtime: podman --runtime "$(command -v krunpy)" run IMAGE. Its OCI verbs are
create, start, state, kill, delete, list, run --bundle, features and spec; see krunpy(1).
"""
app = typer.Typer(
    help=HELP,
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command(short_help="Try the whole path once, each step with its time.")(quickstart)
app.command(short_help="Run a workload in an attested machine.")(run)
app.command(short_help="Let the server release a key to a workload.")(register)
app.command(short_help="Predict the launch digests of a workload.")(measure)
app.command(short_help="Say why an attestation ended as it did.")(explain)
app.command(short_help="Say what became of every setting of a container.")(inspect)
app.command(short_help="Say what this host can do, and what would mend it.")(doctor)
image_legacy.add_commands(image.app)
app.add_typer(image.app, name="image")
app.add_typer(workload.app, name="workload")
app.add_typer(attestation.app, name="attestation")
app.add_typer(evidence.app, name="evidence")
app.add_typer(collateral.app, name="collateral")
app.add_typer(server.app, name="server")
app.add_typer(guest.app, name="guest")
app.add_typer(vm.app, name="vm")
app.add_typer(hook_app, name="hook", short_help="What the OCI hooks call.")


@app.callback()
def before(
    context: typer.Context,
    root: Annotated[
        str, typer.Option(help="Where containers' states live.", show_default="/run/krunpy")
    ] = "",
    config: Annotated[
        str, typer.Option(help="Settings file instead of /etc/krunpy/krunpy.toml.", metavar="FILE")
    ] = "",
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Read the settings once, before any command."""
    if version:
        print(f"krunpy version {krunpy.__version__}")
        raise typer.Exit
    context.obj = make_globals(root=root, config=config)


def main(arguments: list[str]) -> None:
    """Run a command for people and end the process with its exit status."""
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else somebody had it ignored
        signal.signal(signal.SIGINT, _interrupt)
    _make_printable()
    try:
        status = app(args=arguments, prog_name="krunpy", standalone_mode=False)
        sys.stdout.flush()
        sys.exit(status if isinstance(status, int) else 0)
    except typer.Abort:
        print("krunpy: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except typer.Exit as end:
        sys.exit(end.exit_code)
    except typer.exceptions.TyperException as error:
        show = getattr(error, "show", None)  # usage errors know their command's usage line
        show() if callable(show) else print(f"krunpy: {error.format_message()}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KrunpyError as error:
        print_error(error)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, _InterruptedError):
        print("krunpy: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        discard_output()
        sys.exit(1)
    except OSError as error:
        print_error(HostError.of_system(error))
        discard_output()
        sys.exit(HostError.exit_code)


class _InterruptedError(BaseException):
    """Ctrl-C or SIGTERM: what is half done is undone. typer would take a KeyboardInterrupt for an exit status."""


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise _InterruptedError


def _make_printable() -> None:
    """Have what a terminal or locale cannot show written as escapes: names from images may be any bytes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
