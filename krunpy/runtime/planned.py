"""Prepare a plan without a container: what `krunpy register`, `krunpy measure` and the precreate hook share."""

from __future__ import annotations

import json
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING

from krunpy.guest.payload import VmmKind, load_guest, require_unchanged
from krunpy.oci.annotations import parse_annotations
from krunpy.oci.bundle import parse_bundle
from krunpy.runtime.limits import choose_memory_mib
from krunpy.runtime.plan import make_config, write_bundle
from krunpy.runtime.prepare import (
    Drafted,
    Prepared,
    choose_manifest_in,
    complete,
    convert_source,
    draft,
    find_stored,
)
from krunpy.runtime.vmm_choice import choose_vmm
from krunpy.tee.detect import TeeKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from krunpy.core.settings import Settings
    from krunpy.formats.manifest import ServerIdentity
    from krunpy.oci.bundle import Bundle
    from krunpy.runtime.plan import Plan


def prepare_plan(
    settings: Settings,
    plan: Plan,
    *,
    identity: ServerIdentity,
    tee: TeeKind,
    progress: Callable[[int, int], None] | None = None,
) -> Prepared:
    """Return what a launch of this plan in a TEE would register. Raises as `draft_plan` and `complete` do."""
    with _open_bundle(settings, plan) as bundle:
        return prepare_bundle(settings, bundle, identity=identity, tee=tee, progress=progress)


def prepare_bundle(
    settings: Settings,
    bundle: Bundle,
    *,
    identity: ServerIdentity,
    tee: TeeKind,
    progress: Callable[[int, int], None] | None = None,
) -> Prepared:
    """Return what a launch of this bundle in a TEE would register. Raises as `draft_plan` and `complete` do."""
    drafted = _draft(settings, bundle, identity=identity, tee=tee, progress=progress)
    wishes = parse_annotations(bundle.annotations)
    memory_mib = choose_memory_mib(
        limit=bundle.linux.resources.memory_limit, wish=wishes.memory_mib, default=settings.memory_mib
    )
    return complete(drafted, cpus=wishes.cpus or settings.cpus, memory_mib=memory_mib)


def draft_plan(
    settings: Settings,
    plan: Plan,
    *,
    identity: ServerIdentity,
    tee: TeeKind,
    has_firmware: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Drafted:
    """Return manifest and payload of a launch of this plan, of a guest that is what was built.

    has_firmware: whether the payload's firmware is to be that of the TEE, which the guest must have been built with.

    Raises as `make_config`, `load_guest`, `require_unchanged` and `convert_source` do.
    """
    with _open_bundle(settings, plan) as bundle:
        return _draft(
            settings, bundle, identity=identity, tee=tee, has_firmware=has_firmware, progress=progress
        )


@contextmanager
def _open_bundle(settings: Settings, plan: Plan) -> Iterator[Bundle]:
    stored = find_stored(settings, plan.source)
    config = make_config(plan, stored.config if stored else None)
    with tempfile.TemporaryDirectory(prefix="krunpy-bundle-") as directory:
        write_bundle(directory, config)
        yield parse_bundle(json.dumps(config).encode(), directory)


def _draft(
    settings: Settings,
    bundle: Bundle,
    *,
    identity: ServerIdentity,
    tee: TeeKind,
    has_firmware: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Drafted:
    vmm = choose_vmm(settings, tee) if has_firmware else VmmKind.QEMU
    guest = load_guest(settings.guest_dir, tee=tee if has_firmware else TeeKind.SOFTWARE, vmm=vmm)
    require_unchanged(guest)
    wishes = parse_annotations(bundle.annotations)
    source = wishes.source or f"dir:{bundle.root}"
    image = convert_source(settings, source, encrypt=not wishes.integrity_only, progress=progress)
    return draft(
        bundle,
        image,
        guest,
        identity=identity,
        workload=wishes.workload or "",
        tee=tee,
        manifest_in=choose_manifest_in(settings, wishes),
    )
