"""From an image to a named machine, and from a named machine to the bundle that runs it as `krunpy run` would."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, cast

from krunpy.core.errors import StateError, UsageError
from krunpy.image.source import IMAGE_PREFIX, open_source
from krunpy.oci.annotations import SOURCE
from krunpy.oci.state import STOPPED
from krunpy.runtime import container as files
from krunpy.runtime.container import find_container
from krunpy.runtime.lifecycle import delete_container
from krunpy.runtime.plan import Plan, find_user, make_image_config
from krunpy.runtime.prepare import convert_source, open_cache
from krunpy.runtime.vm_shares import annotate_shares
from krunpy.runtime.vm_store import VmStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from krunpy.core.settings import Settings
    from krunpy.image.workload import WorkloadImage
    from krunpy.runtime.vm_record import VmRecord

_LIMIT = 1024 * 1024  # bytes of a container's annotations


def open_store(settings: Settings, state_root: str) -> VmStore:
    """Return the named machines of this user."""
    return VmStore(os.path.join(settings.data_dir, "vms"), lambda name: _is_alive(state_root, name))


def name_container(name: str) -> str:
    """Return the ID of a machine's container."""
    return f"vm-{name}"


def convert_image(
    settings: Settings, source: str, progress: Callable[[int, int], None] | None
) -> tuple[WorkloadImage, tuple[int, int, tuple[int, ...]]]:
    """Return the image of a source, and uid, gid and additional gids of its user. Raises as `convert_source` does."""
    image = convert_source(settings, source, progress=progress)
    if source.startswith(IMAGE_PREFIX):
        return image, find_user(image.config.user, None)
    opened = open_source(source)
    try:
        return image, find_user(image.config.user, opened)
    finally:
        opened.close()


def ensure_image(
    settings: Settings, record: VmRecord, progress: Callable[[int, int], None] | None
) -> WorkloadImage:
    """Return a machine's image, converted again if it was pruned.

    Raises StateError if its source is not what it was.
    """
    cache = open_cache(settings)
    try:
        return cache.load(record.image)
    except StateError:
        if record.source.startswith(IMAGE_PREFIX):
            raise
    image = convert_source(settings, record.source, progress=progress)
    if image.source != record.fingerprint:
        raise StateError(
            f"cannot start VM {record.name}",
            why=f"its image is not in the cache any more, and {record.source} is another one now",
            next=f"`krunpy vm delete {record.name}`, then create it again",
        )
    return image


def make_vm_config(
    record: VmRecord, image: WorkloadImage, *, args: tuple[str, ...] = (), env: tuple[str, ...] = ()
) -> dict[str, object]:
    """Return the config.json of a machine.

    args: instead of its own; env: on top of it. Raises UsageError if nothing says what to run.
    """
    plan = Plan(
        source=f"{IMAGE_PREFIX}{image.image_id}",
        args=args or record.args,
        env=(*record.env, *env),
        cwd=record.workdir,
        cpus=record.cpus,
        memory_mib=record.memory_mib,
    )
    try:
        config = make_image_config(plan, image.config, record.user)
    except UsageError as error:
        error.next = error.next and f"name it: krunpy vm create {record.source} -- COMMAND"
        raise
    annotations = cast("dict[str, str]", config["annotations"])
    config["annotations"] = annotations | annotate_shares(record.shares)
    return config


def remove_remains(state_root: str, name: str) -> None:
    """Remove what a machine left whose waiting process was killed. The caller holds the machine.

    Raises StateError if the container of this ID is another one.
    """
    container_id = name_container(name)
    container = find_container(state_root, container_id)
    if container is None:
        return
    annotations = json.loads(container.load_bytes(files.ANNOTATIONS, _LIMIT) or b"{}")
    if container.status() != STOPPED or not str(annotations.get(SOURCE, "")).startswith(IMAGE_PREFIX):
        raise StateError(
            f"cannot start VM {name}",
            why=f"there is another container {container_id}",
            next=f"krunpy delete --force {container_id}",
        )
    delete_container(state_root, container_id, force=True)


def _is_alive(state_root: str, name: str) -> bool:
    container = find_container(state_root, name_container(name))
    return container is not None and container.record is not None and container.status() != STOPPED
