"""The verbs after `create`: start, state, kill, delete, list. Each looks at the system, not at memory.

Light: no json, no typing, no dataclasses; hooks and cgroups are loaded only where there are any.
"""

from __future__ import annotations

import errno
import os

from krunpy.core.errors import FormatError, KrunpyError, StateError
from krunpy.oci.state import RUNNING, STOPPED, encode_state, quote, require_allowed
from krunpy.runtime import container as files
from krunpy.runtime.container import (
    Container,
    find_container,
    load_container,
    load_containers,
    remove_directory,
)
from krunpy.runtime.process import kill_and_wait, send_signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_LIMIT = 4 * 1024 * 1024  # bytes; what `create` wrote
_KILL_TIMEOUT_S = 10.0


def start_container(root: str, container_id: str) -> list[str]:
    """Have the shim run the workload; return at once, after the poststart hooks, with warnings of those.

    Raises StateError if the container is not created.
    """
    container = load_container(root, container_id)
    require_allowed("start", container_id, container.status())
    path = container.path(files.FIFO)
    try:
        fifo = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _not_created(container_id, error) from error
    try:
        os.unlink(path)  # the one `start` that manages this is the one that starts
        os.write(fifo, b"G")
    except OSError as error:
        raise _not_created(container_id, error) from error
    finally:
        os.close(fifo)
    return _run_hooks(container, "poststart", RUNNING)


def _not_created(container_id: str, error: OSError) -> StateError:
    why = {errno.ENXIO: "its shim has just ended", errno.ENOENT: "it has just been started by another"}
    text = why.get(error.errno or 0) or (error.strerror or "error").lower()
    return StateError(f"cannot start container {container_id}", why=text)


def show_state(root: str, container_id: str) -> str:
    """Return the OCI state of a container as JSON. Raises StateError if there is none."""
    container = load_container(root, container_id)
    record = container.record
    if record is None:
        raise StateError(f"cannot show container {container_id}", why="it is still being created")
    return encode_state(record, container.status(), container.load_bytes(files.ANNOTATIONS, _LIMIT))


def kill_container(root: str, container_id: str, number: int) -> None:
    """Send a signal: SIGKILL ends the machine, others reach the workload. Raises StateError if it is over."""
    container = load_container(root, container_id)
    require_allowed("kill", container_id, container.status())
    record = container.record
    if record is None or not send_signal(record.pid, record.start_time, number):
        raise StateError(f"cannot kill container {container_id}", why="container not running")


def delete_container(root: str, container_id: str, *, force: bool) -> list[str]:
    """Remove what a container left: processes, cgroups, files. With force: whatever its status, even none.

    Returns warnings of the poststop hooks.

    Raises StateError without force if it is unknown or not stopped, HostError if it cannot be ended.
    """
    container = _find_to_remove(root, container_id) if force else load_container(root, container_id)
    if container is None:
        return []
    if not force:
        require_allowed("delete", container_id, container.status())
    record = container.record
    if record is not None:
        kill_and_wait(record.pid, record.start_time, timeout_s=_KILL_TIMEOUT_S)
    _remove_cgroups(container)
    try:
        return _run_hooks(container, "poststop", STOPPED)
    finally:
        remove_directory(container.directory)


def _find_to_remove(root: str, container_id: str) -> Container | None:
    """Return a container also where its record is damaged: then its cgroup says what to end."""
    try:
        return find_container(root, container_id)
    except FormatError:
        return Container(id=container_id, directory=f"{root}/{container_id}", record=None)


def list_containers(root: str) -> Iterator[tuple[Container, str]]:
    """Yield every container and its status, by ID."""
    for container in load_containers(root):
        yield container, container.status()


def encode_list(root: str) -> str:
    """Return every container as a JSON array of OCI states."""
    items = []
    for container, status in list_containers(root):
        if container.record is None:
            items.append(f'{{"id": {quote(container.id)}, "status": "{status}"}}')
            continue
        annotations = container.load_bytes(files.ANNOTATIONS, _LIMIT)
        items.append(encode_state(container.record, status, annotations))
    return "[" + ",\n ".join(items) + "]"


def _remove_cgroups(container: Container) -> None:
    listed = container.load_bytes(files.CGROUPS, _LIMIT).decode("utf-8", "surrogateescape").splitlines()
    if not listed:
        return
    from krunpy.runtime.cgroup import kill_members, remove_cgroups

    if container.record is None or not container.record.contained:
        kill_members(listed)
    remove_cgroups(listed)


def _run_hooks(container: Container, stage: str, status: str) -> list[str]:
    """Run all hooks of a stage; what fails is a warning, as the specification wants it for these stages."""
    raw = container.load_bytes(files.HOOKS, _LIMIT)
    if not raw or container.record is None:
        return []
    from krunpy.oci.config import parse_hooks
    from krunpy.oci.document import parse_document
    from krunpy.runtime.hooks import run_hooks

    record = container.record
    state = encode_state(record, status, container.load_bytes(files.ANNOTATIONS, _LIMIT))
    warnings = []
    for hook in getattr(parse_hooks(parse_document(raw, "the hooks")), stage):
        try:
            run_hooks([hook], stage=stage, state=state, cwd=record.bundle)
        except (KrunpyError, OSError) as error:
            warnings.append(str(error))
    return warnings
