"""The launcher: a child of the shim that converts, registers, has the machine started and attests it, and ends.

It finds the sockets of `control` at their numbers. What it imports is heavy, and gone from memory when the workload
runs. It is not trusted by the guest or the server.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from krunpy.core.errors import HostError, KrunpyError, StateError
from krunpy.core.octets import HostData
from krunpy.core.settings import load_settings
from krunpy.formats.manifest import ManifestIn
from krunpy.guest.payload import VmmKind, load_guest
from krunpy.image.check import require_intact
from krunpy.oci.annotations import Wishes, parse_annotations
from krunpy.oci.bundle import parse_bundle
from krunpy.oci.document import DOCUMENT_LIMIT
from krunpy.runtime import control
from krunpy.runtime.background import Background
from krunpy.runtime.broker import Broker, open_broker
from krunpy.runtime.channel import open_channel
from krunpy.runtime.confidential import (
    choose_confidential_accel,
    choose_tee,
    make_confidential,
    require_offered,
)
from krunpy.runtime.container import CONFIG, TEE, VMM, load_container, write_file
from krunpy.runtime.embedded import authority_directory
from krunpy.runtime.engine_files import load_engine_files
from krunpy.runtime.handover import is_waiting, take
from krunpy.runtime.kept import keep_aftermath, keep_description
from krunpy.runtime.limits import choose_memory_mib
from krunpy.runtime.machine import (
    LoadedFiles,
    Machine,
    load_files,
    make_machine_request,
    measure_loaded,
    open_disk,
)
from krunpy.runtime.prepare import (
    choose_manifest_in,
    complete,
    convert_source,
    draft,
    load_key,
    open_cache,
    predict,
)
from krunpy.runtime.request import HostSettings
from krunpy.runtime.steps import Clock, tell_steps
from krunpy.runtime.tamper import Tamper, copy_disk_with_flip, tamper_payload
from krunpy.runtime.vm_host import make_resolv_conf, open_directories, require_free_ports
from krunpy.runtime.vm_shares import read_shares, require_possible
from krunpy.runtime.vmm_choice import choose_vmm
from krunpy.tee.detect import TeeKind
from krunpy.vmm.probe import choose_accel

if TYPE_CHECKING:
    from collections.abc import Callable

    from krunpy.core.octets import LaunchDigest, ReportData
    from krunpy.core.settings import Settings
    from krunpy.guest.payload import GuestPayload
    from krunpy.image.workload import WorkloadImage
    from krunpy.oci.bundle import Bundle
    from krunpy.runtime.channel import Channel
    from krunpy.runtime.conversation import WatchedServer
    from krunpy.runtime.machine import BundleFiles, MachineRequest
    from krunpy.runtime.prepare import Drafted, Prepared
    from krunpy.runtime.vm_shares import Shares
    from krunpy.vmm.spec import Accel

NICE = 10  # while the guest boots: it is what is waited for, and on few cores every share counts
STATUS_REFUSED = 125  # as engines count failures that are not the workload's


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What one launch works on."""

    directory: str
    settings: Settings
    bundle: Bundle
    wishes: Wishes
    tee: TeeKind
    vmm: VmmKind
    shares: Shares
    clock: Clock
    shim: socket.socket


def launch(job: Job, given: socket.socket) -> None:
    """Bring the workload to the point where it runs; the shim takes the channel from there.

    given: the host's end of the channel that the shim made.

    Raises KrunpyError: nothing was released, or the guest refused what was.
    """
    require_offered(job.tee)
    require_possible(job.shares, job.vmm, job.tee)
    require_free_ports(job.shares, is_root=os.geteuid() == 0)
    channel = open_channel(job.vmm, given=given, directory=job.directory, shim=job.shim)
    broker = open_broker(job.settings)
    job.clock.step("server", broker.describe())
    try:
        drafted, held = _draft(job, broker)
        payload = tamper_payload(drafted, job.wishes.tamper)
        files = _request_machine(job, drafted, payload, held, channel)
        _attest(job, broker, channel, drafted, payload, files)
        broker.close(wait=False)  # the workload waits for our end
    finally:
        channel.close()
        broker.close()


def _draft(job: Job, broker: Broker) -> tuple[Drafted, int]:
    guest = load_guest(job.settings.guest_dir, tee=job.tee, vmm=job.vmm)
    spec = job.wishes.source or f"dir:{job.bundle.root}"
    image, held = _convert_and_hold(job, spec)
    job.clock.step("convert", f"image {image.image_id[:12]}, {image.size} bytes")
    identity = broker.identity()
    workload = job.wishes.workload or ""
    drafted = draft(
        job.bundle,
        image,
        guest,
        identity=identity,
        workload=workload,
        tee=job.tee,
        manifest_in=choose_manifest_in(job.settings, job.wishes),
    )
    return drafted, held


