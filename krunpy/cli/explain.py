"""`krunpy explain`: why an attestation ended as it did, field by field, and what mends it."""

from __future__ import annotations

import json as jsonlib
import os
from typing import TYPE_CHECKING, Annotated

import typer

from krunpy.cli.context import globals_of
from krunpy.cli.neighbours import explain_digest, find_manifest
from krunpy.cli.render import print_json
from krunpy.cli.verdicts import accepts_any, print_checks
from krunpy.core.errors import BrokerError, HostError, StateError, make_plain
from krunpy.core.files import load_bounded
from krunpy.runtime.broker import open_broker
from krunpy.runtime.container import FAILURE, find_container
from krunpy.runtime.prepare import failures_directory

if TYPE_CHECKING:
    from krunpy.cli.context import Globals
    from krunpy.measure.explain import Change
    from krunpy.runtime.broker import Broker

ADVICE = {
    "workload-unknown": (
        "the guest's manifest is registered nowhere: it was changed after registration, or never registered",
        "krunpy register SOURCE [-- ARGS], with exactly the words of the run",
    ),
    "workload-revoked": ("the workload was revoked", "krunpy workload show WORKLOAD"),
    "workload-ended": ("every use of the registration was taken", "krunpy register SOURCE again"),
    "workload-expired": ("the registration has expired", "krunpy register SOURCE again"),
    "session-used": ("the nonce was used before: a replay", "nothing: a new run asks for a new nonce"),
    "session-unknown": (
        "the server never gave this session",
        "check that relay and server are the same installation",
    ),
    "session-expired": ("the guest took longer than the nonce lives", "see what slows the guest's boot"),
    "report-data-mismatch": (
        "the evidence is not for this session: the nonce, the guest's key or the manifest was exchanged on the way",
        "do not trust this host's relay; run again on another host",
    ),
    "evidence-not-verified": (
        "the evidence was changed after it was signed, or whoever signed it is not the TEE it claims to be",
        "do not trust this host's relay; run again on another host",
    ),
    "host-data-mismatch": (
        "HOST_DATA or MRCONFIGID names another manifest than the guest: another workload's of the same class",
        "krunpy run with the words of the registration; if you did, do not trust this host",
    ),
    "tee-not-allowed": ("this server or this workload does not accept this TEE", "krunpy server run --help"),
}


_BINDINGS = {
    "initrd": "the launch digest: it lies in the measured initrd",
    "host_data": "HOST_DATA or MRCONFIGID: the launch digest is that of its class",
}


def explain(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="[ID|last]", help="Attestation, or container.")] = "last",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show every check of an attestation, seen against wanted, the likely cause and the command that mends it."""
    given = globals_of(context)
    failure = _load_failure(given, name)
    record, changes, tried = _load(given, "last" if failure is not None else name)
    if json:
        explanation = [
            {"input": change.input, "registered": change.registered, "explains": change.explains}
            for change in changes or ()
        ]
        print_json("explanation", {"record": record, "explanation": explanation, "container": failure})
        return
    if failure is not None:
        print(f"container {name}: {failure.get('what')}\n  why:  {failure.get('why')}")
    print_record(record)
    aftermath = _load_aftermath(given, record)
    if aftermath is not None:
        print("\nthe server released the key, and then:", make_plain(str(aftermath.get("what"))))
        print("cause: ", make_plain(str(aftermath.get("why"))))
        return
    print_cause(record, changes, tried)


def _load_aftermath(given: Globals, record: dict[str, object]) -> dict[str, object] | None:
    """Return why the guest did not run what was released to it, as its shim kept it; None if it did run."""
    name = str(record.get("id"))
    path = os.path.join(failures_directory(given.settings), f"{name}.json")
    if not name.isalnum() or not os.path.exists(path):
        return None
    try:
        failure = jsonlib.loads(load_bounded(path, 65536))
    except (ValueError, RecursionError, HostError):
        return None
    return failure if isinstance(failure, dict) else None


def _load_failure(given: Globals, name: str) -> dict[str, object] | None:
    if name == "last" or not os.path.isdir(f"{given.state_root}/{name}") or "/" in name:
        return None
    container = find_container(given.state_root, name)
    raw = container.load_bytes(FAILURE, 65536) if container else b""
    try:
        failure = jsonlib.loads(raw) if raw else None
    except (ValueError, RecursionError):
        return None  # the attestation is still there
    return failure if isinstance(failure, dict) else None


def _load(given: Globals, name: str) -> tuple[dict[str, object], tuple[Change, ...] | None, int]:
    with open_broker(given.settings) as broker:
        record = show_attestation(broker, name)
        manifest = b""
        workload = str(record.get("workload") or "")
        if workload:
            try:
                manifest = find_manifest(broker.client.show_workload(workload))
            except BrokerError:
                manifest = b""  # forgotten since; the kept launches still explain
    if record.get("error") != "launch-digest-unknown":
        return record, None, 0
    changes, tried = explain_digest(given.settings, record, manifest)
    return record, changes, tried


def show_attestation(broker: Broker, name: str) -> dict[str, object]:
    """Return an attestation's record. Raises StateError if none was made yet, BrokerError if there is no such one."""
    if name == "last" and not broker.client.list_attestations(limit=1):
        raise StateError(
            "cannot show the last attestation",
            why="no guest has asked this server for anything yet",
            next="krunpy run SOURCE, then again",
        )
    try:
        return broker.client.show_attestation(name)
    except BrokerError as error:
        error.next = error.next or "see `krunpy attestation ls`"
        raise


