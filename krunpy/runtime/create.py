"""The verb `create`: make the container's directory and cgroup, start the shim, run the hooks, return.

Whatever fails leaves nothing behind. Conversion, registration and the machine are the launcher's, later.
Source: OCI runtime specification, runtime.md, "Lifecycle"; podman.md section 5.
"""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING

from krunpy.core.errors import HostError, StateError
from krunpy.oci.state import CREATED, MAX_RECORD, Record, encode_record, encode_state, require_id
from krunpy.runtime import cgroup
from krunpy.runtime import container as files
from krunpy.runtime.birth import fork_shim
from krunpy.runtime.container import load_containers, remove_directory, write_file
from krunpy.runtime.intake import take_in
from krunpy.runtime.process import find_start_time, kill_and_wait

if TYPE_CHECKING:
    from krunpy.runtime.birth import Newborn
    from krunpy.runtime.intake import Intake, Request

DISABLED = "disabled"
_KILL_TIMEOUT_S = 10.0


def create_container(request: Request) -> int:
    """Return the pid of the shim of a new container, whose status is then created.

    Raises BundleError for a bundle that is broken or asks for what is refused, StateError if the ID is taken,
    HostError if the host does not let us.
    """
    require_id(request.container_id)
    intake = take_in(request)
    directory = _make_directory(request)
    try:
        return _populate(request, intake, directory)
    except BaseException:
        remove_directory(directory)
        raise


def _make_directory(request: Request) -> str:
    directory = f"{request.root}/{request.container_id}"
    try:
        os.makedirs(request.root, mode=0o700, exist_ok=True)
        os.mkdir(directory, 0o711)
    except FileExistsError:
        raise StateError(
            f"cannot create container {request.container_id}", why="a container with this ID already exists"
        ) from None
    except OSError as error:
        raise HostError(f"cannot make {directory}", why=(error.strerror or "error").lower()) from error
    return directory


def _populate(request: Request, intake: Intake, directory: str) -> int:
    annotations = json.dumps(intake.bundle.annotations).encode()
    write_file(f"{directory}/{files.CONFIG}", intake.raw)
    write_file(f"{directory}/{files.ANNOTATIONS}", annotations)
    if intake.later_hooks:
        write_file(f"{directory}/{files.HOOKS}", json.dumps(intake.later_hooks).encode())
    os.mkfifo(f"{directory}/{files.FIFO}", 0o600)
    hierarchies = [] if request.cgroup_manager == DISABLED else cgroup.load_hierarchies()
    path = cgroup.map_path(intake.bundle.linux.cgroups_path, request.container_id)
    ours = cgroup.plan_removal(hierarchies, path, _list_shared_cgroups(request.root))
    write_file(f"{directory}/{files.CGROUPS}", "".join(f"{name}\n" for name in ours).encode())
    made = cgroup.make_cgroups(hierarchies, path)
    try:
        if request.cgroup_manager != DISABLED:
            cgroup.apply_limits(hierarchies, path, intake.cgroup_limits)
        elif intake.cgroup_limits:
            write_file(f"{directory}/{files.NO_LIMITS}", "\n".join(intake.cgroup_limits).encode())
        newborn = fork_shim(
            directory,
            request.launcher,
            request.environment,
            oom_score_adj=intake.oom_score_adj,
        )
        start_time = _require_start_time(newborn.pid)
        try:
            cgroup.join_cgroups(hierarchies, path, newborn.pid)
            return _deliver(request, intake, newborn, start_time, annotations)
        except BaseException:
            kill_and_wait(newborn.pid, start_time, timeout_s=_KILL_TIMEOUT_S)
            os.waitpid(newborn.pid, 0)
            raise
    except BaseException:
        cgroup.remove_cgroups(made)
        raise


def _list_shared_cgroups(root: str) -> set[str]:
    """Return the cgroups that our other containers made."""
    found: set[str] = set()
    for container in load_containers(root):
        found |= set(container.load_bytes(files.CGROUPS, MAX_RECORD).decode(errors="replace").splitlines())
    return found


def _deliver(request: Request, intake: Intake, newborn: Newborn, start_time: int, annotations: bytes) -> int:
    """Let the shim live: record, hooks, go, and last the pid-file, by which engines know it is done."""
    directory = f"{request.root}/{request.container_id}"
    newborn.await_ready()
    record = Record(
        id=request.container_id,
        pid=newborn.pid,
        start_time=start_time,
        bundle=request.bundle,
        rootfs=intake.bundle.root,
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        contained=newborn.contained,
    )
    state = encode_state(record, CREATED, annotations)
    hooks = intake.bundle.hooks  # in crun 1.8's order
    if hooks.prestart or hooks.create_runtime:
        from krunpy.runtime.hooks import run_hooks

        run_hooks(hooks.prestart, stage="prestart", state=state, cwd=request.bundle)
        run_hooks(hooks.create_runtime, stage="createRuntime", state=state, cwd=request.bundle)
    write_file(f"{directory}/{files.RECORD}", encode_record(record))
    newborn.release()
    if request.pid_file:
        write_file(request.pid_file, str(newborn.pid).encode(), mode=0o644)
    return newborn.pid


def _require_start_time(pid: int) -> int:
    start_time = find_start_time(pid)
    if start_time is None:
        os.waitpid(pid, 0)
        raise HostError("cannot start the shim", why="it ended at once")
    return start_time