def _convert_and_hold(job: Job, spec: str) -> tuple[WorkloadImage, int]:
    """Return the image and the hold on it; once more if the cache was pruned in between."""
    image = convert_source(job.settings, spec, encrypt=not job.wishes.integrity_only)
    try:
        return image, open_cache(job.settings).hold(image)
    except StateError:
        image = convert_source(job.settings, spec, encrypt=not job.wishes.integrity_only)
        return image, open_cache(job.settings).hold(image)


def _request_machine(
    job: Job, drafted: Drafted, payload: GuestPayload, held: int, channel: Channel
) -> LoadedFiles | BundleFiles:
    """Load the machine's files and ask the shim to start it; it does so when `start` was called.

    It boots while it is measured: the files are sealed, and without a release it holds no secret.
    """
    disk = open_disk(drafted.image.disk_path)
    require_intact(drafted.image, disk)
    if job.wishes.tamper == Tamper.DISK:
        disk = copy_disk_with_flip(disk, drafted.image.disk)
    machine = Machine(
        files=_load_files(job, drafted, payload),
        memory_mib=_memory_mib(job),
        cpus=_cpus(job),
        channel_fd=channel.machine_end,
        disk_fd=disk,
        shared=open_directories(job.shares),
        kept=(held, *channel.kept),
    )
    request = _make_request(job, drafted, machine)
    fields: dict[str, object] = {
        "kind": "vm",
        "argv": list(request.argv),
        "fds": len(request.descriptors),
        "groups": None if request.groups is None else list(request.groups),
        "fatal": request.fatal,
    }
    control.send_message(job.shim, fields, request.descriptors)
    channel.handed_over()
    os.nice(NICE)
    return machine.files


def _load_files(job: Job, drafted: Drafted, payload: GuestPayload) -> LoadedFiles | BundleFiles:
    if not drafted.guest.is_bundled:
        return load_files(payload)
    from krunpy.runtime.krun_sev import load_bundle

    return load_bundle(
        payload, workload=drafted.parsed.workload, cpus=_cpus(job), memory_mib=_memory_mib(job)
    )


def _make_request(job: Job, drafted: Drafted, machine: Machine) -> MachineRequest:
    if drafted.guest.is_bundled:
        from krunpy.runtime.krun_sev import make_sev_request

        return make_sev_request(machine, job.settings)
    if job.vmm is VmmKind.LIBKRUN:
        from krunpy.runtime.krun_machine import make_krun_request

        return make_krun_request(machine, job.shares, job.settings)
    confidential = make_confidential(job.tee, drafted.manifest_hash)
    return make_machine_request(machine, accel=_choose_accel(job, drafted), confidential=confidential)


def _attest(
    job: Job,
    broker: Broker,
    channel: Channel,
    drafted: Drafted,
    payload: GuestPayload,
    files: LoadedFiles | BundleFiles,
) -> None:
    """While the machine boots, check the guest, register and measure; then attest."""
    from krunpy.runtime.conversation import WatchedServer

    prepared = complete(drafted, cpus=_cpus(job), memory_mib=_memory_mib(job))
    registering = Background(lambda: _register(job, broker, prepared))
    server: WatchedServer | None = None
    has_use = False
    make_report: Callable[[ReportData], bytes] | None = None
    try:
        _keep_descriptions(job, prepared, payload)
        digest = prepared.predicted[0].digest if prepared.predicted else None
        if isinstance(files, LoadedFiles) and job.tee is TeeKind.SOFTWARE:
            make_report, digest = _measure(job, prepared, files)
        job.clock.step("measure", digest.hex()[:16] if digest else "registers of the TDX module")
        stdin_is_empty = _await_start(job.shim)
        has_use = registering.join() or (bool(prepared.predicted) and _take_prepared(job, broker))
        job.clock.step("register", prepared.parsed.workload)
        server = WatchedServer(broker.client)
        end = channel.meet(job.settings.boot_timeout_s)
        _converse(job, server, end, prepared, make_report, stdin_is_empty=stdin_is_empty)
    except KrunpyError as error:
        # a use that was taken is not given back: it would be another run's
        if (has_use or registering.was_done()) and not (server and server.may_have_released):
            _give_back(broker, prepared.parsed.workload)
        if isinstance(error, HostError) and payload is not prepared.payload:
            error.add_note("what the machine loaded is not what was registered: it may not be able to boot")
        raise


def _register(job: Job, broker: Broker, prepared: Prepared) -> bool:
    """Register for one run; return whether that was done: it is not without a token, or if the hook did it."""
    waits = is_waiting(job.settings, job.wishes.prepared, prepared.parsed.workload)
    if not broker.may_register or waits:
        return False
    return broker.register_run(prepared, key=load_key(job.settings, prepared.image))


def _take_prepared(job: Job, broker: Broker) -> bool:
    """Take the use that the hook registered, now that the container was started; return whether there is one.

    Raises StateError if the poststop hook was faster.
    """
    if not broker.may_register:
        return False
    if not take(job.settings, job.wishes.prepared):
        raise StateError("cannot launch the machine", why="the container's registration was ended meanwhile")
    return True


