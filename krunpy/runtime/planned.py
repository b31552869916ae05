"""Prepare a plan without a container: what `krunpy register`, `krunpy measure` and the precreate hook share."""

from __future__ import annotations

import json
import tempfile
from typing import TYPE_CHECKING

from krunpy.oci.annotations import parse_annotations
from krunpy.oci.bundle import parse_bundle
from krunpy.runtime.plan import make_config, write_bundle
from krunpy.runtime.prepare import Prepared, convert_source, prepare

if TYPE_CHECKING:
    from collections.abc import Callable

    from krunpy.core.settings import Settings
    from krunpy.formats.manifest import ServerIdentity
    from krunpy.oci.bundle import Bundle
    from krunpy.runtime.plan import Plan


def prepare_plan(
    settings: Settings,
    plan: Plan,
    *,
    identity: ServerIdentity,
    progress: Callable[[int, int], None] | None = None,
) -> Prepared:
    """Return what a launch of this plan would register. Raises as `make_config`, `convert` and `prepare` do."""
    config = make_config(plan)
    with tempfile.TemporaryDirectory(prefix="krunpy-bundle-") as directory:
        write_bundle(directory, config)
        bundle = parse_bundle(json.dumps(config).encode(), directory)
        return prepare_bundle(settings, bundle, identity=identity, progress=progress)


def prepare_bundle(
    settings: Settings,
    bundle: Bundle,
    *,
    identity: ServerIdentity,
    progress: Callable[[int, int], None] | None = None,
) -> Prepared:
    """Return what a launch of this bundle would register. Raises as `convert` and `prepare` do."""
    wishes = parse_annotations(bundle.annotations)
    source = wishes.source or f"dir:{bundle.root}"
    image = convert_source(settings, source, encrypt=not wishes.integrity_only, progress=progress)
    return prepare(
        settings,
        bundle,
        image,
        identity=identity,
        workload=wishes.workload or "",
        cpus=wishes.cpus or settings.cpus,
    )
