"""From a plan to the process that runs it: what `krunpy run` and `krunpy quickstart` share. No typer here."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

from krunpy.cli.context import make_globals
from krunpy.cli.lean import run_lean
from krunpy.cli.run_words import parse_run
from krunpy.image.source import IMAGE_PREFIX
from krunpy.runtime import attended
from krunpy.runtime.plan import make_config, write_bundle

if TYPE_CHECKING:
    from collections.abc import Sequence

    from krunpy.cli.context import Globals
    from krunpy.oci.manifest import ImageConfig
    from krunpy.runtime.plan import Plan


def make_id() -> str:
    """Return a random container ID."""
    return f"run-{os.urandom(6).hex()}"


def prepare_run(
    given: Globals, plan: Plan, container_id: str, *, tee: str = "", vmm: str = ""
) -> tuple[list[str], dict[str, str]]:
    """Write the bundle of a plan and return argv and environment of the process that runs it.

    tee, vmm: in place of the settings; empty for the setting.
    On a terminal the conversion is done here, with a bar; otherwise the launcher does it.
    """
    config = make_config(plan, _load_stored_config(given, plan.source))
    if _shows_progress(plan):
        from krunpy.cli.render import Progress
        from krunpy.runtime.prepare import convert_source

        convert_source(
            given.settings, plan.source, encrypt=not plan.integrity_only, progress=Progress("convert")
        )
    return prepare_config(given, config, container_id, tee=tee, vmm=vmm)


def prepare_config(
    given: Globals, config: dict[str, object], container_id: str, *, tee: str = "", vmm: str = ""
) -> tuple[list[str], dict[str, str]]:
    """Write a bundle of this config.json; return what `prepare_run` does."""
    bundle = _make_directory()
    write_bundle(bundle, config)
    argv = [sys.executable, "-I", "-m", "krunpy.runtime.attended", given.state_root, container_id, bundle]
    environment = dict(os.environ)
    for name, value in (("KRUNPY_TEE", tee), ("KRUNPY_VMM", vmm)):
        if value:
            environment[name] = str(value)
    if given.settings.config_file:
        environment["KRUNPY_CONFIG"] = os.path.abspath(given.settings.config_file)
    return argv, environment


def run_words(words: Sequence[str]) -> int | None:
    """Run what follows `run` and return the exit status, or None if typer has to look at it.

    Nothing heavy was imported, so this process itself waits for the workload.
    """
    return run_lean(lambda: _run(words))


def _run(words: Sequence[str]) -> int | None:
    wanted = parse_run(words)
    if wanted is None or _shows_progress(wanted.plan):
        return None
    signal.signal(signal.SIGTERM, attended.interrupt)
    argv, environment = prepare_run(
        make_globals(root="", config=""),
        wanted.plan,
        wanted.name or make_id(),
        tee=wanted.tee,
        vmm=wanted.vmm,
    )
    os.environ.update(environment)
    return attended.main(argv[4:])


def _load_stored_config(given: Globals, source: str) -> ImageConfig | None:
    """Return the configuration of image:ID. Only such a source pays for the imports."""
    if not source.startswith(IMAGE_PREFIX):
        return None
    from krunpy.runtime.prepare import find_stored

    stored = find_stored(given.settings, source)
    return stored.config if stored else None


def _make_directory() -> str:
    """Return a new private directory for a bundle. `tempfile` would cost 7 ms of imports."""
    parent = os.path.abspath(os.environ.get("TMPDIR") or "/tmp")  # noqa: S108 - the name cannot be guessed
    path = f"{parent}/krunpy-bundle-{os.urandom(8).hex()}"
    os.mkdir(path, 0o700)
    return path


def _shows_progress(plan: Plan) -> bool:
    return sys.stderr.isatty() and not plan.source.startswith(IMAGE_PREFIX)
