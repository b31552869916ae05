"""`krunpy doctor`: what this host can do, one line a subject."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from krunpy.cli.checks import CHECKS, Check, Health, fail, ok
from krunpy.cli.checks_tee import choose_kind, find_gaps, find_tee_findings, list_tee_checks
from krunpy.cli.context import settings_of
from krunpy.cli.render import print_json
from krunpy.core.errors import HostError, KrunpyError
from krunpy.runtime.broker import open_broker
from krunpy.tee.detect import TeeKind
from krunpy.tee.host_tree import HostTree

if TYPE_CHECKING:
    from collections.abc import Callable

    from krunpy.core.settings import Settings
    from krunpy.tee.host_tree import Finding

NOT_CAPABLE = 8


def doctor(
    context: typer.Context,
    require: Annotated[
        str, typer.Option(metavar="TEE", help="Exit 8 unless workloads run here in software, snp or tdx.")
    ] = "",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Look at CPU, TEE, KVM (by booting a guest), QEMU, guest, server, podman, cgroups, disk, memory and clock."""
    if require not in ("", "software", "snp", "tdx"):
        raise typer.BadParameter("wanted software, snp or tdx", param_hint="--require")
    settings = settings_of(context)
    tree = HostTree()
    checks = [run_check(check, settings) for check in CHECKS]
    kind = choose_kind(tree, require)
    findings = [] if kind is None else find_tee_findings(kind, settings, tree)
    if kind is not None:
        checks += list_tee_checks(kind, findings, is_required=kind == require)
    checks.append(check_server(settings))
    lacking = find_lacking(checks, require, findings)
    if json:
        facts = [
            {"name": check.name, "health": check.health, "seen": check.seen, "fix": check.fix}
            for check in checks
        ]
        print_json("doctor", {"checks": facts, "required": require, "lacking": lacking})
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            print(f"{check.name:{width}} {check.health.value:5} {check.seen}")
            if check.fix:
                print(f"{'':{width + 6}} -> {check.fix}")
        if lacking:
            print(f"{'required':{width}} fail  {require}: {lacking}")
    if lacking:
        raise typer.Exit(NOT_CAPABLE)


def run_check(check: Callable[[Settings], Check], settings: Settings) -> Check:
    """Return a check's line, also where it could not be made."""
    try:
        return check(settings)
    except (KrunpyError, OSError) as caught:
        error = HostError.of_system(caught) if isinstance(caught, OSError) else caught
        name = getattr(check, "__name__", "check").removeprefix("check_")
        return fail(name, f"{error.what}: {error.why}", error.next)


def check_server(settings: Settings) -> Check:
    """Say whether the attestation server answers, and is the one whose key is configured."""
    if not settings.server_url:
        return ok("server", "none configured: runs start an embedded one")
    try:
        with open_broker(settings) as broker:
            wanted = broker.identity().key
            info = broker.client.info()
    except KrunpyError as error:
        return fail("server", f"{settings.server_url}: {error.why}", error.next)
    if info.key != wanted:
        return fail(
            "server", f"{settings.server_url} has key {info.key.hex()[:16]}, server_key is another", ""
        )
    return ok("server", f"{settings.server_url}, mode {info.mode}, version {info.version}")


def find_lacking(checks: list[Check], require: str, findings: list[Finding]) -> str:
    """Return why what is required does not work here; empty if it does.

    findings: about the hardware TEE that is required.
    """
    if not require:
        return ""
    failed = [check.name for check in checks if check.health is Health.FAIL]
    if failed:
        return f"these checks failed: {', '.join(failed)}"
    if require != TeeKind.SOFTWARE:
        gaps = find_gaps(findings)
        return f"not ready: {', '.join(gaps)}" if gaps else ""
    return ""
