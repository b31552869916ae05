"""`krunpy server invitation`: URLs by which `buildah mkcw --attestation-url` registers one image each."""

from __future__ import annotations

import json as json_format
from typing import Annotated

import typer

from krunpy.cli.render import print_json, print_table
from krunpy.cli.server_store import DataOption, format_time, open_store, tell_time
from krunpy.core.errors import FormatError, UsageError
from krunpy.core.files import load_bounded
from krunpy.formats.krun_guest import MAX_KEY_URL, make_key_url

_MAX_POLICY = 16384  # bytes
_SHORTEST_ID = 1
app = typer.Typer(
    no_args_is_help=True, help="URLs that register one image of buildah mkcw each (--enable-reference-kbs)."
)
NameArgument = Annotated[str, typer.Argument(metavar="NAME")]


@app.command()
def create(
    context: typer.Context,
    url: Annotated[
        str, typer.Argument(metavar="URL", help="The server's, as guests reach it: http://IP:PORT.")
    ],
    workload: Annotated[
        str, typer.Option(help="The only workload id it registers, for --workload-id. Default: any.")
    ] = "",
    minutes: Annotated[int, typer.Option(min=1, max=10080, help="Minutes until it expires unused.")] = 60,
    policy: Annotated[
        str, typer.Option(metavar="FILE", help="JSON of docs/policy.md that the evidence has to fulfil.")
    ] = "",
    data_dir: DataOption = "",
) -> None:
    """Print an attestation URL that registers one image, once; only its hash is stored."""
    from krunpy.server.reference_kbs import INVITED
    from krunpy.server.reference_kbs_messages import require_kbs_id, require_short_url
    from krunpy.server.reference_kbs_store import add_invitation, make_invitation_token

    token, now_s = make_invitation_token(), tell_time()
    invited = _require_base(url) + INVITED.format(token=token.reveal().decode())
    if workload:
        require_short_url(invited, require_kbs_id(workload))
    longest = MAX_KEY_URL - len(make_key_url(invited, ""))
    if longest < _SHORTEST_ID:
        raise UsageError("cannot make an invitation", why=f'"{url}" is too long for the guest\'s buffer')
    with open_store(context, data_dir).change() as connection:
        add_invitation(
            connection,
            token,
            workload=workload,
            policy=_load_policy(policy) if policy else {},
            now_s=now_s,
            expires_at=now_s + minutes * 60,
        )
    print(invited)
    if not workload:
        typer.echo(f"give --workload-id at most {longest} characters: buildah's own ids are 64", err=True)


@app.command("ls")
def list_all(
    context: typer.Context,
    data_dir: DataOption = "",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List invitations by name; one that was used is its workload's attestation URL."""
    from krunpy.server.reference_kbs_store import list_invitations

    with open_store(context, data_dir).look() as connection:
        found = list_invitations(connection, now_s=tell_time())
    if json:
        print_json("invitations", found)
        return
    rows = [
        [
            str(item["id"]),
            str(item["workload"] or "any"),
            format_time(item["created_at"]),
            format_time(item["expires_at"]),
            format_time(item["used_at"]),
        ]
        for item in found
    ]
    print_table(["invitation", "workload", "created", "expires", "used"], rows)


@app.command()
def rm(context: typer.Context, name: NameArgument, data_dir: DataOption = "") -> None:
    """Remove an invitation that was not used, by its name."""
    from krunpy.server.reference_kbs_store import remove_invitation

    with open_store(context, data_dir).change() as connection:
        remove_invitation(connection, name)


def _require_base(url: str) -> str:
    """Return scheme, host and port; the guest has no certificates, so https would need a proxy's."""
    from urllib.parse import urlsplit

    parts = urlsplit(url.rstrip("/"))
    is_base = not (parts.path or parts.query or parts.fragment or parts.username)
    if parts.scheme not in ("http", "https") or not parts.netloc or not is_base:
        raise UsageError(f'cannot invite to "{url}"', why="wanted http://ADDRESS:PORT")
    return f"{parts.scheme}://{parts.netloc}"


def _load_policy(path: str) -> dict[str, object]:
    from krunpy.attest.policy_document import parse_policy

    try:
        value = json_format.loads(load_bounded(path, _MAX_POLICY))
    except ValueError as error:
        raise FormatError(f"cannot read the policy {path}", why="it is not JSON") from error
    parse_policy(value, source=path, accepts_simulated=False)
    return dict(value)
