"""The emulated machine: QEMU without KVM, whose CPU has AMD SVM, so that there is a /dev/kvm inside.

Its kernel is libkrunfw's; its root is this machine's, over virtiofs and read-only, below a tmpfs: what a command writes
is lost. Output and exit status come out through two ports of a virtio-serial device.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.nested.parts import Parts

NO_SVM = "no /dev/kvm"  # in place of an exit status
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_INIT = """\
#!/bin/busybox sh
b=/bin/busybox
$b mount -t tmpfs x /mnt && $b mkdir /mnt/upper /mnt/work /mnt/root
$b mount -t overlay x -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work /mnt/root
exec $b chroot /mnt/root /bin/busybox sh {folder}/stage2
"""
_STAGE2 = """\
b=/bin/busybox
for m in proc:/proc sysfs:/sys devtmpfs:/dev tmpfs:/run cgroup2:/sys/fs/cgroup; do
  $b mount -t ${{m%:*}} x ${{m#*:}}
done
$b mkdir -p /dev/shm /dev/pts
$b mount -t tmpfs x /dev/shm
$b mount -t devpts x /dev/pts
$b ln -sf /proc/self/fd /dev/fd
$b ip link set lo up
for p in /sys/class/virtio-ports/*; do
  case $($b cat $p/name 2>/dev/null) in nested.out) out=/dev/${{p##*/}};; nested.status) status=/dev/${{p##*/}};; esac
done
if [ -c /dev/kvm ]; then
  $b chmod 666 /dev/kvm
  export PATH={path} HOME=/root LC_ALL=C.UTF-8 KRUNPY_NESTED=1
  export KRUNPY_LIBKRUN={libkrun} KRUNPY_LIBKRUNFW={libkrunfw}
  cd {directory}
  /usr/bin/timeout {timeout_s} {command} </dev/null >$out 2>&1
  echo $? >$status
else
  echo {no_svm} >$status
fi
$b reboot -f
"""


def write_scripts(
    folder: Path, parts: Parts, command: Sequence[str], *, directory: str, timeout_s: int
) -> None:
    """Write the machine's init and what it goes on with into a folder that nobody else writes to."""
    stage2 = _STAGE2.format(
        path=_PATH, libkrun=shlex.quote(parts.libkrun), libkrunfw=shlex.quote(parts.libkrunfw),
        directory=shlex.quote(directory), timeout_s=timeout_s, command=shlex.join(command), no_svm=shlex.quote(NO_SVM),
    )  # fmt: skip
    (folder / "stage2").write_text(stage2)
    (folder / "init").write_text(_INIT.format(folder=folder))
    (folder / "init").chmod(0o755)


def build_virtiofsd_argv(program: str, socket: Path) -> list[str]:
    """Return the argv of the server of the root file system: the options of the two programs differ."""
    if "/qemu/" in program:
        options = [f"--socket-path={socket}"]
        for option in ("source=/", "sandbox=chroot", "cache=always", "xattr"):
            options += ["-o", option]
        return [program, *options]
    return [
        program,
        f"--socket-path={socket}",
        "--shared-dir=/",
        "--sandbox=chroot",
        "--cache=always",
        "--xattr",
    ]


def build_qemu_argv(parts: Parts, folder: Path, *, memory_mib: int, cpu_khz: int | None) -> list[str]:
    """Return QEMU's argv. One CPU: with two, one boot in fifty fails (code that changes itself, emulated).

    The output's port is a file: one of standard input and output closes with the input, and then blocks its writers.
    """
    cmdline = (
        "console=hvc0 quiet loglevel=4 root=hostroot rootfstype=virtiofs ro "
        f"init={folder}/init reboot=t panic=-1 mitigations=off"
    )
    if cpu_khz is not None:
        # its clock is this machine's; measured against an emulated timer it is now and then found to be none
        cmdline += f" tsc_early_khz={cpu_khz}"
    return [
        parts.qemu,
        *("-M", "microvm,acpi=off,memory-backend=mem", "-global", "virtio-mmio.force-legacy=false"),
        *("-object", f"memory-backend-memfd,id=mem,size={memory_mib}M,share=on", "-m", str(memory_mib)),
        *("-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "1"),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *(
            "-chardev",
            f"file,id=console,path={folder}/console",
            "-chardev",
            "file,id=out,path=/proc/self/fd/1",
        ),
        *("-chardev", f"file,id=status,path={folder}/status"),
        *("-device", "virtio-serial-device", "-device", "virtconsole,chardev=console"),
        *("-device", "virtserialport,chardev=out,name=nested.out"),
        *("-device", "virtserialport,chardev=status,name=nested.status"),
        *("-chardev", f"socket,id=root,path={folder}/root.sock"),
        *("-device", "vhost-user-fs-device,chardev=root,tag=hostroot"),
        *("-kernel", parts.kernel, "-append", cmdline),
    ]


def find_cpu_khz() -> int | None:
    """Return the frequency of this machine's clock in kHz, as the kernel sees it; None if it does not say."""
    found = re.search(r"^cpu MHz\s*: (\d+\.\d+)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return None if found is None else int(float(found[1]) * 1000)
