"""The QEMU command line of a machine. Starts nothing.

Source: QEMU 7.2 qemu(1); what works on which machine is measured in the project's notes on virtual machines:
q35 because its clocks do not depend on a race (microvm's do under TCG), and because SEV-SNP and TDX need it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from krunpy.core.errors import HostError
from krunpy.core.proc import find_program
from krunpy.vmm import qemu_snp, qemu_tdx
from krunpy.vmm.spec import Accel, SnpLaunch, TdxLaunch, placeholder

if TYPE_CHECKING:
    from krunpy.vmm.spec import VmSpec

PROGRAM = "qemu-system-x86_64"
# Without these two a boot under TCG takes an eighth less: with ERMS Linux copies and clears with `rep movsb`, which TCG
# does byte by byte, and with LA57 it has page tables of five levels, which TCG walks in software.
TCG_CPU = "max,erms=off,la57=off"
_TEE, _MEMORY = "tee", "ram"  # names of objects
# a guest that breaks into QEMU finds no fork, no exec, no other user (qemu(1), -sandbox)
SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


def require_qemu() -> str:
    """Return the absolute path of QEMU, or raise HostError that says how to get it."""
    program = find_program(PROGRAM)
    if program is None:
        raise HostError(
            "cannot start a machine", why=f"{PROGRAM} is missing", next="apt-get install qemu-system-x86"
        )
    return program


def build_argv(spec: VmSpec, program: str) -> list[str]:
    """Return the argv of QEMU; files stand as {fdN}, to be replaced by inherited descriptors.

    Raises HostError if a hardware TEE is wanted without KVM.
    """
    machine = "q35,vmport=off,smbus=off,sata=off,usb=off,hpet=on,graphics=off"
    accel = "tcg,thread=multi" if spec.accel is Accel.TCG else "kvm"
    cpu = TCG_CPU if spec.accel is Accel.TCG else "host"
    objects: list[str] = []
    if spec.tee is not None:
        more, accel, cpu, objects = _build_confidential(spec, spec.tee)
        machine = f"{machine},{more}"
    argv = [
        program,
        *("-sandbox", SANDBOX),
        *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-monitor", "none"),
        *("-machine", machine, "-accel", accel),
        *("-cpu", cpu, *objects),
        *("-smp", str(spec.cpus), "-m", f"{spec.memory_mib}M"),
        *("-bios", _path(spec.firmware_fd)),
        *("-kernel", _path(spec.kernel_fd), "-initrd", _path(spec.initrd_fd), "-append", spec.cmdline),
        *("-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"),
        *("-device", "virtio-serial-pci,max_ports=2"),
        *("-chardev", f"socket,id=channel,fd={placeholder(spec.channel_fd)}"),
        *("-device", f"virtserialport,chardev=channel,name={spec.port_name}"),
    ]
    if spec.disk_fd is not None:
        # handed over open: the machine's user may not open the file by a name
        argv += ["-add-fd", f"fd={placeholder(spec.disk_fd)},set=1"]
        drive = "if=none,id=disk,format=raw,readonly=on,cache=writeback,file=/dev/fdset/1"
        argv += ["-drive", drive, "-device", "virtio-blk-pci,drive=disk"]
    return argv


def _build_confidential(spec: VmSpec, tee: SnpLaunch | TdxLaunch) -> tuple[str, str, str, list[str]]:
    """Return what comes after -machine's own words, and -accel, -cpu and -object."""
    if spec.accel is not Accel.KVM:
        raise HostError("cannot start a confidential machine", why=f"accel is {spec.accel}, wanted kvm")
    machine = f"smm=off,confidential-guest-support={_TEE},memory-backend={_MEMORY}"
    memory = f"memory-backend-memfd,id={_MEMORY},size={spec.memory_mib}M,share=on,prealloc=off"
    match tee:
        case SnpLaunch():
            accel, cpu, confidential = "kvm", tee.vcpu_type, qemu_snp.build_snp_object(tee, _TEE)
        case TdxLaunch():
            machine = f"{machine},{qemu_tdx.MACHINE}"
            accel, cpu, confidential = qemu_tdx.ACCEL, qemu_tdx.CPU, qemu_tdx.build_tdx_object(tee, _TEE)
        case _:
            assert_never(tee)
    return machine, accel, cpu, ["-object", memory, "-object", confidential]


def _path(index: int) -> str:
    return f"/proc/self/fd/{placeholder(index)}"
