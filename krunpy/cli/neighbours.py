"""What may have been launched instead of the registered machine: everything that this host still knows of."""

from __future__ import annotations

import base64
import json
import os
from itertools import product
from typing import TYPE_CHECKING

from krunpy.core.errors import BrokerError, KrunpyError
from krunpy.core.files import load_bounded
from krunpy.core.octets import LaunchDigest
from krunpy.guest.bundle import open_payload
from krunpy.guest.payload import VmmKind, assemble_class_payload, assemble_payload, load_guest
from krunpy.measure.description import LaunchDescription, parse_description
from krunpy.measure.explain import Candidates, Change, find_explanation
from krunpy.measure.libkrun_description import (
    BundleDescription,
    find_bundle_explanation,
    is_bundle_description,
    parse_bundle_description,
)
from krunpy.runtime.predict import describe_bundle_launch, describe_launch
from krunpy.tee.detect import TeeKind

if TYPE_CHECKING:
    from krunpy.core.settings import Settings

_LIMIT = 1024 * 1024  # bytes of a kept description


def explain_digest(
    settings: Settings, record: dict[str, object], manifest: bytes
) -> tuple[tuple[Change, ...] | None, int]:
    """Return the inputs that explain the launch digest of a record, None if none do, and how many sets were tried.

    manifest: of the workload; empty if it is not known.
    """
    text = str(record.get("launch_digest") or "")
    values = record.get("reference_values")
    if not text or not isinstance(values, list):
        return None, 0
    try:
        seen = LaunchDigest.from_hex(text)
    except ValueError as error:
        raise BrokerError(
            "cannot understand the attestation server", why=f'launch_digest: seen "{text[:100]}"'
        ) from error
    inputs = [value.get("inputs") for value in values if isinstance(value, dict)]
    if any(map(is_bundle_description, inputs)):
        return _explain_bundle(settings, seen, inputs, manifest)
    candidates = _collect(settings, text, manifest)
    tried = 0
    for value in inputs:
        try:
            registered = parse_description(value)
        except KrunpyError:
            continue
        tried += 1
        found = find_explanation(seen, registered, candidates)
        if found is not None:
            return found, tried
    return None, tried


def _explain_bundle(
    settings: Settings, seen: LaunchDigest, inputs: list[object], manifest: bytes
) -> tuple[tuple[Change, ...] | None, int]:
    """Explain the digest of a machine of libkrun in SEV-SNP; the variants of one launch are one set of inputs."""
    registered: dict[tuple[LaunchDigest, int, int], BundleDescription] = {}
    for value in inputs:
        try:
            item = parse_bundle_description(value)
        except KrunpyError:
            continue
        registered.setdefault((item.folded, item.vcpus, item.memory_mib), item)
    known = [*_load_bundle(settings, seen.hex()), *_describe_bundles(settings, manifest)]
    for item in registered.values():
        found = find_bundle_explanation(seen, item, known)
        if found is not None:
            return found, len(registered)
    return None, len(registered)


def _collect(settings: Settings, digest: str, manifest: bytes) -> Candidates:
    descriptions = [*_load_launch(settings, digest), *_describe_builds(settings, manifest)]
    return Candidates(
        kernels=tuple(item.kernel for item in descriptions if item.kernel),
        initrds=tuple(item.initrd for item in descriptions if item.initrd),
        cmdlines=tuple(item.cmdline for item in descriptions if item.cmdline),
        firmwares=tuple(item.firmware for item in descriptions),
    )


def _load_launch(settings: Settings, digest: str) -> list[LaunchDescription]:
    """Return what this host says that it launched: a hint, not a proof; its digest is computed again."""
    try:
        return [parse_description(value) for value in _load_kept(settings, digest)]
    except KrunpyError:
        return []


def _load_bundle(settings: Settings, digest: str) -> list[BundleDescription]:
    """Return what `_load_launch` does, of a machine of libkrun in SEV-SNP."""
    try:
        return [parse_bundle_description(value) for value in _load_kept(settings, digest)]
    except KrunpyError:
        return []


def _load_kept(settings: Settings, digest: str) -> list[object]:
    path = os.path.join(settings.data_dir, "launches", f"{digest}.json")
    try:
        return [json.loads(load_bounded(path, _LIMIT))] if os.path.exists(path) else []
    except (KrunpyError, ValueError, RecursionError):
        return []


def _list_builds(settings: Settings) -> list[str]:
    folder = os.path.join(settings.guest_dir, "builds")
    return sorted(os.listdir(folder)) if os.path.isdir(folder) else []


def _describe_bundles(settings: Settings, manifest: bytes) -> list[BundleDescription]:
    """Return launches of every kept guest build under libkrun in SEV-SNP, with this manifest in its initrd."""
    found: list[BundleDescription] = []
    for name in _list_builds(settings):
        try:
            guest = load_guest(settings.guest_dir, name, tee=TeeKind.SNP, vmm=VmmKind.LIBKRUN)
            bundle = open_payload(assemble_payload(guest, manifest))
            found.append(describe_bundle_launch(bundle, cpus=1, memory_mib=512, name=f"guest {name}"))
        except KrunpyError:
            continue
    return found


def _describe_builds(settings: Settings, manifest: bytes) -> list[LaunchDescription]:
    """Return launches of every kept guest build, with this manifest in its initrd and with none."""
    found: list[LaunchDescription] = []
    for name, vmm in product(_list_builds(settings), VmmKind):
        try:
            guest = load_guest(settings.guest_dir, name, vmm=vmm)
            found.append(describe_launch(assemble_payload(guest, manifest), cpus=1, name=f"guest {name}"))
            found.append(
                describe_launch(
                    assemble_class_payload(guest), cpus=1, name=f"guest {name} without a manifest"
                )
            )
        except KrunpyError:
            continue
    return found


def find_manifest(workload: dict[str, object]) -> bytes:
    """Return the manifest in a workload's description, empty if there is none."""
    text = workload.get("manifest")
    try:
        return base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except ValueError:
        return b""
