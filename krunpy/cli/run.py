"""`krunpy run SOURCE [-- ARGS]`: convert, register, boot, attest, run, in the foreground."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from krunpy.cli.context import globals_of, settings_of
from krunpy.cli.run_plan import make_id, prepare_run
from krunpy.runtime.plan import Plan

if TYPE_CHECKING:
    from krunpy.core.settings import Settings


class TeeWish(StrEnum):
    """What the setting `tee` and the option --tee can be."""

    AUTO = "auto"
    SOFTWARE = "software"
    SNP = "snp"
    TDX = "tdx"


class VmmWish(StrEnum):
    """What the setting `vmm` and the option --vmm can be."""

    AUTO = "auto"
    QEMU = "qemu"
    LIBKRUN = "libkrun"


class ManifestPlace(StrEnum):
    """The words for what binds a manifest."""

    INITRD = "initrd"
    HOST_DATA = "host-data"


SourceArgument = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="A root file system directory, a bundle, an image layout, an archive, image:ID, or one of these with a "
        "prefix: dir: bundle: oci: oci-archive: docker-archive: containers-storage:",
    ),
]
ArgsArgument = Annotated[list[str] | None, typer.Argument(metavar="[-- ARGS]", help="Command and arguments.")]
EnvOption = Annotated[
    list[str] | None, typer.Option("--env", "-e", help="NAME=VALUE; part of what is measured.")
]
CwdOption = Annotated[str, typer.Option("--workdir", "-w", help="Working directory.")]
UserOption = Annotated[str, typer.Option("--user", "-u", help="USER[:GROUP], names or numbers.")]
EntryOption = Annotated[str, typer.Option("--entrypoint", help="Program instead of the image's entrypoint.")]
WorkloadOption = Annotated[
    str, typer.Option("--workload", help="Workload id instead of one made from the manifest.")
]
CpusOption = Annotated[
    int, typer.Option("--cpus", min=0, max=64, help="vCPUs; part of the launch digest. 0: default.")
]
MemoryOption = Annotated[
    int, typer.Option("--memory", min=0, help="Memory in MiB. 0: the setting memory_mib.")
]
PlainOption = Annotated[
    bool, typer.Option("--integrity-only", help="Protect the disk by dm-verity, do not encrypt it.")
]
ClosedOption = Annotated[
    bool,
    typer.Option("--no-host-settings", help="The host may set neither the host name nor files of /etc."),
]
ManifestInOption = Annotated[
    ManifestPlace | None,
    typer.Option(
        "--manifest-in",
        help="What binds the manifest: the initrd and so the launch digest, or host-data (HOST_DATA, MRCONFIGID), with "
        "one launch digest for a class of workloads. Default: the setting manifest_in.",
    ),
]
ReadOnlyOption = Annotated[bool, typer.Option("--read-only", help="No writable overlay over the root.")]
TmpfsOption = Annotated[
    list[str] | None, typer.Option("--tmpfs", help="/PATH[:OPTIONS], a tmpfs in the guest.")
]
HostnameOption = Annotated[str, typer.Option("--hostname", help="Hostname in the guest.")]
TeeOption = Annotated[
    TeeWish | None,
    typer.Option("--tee", help="The TEE. auto: the hardware that the host offers. Default: the setting tee."),
]
VmmOption = Annotated[
    VmmWish | None,
    typer.Option(
        "--vmm", help="What starts the machine. auto: QEMU, else libkrun. Default: the setting vmm."
    ),
]


def settings_with_options(context: typer.Context) -> Settings:
    """Return the operator's settings, with those of --tee and --vmm in place of theirs where they were given."""
    tee, vmm = context.params["tee"], context.params.get("vmm")
    settings = settings_of(context)
    settings = replace(settings, tee=str(tee)) if tee is not None else settings
    return replace(settings, vmm=str(vmm)) if isinstance(vmm, VmmWish) else settings


def read_plan(context: typer.Context) -> Plan:
    """Return the plan that a command's options make; typer has put them into the context by their names.

    Every command that plans takes some of the options above; one that it does not take has its default.
    """
    given = context.params
    return Plan(
        source=given["source"],
        args=tuple(given["args"] or ()),
        env=tuple(given["env"] or ()),
        cwd=given["workdir"],
        user=given["user"],
        entrypoint=given["entrypoint"],
        workload=given["workload"],
        cpus=given["cpus"] if isinstance(given["cpus"], int) else 0,  # `measure` takes several counts
        memory_mib=given.get("memory", 0),
        integrity_only=given["integrity_only"],
        no_host_settings=given["no_host_settings"],
        manifest_in=str(given["manifest_in"] or ""),
        read_only=given["read_only"],
        tmpfs=tuple(given["tmpfs"] or ()),
        hostname=given["hostname"],
    )


def run(
    context: typer.Context,
    source: SourceArgument,
    args: ArgsArgument = None,
    env: EnvOption = None,
    workdir: CwdOption = "",
    user: UserOption = "",
    entrypoint: EntryOption = "",
    workload: WorkloadOption = "",
    cpus: CpusOption = 0,
    memory: MemoryOption = 0,
    integrity_only: PlainOption = False,
    no_host_settings: ClosedOption = False,
    manifest_in: ManifestInOption = None,
    read_only: ReadOnlyOption = False,
    tmpfs: TmpfsOption = None,
    hostname: HostnameOption = "",
    tee: TeeOption = None,
    vmm: VmmOption = None,
    name: Annotated[str, typer.Option("--name", help="Container ID instead of a random one.")] = "",
) -> None:
    """Run a workload in an attested virtual machine; exit with its status (125: it was refused)."""
    # `krunpy.cli.run_words` reads most command lines instead of this: an option is to be added to both
    plan = read_plan(context)
    argv, environment = prepare_run(
        globals_of(context), plan, name or make_id(), tee=tee or "", vmm=vmm or ""
    )
    sys.stdout.flush()
    os.execve(argv[0], argv, environment)  # noqa: S606 - a lean process waits in our place