def print_record(record: dict[str, object], *, is_whole: bool = False) -> None:
    """Print an attestation and its checks; those that want nothing in particular only if `is_whole`."""
    first = (
        "SIMULATED - NOT CONFIDENTIAL" if record.get("simulated") else f"CONFIDENTIAL ({record.get('tee')})"
    )
    outcome = "KEY RELEASED" if record.get("outcome") == "released" else f"REFUSED: {record.get('error')}"
    print(make_plain(f"{first}  {outcome}"))
    about = f"attestation {record.get('id')}  workload {record.get('workload') or '-'}  {record.get('time')}"
    print(make_plain(about))
    if record.get("message"):
        detail = f": {record.get('detail')}" if record.get("detail") else ""
        print(make_plain(f"{record.get('message')}{detail}"))
    bound = _BINDINGS.get(str(record.get("manifest_in")))
    if bound:
        print(f"manifest {str(record.get('manifest_hash'))[:16]} is bound by {bound}")
    elif record.get("outcome") == "released" and not record.get("manifest_hash"):
        print("no manifest is bound (reference-kbs): the evidence names the machine, and not its disk")
    rows = _list_checks(record)
    if not rows:
        return
    shown = rows if is_whole else [row for row in rows if not accepts_any(row)]
    print_checks(shown)
    left_out = len(rows) - len(shown)
    if left_out:
        print(f"({left_out} more where any value would do: krunpy attestation show {record.get('id')})")


def print_cause(record: dict[str, object], changes: tuple[Change, ...] | None, tried: int) -> None:
    """Print the likely cause of a refusal and what to do."""
    error = str(record.get("error") or "")
    if not error:
        print(
            "\nthe server released the key; if the workload did not run, the guest's reason is on its standard error"
        )
        return
    if error == "launch-digest-unknown":
        _print_digest_cause(changes, tried)
        return
    cause, fix = ADVICE.get(error, ("", ""))
    hints = _hints(record)
    print(f"\ncause:  {make_plain(cause or '; '.join(hints) or error)}")
    print(f"fix:    {fix or 'see the check that failed above'}")


def _print_digest_cause(changes: tuple[Change, ...] | None, tried: int) -> None:
    print(f"\nthe machine's launch digest is none of the registered ones ({tried} with known inputs)")
    if changes is None:
        print(
            "cause:  no vCPU count, CPU model, kernel, initrd, command line or firmware known here explains it"
        )
        print("        (memory is part of this digest only under libkrun)")
        print("fix:    find out what the host loaded; `krunpy guest show` checks the guest's own parts")
        return
    for change in changes:
        print(f"cause:  {change.input} differs: registered {change.registered}, launched {change.explains}")
    names = {change.input for change in changes}
    if names <= {"vcpus", "vcpu_type", "guest_features", "memory_mib", "variant"}:
        print(
            "fix:    register the same machine shape: krunpy register SOURCE --cpus N, or run with the registered one"
        )
    elif "initrd" in names:
        print(
            "fix:    if you rebuilt the guest, register again; if not, the host changed the initrd: do not trust it"
        )
    else:
        print(
            "fix:    if you changed it yourself, register again; if not, the host changed it: do not trust it"
        )


def _hints(record: dict[str, object]) -> list[str]:
    checks = _list_checks(record)
    return [str(check["hint"]) for check in checks if not check.get("held") and check.get("hint")]


def _list_checks(record: dict[str, object]) -> list[dict[str, object]]:
    verdict = record.get("verdict")
    checks = verdict.get("checks") if isinstance(verdict, dict) else None
    return [check for check in checks if isinstance(check, dict)] if isinstance(checks, list) else []
