"""`krunpy hook`: what the OCI hooks in hooks/ call. For engines, not for people."""

from __future__ import annotations

import json
import sys
from typing import cast

import typer

from krunpy.cli.context import settings_of
from krunpy.core.errors import BundleError
from krunpy.oci.annotations import PREPARED, require_no_own
from krunpy.oci.bundle import parse_bundle
from krunpy.oci.document import load_document
from krunpy.runtime.broker import open_broker
from krunpy.runtime.confidential import choose_tee
from krunpy.runtime.handover import hand_over, take
from krunpy.runtime.intake import require_engine_annotations
from krunpy.runtime.planned import prepare_bundle
from krunpy.runtime.prepare import load_key

app = typer.Typer(
    no_args_is_help=True, help="OCI hooks: convert and register before, end the registration after."
)
_LIMIT = 4 * 1024 * 1024  # bytes


@app.command()
def precreate(context: typer.Context) -> None:
    """Read config.json on stdin, convert and register its workload for one run, and write config.json back."""
    raw = sys.stdin.buffer.read(_LIMIT + 1)
    bundle = parse_bundle(raw, ".")
    require_no_own(bundle.annotations)
    settings = settings_of(context)
    require_engine_annotations(bundle.annotations, lambda: settings)
    config = cast("dict[str, object]", json.loads(raw))
    with open_broker(settings) as broker:
        tee = choose_tee(settings.tee)
        prepared = prepare_bundle(settings, bundle, identity=broker.identity(), tee=tee)
        if broker.may_register and broker.register_run(prepared, key=load_key(settings, prepared.image)):
            token = hand_over(settings, prepared.parsed.workload)
            config["annotations"] = {**dict(bundle.annotations), PREPARED: token}
    json.dump(config, sys.stdout)


@app.command()
def poststop(context: typer.Context) -> None:
    """Read the container's state on stdin and end what was registered for it, if it never ran."""
    raw = sys.stdin.buffer.read(_LIMIT + 1)
    try:
        state = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise BundleError("cannot read the container's state", why="it is not JSON") from error
    settings = settings_of(context)
    workload = take(settings, _find_token(state) or _find_token(_load_config(state)))
    if not workload:
        return
    with open_broker(settings) as broker:
        if broker.may_register:
            broker.client.end_use(workload)


def _load_config(state: object) -> object:
    """Return config.json of a container's bundle: podman's state has the annotations from before precreate."""
    bundle = state.get("bundle") if isinstance(state, dict) else None
    if not isinstance(bundle, str):
        return None
    try:
        return cast("object", json.loads(load_document(f"{bundle}/config.json", "config.json")))
    except (BundleError, ValueError, RecursionError):
        return None  # podman has removed it


def _find_token(document: object) -> str:
    annotations = document.get("annotations") if isinstance(document, dict) else None
    token = annotations.get(PREPARED) if isinstance(annotations, dict) else None
    return token if isinstance(token, str) else ""
