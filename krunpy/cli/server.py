"""`krunpy server`: run the attestation server and look after its tokens; invitations are in `server_invitation`."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from krunpy.cli.context import settings_of
from krunpy.cli.render import print_error, print_json, print_table
from krunpy.cli.server_invitation import app as invitations
from krunpy.cli.server_store import DataOption, format_time, open_store, tell_time
from krunpy.core.errors import UsageError
from krunpy.runtime.collateral import open_server_collateral
from krunpy.runtime.embedded import authority_directory, store_of

app = typer.Typer(no_args_is_help=True, help="Run the attestation server and manage its tokens.")
tokens = typer.Typer(no_args_is_help=True, help="Tokens that may register, read or administer.")
app.add_typer(tokens, name="token")
app.add_typer(invitations, name="invitation")


@app.command()
def run(
    context: typer.Context,
    listen: Annotated[str, typer.Option(metavar="ADDRESS:PORT")] = "127.0.0.1:8470",
    data_dir: DataOption = "",
    development: Annotated[
        bool, typer.Option("--development", help="Accept this installation's software TEE: NOT CONFIDENTIAL.")
    ] = False,
    i_accept_simulated: Annotated[
        bool,
        typer.Option("--i-accept-simulated", help="With --development: listen beyond loopback all the same."),
    ] = False,
    tls_cert: Annotated[str, typer.Option(metavar="FILE", help="PEM certificate chain.")] = "",
    tls_key: Annotated[str, typer.Option(metavar="FILE", help="PEM key.")] = "",
    unsafe_plain_http: Annotated[
        bool, typer.Option("--unsafe-plain-http", help="Listen beyond loopback without TLS.")
    ] = False,
    enable_reference_kbs: Annotated[
        bool,
        typer.Option(
            "--enable-reference-kbs",
            help="Also serve images of buildah mkcw to libkrun 1.7 to 1.19, in their dialect; see limits.md.",
        ),
    ] = False,
    reference_kbs_socket: Annotated[
        str,
        typer.Option(metavar="PATH", help="With it: register such images at this Unix socket, yours alone."),
    ] = "",
    log_file: Annotated[
        str, typer.Option(metavar="FILE", help="One JSON line an event; default: stderr.")
    ] = "",
) -> None:
    """Serve until SIGTERM or Ctrl-C; the first line on stderr names URL and key."""
    from krunpy.server.embedded import publish_simulated_root
    from krunpy.server.listening import ServerOptions
    from krunpy.server.mode import Mode
    from krunpy.server.run import run_server

    settings = settings_of(context)
    host, _, port = listen.rpartition(":")
    if not (port.isascii() and port.isdigit()) or not host or len(port) > 5 or int(port) > 65535:  # noqa: PLR2004
        raise UsageError(f'cannot listen on "{listen}"', why="wanted ADDRESS:PORT")
    run_server(
        ServerOptions(
            data_dir=_directory(data_dir or store_of(settings)),
            host=host.strip("[]"),
            port=int(port),
            mode=Mode.DEVELOPMENT if development else Mode.PRODUCTION,
            simulated_root=publish_simulated_root(authority_directory(settings)) if development else None,
            accepts_simulated_from_network=i_accept_simulated,
            allows_plain_http=unsafe_plain_http,
            tls_certificate=tls_cert,
            tls_key=tls_key,
            serves_reference_kbs=enable_reference_kbs,
            reference_kbs_socket=reference_kbs_socket,
            log_file=log_file,
        ),
        collateral=open_server_collateral(settings, print_error),
    )


@tokens.command()
def create(
    context: typer.Context,
    role: Annotated[str, typer.Option(help="admin, registrar or reader.")] = "registrar",
    days: Annotated[int, typer.Option(min=0, max=3650, help="Days until it expires; 0: never.")] = 90,
    data_dir: DataOption = "",
) -> None:
    """Print a new token; only its hash is stored."""
    from krunpy.server.tokens import Role, add_token, make_token

    if role not in [item.value for item in Role]:
        raise UsageError(f'cannot make a token of role "{role}"', why="wanted admin, registrar or reader")
    token, now_s = make_token(), tell_time()
    with open_store(context, data_dir).change() as connection:
        add_token(connection, token, Role(role), now_s=now_s, expires_at=now_s + days * 86400 if days else 0)
    print(token.reveal().decode())


@tokens.command("ls")
def list_all(
    context: typer.Context,
    data_dir: DataOption = "",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List tokens by name, role and expiry."""
    from krunpy.server.tokens import list_tokens

    with open_store(context, data_dir).look() as connection:
        found = list_tokens(connection)
    if json:
        print_json("tokens", found)
        return
    rows = [
        [str(item["id"]), str(item["role"]), format_time(item["created_at"]), format_time(item["expires_at"])]
        for item in found
    ]
    print_table(["token", "role", "created", "expires"], rows)


@tokens.command()
def rm(context: typer.Context, name: Annotated[str, typer.Argument()], data_dir: DataOption = "") -> None:
    """Remove a token by its name."""
    from krunpy.server.tokens import remove_token

    with open_store(context, data_dir).change() as connection:
        remove_token(connection, name)


def _directory(path: str) -> str:
    from krunpy.core.files import make_private_directory

    make_private_directory(path)
    return os.path.abspath(path)