def _give_back(broker: Broker, workload: str) -> None:
    """End what was registered for a run that got nothing, so that nobody else can use it."""
    try:
        broker.client.end_use(workload)
    except KrunpyError:
        return  # it ends by itself, after ONE_RUN_EXPIRY_S


def _converse(
    job: Job,
    server: WatchedServer,
    channel: socket.socket,
    prepared: Prepared,
    make_report: Callable[[ReportData], bytes] | None,
    *,
    stdin_is_empty: bool,
) -> None:
    from krunpy.runtime.conversation import Conversation

    conversation = Conversation(
        channel=channel,
        client=server,
        tee=str(job.tee),
        make_report=make_report,
        manifest=prepared.manifest if prepared.manifest_in is ManifestIn.HOST_DATA else b"",
        timeout_s=job.settings.boot_timeout_s,
        tamper=job.wishes.tamper or "",
        said_hello=lambda: job.clock.step("launch", job.vmm),
    )
    host = HostSettings()
    if not job.wishes.no_host_settings:
        etc = {**load_engine_files(job.bundle.mounts), **make_resolv_conf(job.shares)}
        host = HostSettings(hostname=job.bundle.hostname, etc=etc, volumes=job.shares.mountings)
    attested = conversation.hold(host.encode(stdin_is_empty=stdin_is_empty))
    for note in attested.notes:
        control.send_message(job.shim, {"kind": "note", "text": note})
    keep_aftermath(job.settings, job.directory, attested.attestation)
    job.clock.step("attest", attested.attestation)


def _measure(
    job: Job, prepared: Prepared, files: LoadedFiles
) -> tuple[Callable[[ReportData], bytes], LaunchDigest]:
    """Return how the software TEE reports on what the machine loads, and its launch digest."""
    tee, digest = measure_loaded(
        files,
        cpus=_cpus(job),
        host_data=HostData(prepared.manifest_hash),
        authority_dir=authority_directory(job.settings),
    )
    return tee.report, digest


def _keep_descriptions(job: Job, prepared: Prepared, payload: GuestPayload) -> None:
    """Keep what is launched, for `krunpy explain`."""
    predicted = prepared.predicted
    if payload is not prepared.payload:
        predicted = predict(prepared, payload, cpus=_cpus(job), memory_mib=_memory_mib(job))
    for item in predicted:
        keep_description(job.settings, item.description, item.digest.hex())


def _await_start(shim: socket.socket) -> bool:
    message = control.receive_message(shim)
    if message is None or message.kind != "start":
        raise HostError("cannot launch the machine", why="the container was ended before it was started")
    return message.fields.get("stdin_is_empty") is True


def _choose_accel(job: Job, drafted: Drafted) -> Accel:
    if job.tee is TeeKind.SOFTWARE:
        return choose_accel(job.settings.accel, drafted.guest, job.settings.data_dir)
    return choose_confidential_accel(job.settings.accel)


def _cpus(job: Job) -> int:
    return job.wishes.cpus or job.settings.cpus


def _memory_mib(job: Job) -> int:
    return choose_memory_mib(
        limit=job.bundle.linux.resources.memory_limit,
        wish=job.wishes.memory_mib,
        default=job.settings.memory_mib,
    )


def _report(shim: socket.socket, error: KrunpyError) -> None:
    notes = "; ".join(getattr(error, "__notes__", []))
    why = f"{error.why} ({notes})" if notes else error.why
    fields: dict[str, object] = {"kind": "failed", "what": error.what, "why": why, "next": error.next}
    control.send_message(shim, {**fields, "status": STATUS_REFUSED})


def main(directory: str) -> int:
    """Run as the shim's child; return 0 when the workload is about to run. directory: the container's."""
    shim = socket.socket(fileno=control.CONTROL_FD)
    channel = socket.socket(fileno=control.CHANNEL_FD)
    try:
        settings = load_settings(os.environ)
        bundle = _load_reviewed_bundle(directory)
        wishes = parse_annotations(bundle.annotations)
        job = Job(
            directory=directory,
            settings=settings,
            bundle=bundle,
            wishes=wishes,
            tee=(tee := choose_tee(settings.tee)),
            vmm=choose_vmm(settings, tee),
            shares=read_shares(wishes),
            clock=Clock(tell_steps(directory)),
            shim=shim,
        )
        if job.vmm is VmmKind.LIBKRUN:
            from krunpy.runtime.krun_machine import announce_machine

            announce_machine(shim, job.settings, job.tee)
        write_file(os.path.join(directory, TEE), job.tee.encode())
        write_file(os.path.join(directory, VMM), job.vmm.encode())
        launch(job, channel)
    except KrunpyError as error:
        _report(shim, error)
        return 1
    return 0


def _load_reviewed_bundle(directory: str) -> Bundle:
    """Return the bundle whose config.json `create` reviewed: the same bytes, kept in the container's directory."""
    root, _, container_id = directory.rpartition("/")
    container = load_container(root, container_id)
    if container.record is None:
        raise HostError("cannot launch the machine", why="the container is not recorded yet")
    return parse_bundle(container.load_bytes(CONFIG, DOCUMENT_LIMIT), container.record.bundle)
