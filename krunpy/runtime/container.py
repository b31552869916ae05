"""One container's directory below the state root: what lies in it, and what it says about the status now.

Light: used by every OCI verb. It starts and signals nothing; `process` does that.
"""

from __future__ import annotations

import os

from krunpy.core.errors import FormatError, HostError, StateError
from krunpy.oci.state import MAX_RECORD, Record, derive_status, parse_record, require_id
from krunpy.runtime.process import is_alive

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

RECORD = "state"  # key=value lines, written once by `create`
FIFO = "start.fifo"  # exists until `start`
ANNOTATIONS = "annotations.json"
CONFIG = "config.json"  # the bytes that `create` reviewed
HOOKS = "hooks.json"  # only if there are hooks for `start` or `delete`
CGROUPS = "cgroups"  # directories that `create` made, one a line, parents first
NO_LIMITS = "no-limits"  # settings that hold nowhere, because the engine wants no cgroup; one a line
AFTERMATH = "aftermath"  # a path: where a failure after the release is kept as well, for `krunpy explain`
FAILURE = "failure.json"  # why no workload ran, or why it ended without a status
TIMINGS = "timings.json"
TEE = "tee"  # the one that the machine is launched in, by the word of manifests
VMM = "vmm"  # what starts it: qemu or libkrun
CONSOLE = "console.log"  # what the machine printed; two halves of at most 32 KiB
LAUNCHER_LOG = "launcher.log"
STATUS_FAILED = 125  # no workload ran, or it ended without a status: as engines count their own failures


class Container:
    """A container's directory, and the record in it if `create` got that far."""

    __slots__ = ("directory", "id", "record")

    def __init__(self, *, id: str, directory: str, record: Record | None) -> None:
        self.id = id
        self.directory = directory
        self.record = record

    def path(self, name: str) -> str:
        """Return the path of a file of this container."""
        return f"{self.directory}/{name}"

    def status(self) -> str:
        """Return the status as the system shows it now."""
        record = self.record
        return derive_status(
            has_record=record is not None,
            is_alive=record is not None and is_alive(record.pid, record.start_time),
            has_fifo=os.path.exists(self.path(FIFO)),
        )

    def load_bytes(self, name: str, limit: int) -> bytes:
        """Return the contents of a file of this container, empty if there is none.

        Raises FormatError if it is longer than `limit` bytes.
        """
        return _load(self.path(name), limit) or b""


def load_container(root: str, container_id: str) -> Container:
    """Return a container by its ID. Raises StateError if there is none."""
    container = find_container(root, container_id)
    if container is None:
        raise StateError(f"cannot find container {container_id}", why="container does not exist")
    return container


def find_container(root: str, container_id: str) -> Container | None:
    """Return a container by its ID, or None."""
    require_id(container_id)
    directory = f"{root}/{container_id}"
    if not os.path.isdir(directory):
        return None
    contents = _load(f"{directory}/{RECORD}", MAX_RECORD)
    record = parse_record(contents) if contents is not None else None
    return Container(id=container_id, directory=directory, record=record)


def load_containers(root: str) -> Iterator[Container]:
    """Yield every container below the state root, by ID; one that vanishes meanwhile is left out."""
    try:
        names = sorted(os.listdir(root))
    except FileNotFoundError:
        return
    for name in names:
        try:
            container = find_container(root, name)
        except (FormatError, StateError):
            continue
        if container is not None:
            yield container


def write_file(path: str, contents: bytes, *, mode: int = 0o600) -> None:
    """Replace a small file: temporary name beside it, rename. Raises HostError.

    No fsync: the state root is a tmpfs, and after a power cut nothing in it is of use.
    """
    temporary = f"{path}.new"
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        try:
            view = memoryview(contents)
            while view:
                view = view[os.write(descriptor, view) :]
        finally:
            os.close(descriptor)
        os.rename(temporary, path)
    except OSError as error:
        raise HostError(f"cannot write {path}", why=(error.strerror or "error").lower()) from error


def remove_directory(directory: str) -> None:
    """Remove a directory and all in it; it may vanish meanwhile. Symbolic links are not followed."""
    try:
        entries = list(os.scandir(directory))
    except FileNotFoundError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            remove_directory(entry.path)
            continue
        _ignore_missing(os.unlink, entry.path)
    _ignore_missing(os.rmdir, directory)


def _ignore_missing(remove: object, path: str) -> None:
    assert callable(remove)
    try:
        remove(path)
    except FileNotFoundError:
        return


def _load(path: str, limit: int) -> bytes | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise HostError(f"cannot read {path}", why=(error.strerror or "error").lower()) from error
    try:
        contents = b""
        while chunk := os.read(descriptor, limit + 1 - len(contents)):
            contents += chunk
    finally:
        os.close(descriptor)
    if len(contents) > limit:
        raise FormatError(f"cannot read {path}", why=f"it is longer than {limit} bytes")
    return contents
