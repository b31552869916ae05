"""What a machine of libkrun costs over a program of thirty lines of C that starts the same one.

`python -m tests.nested.rig -- python benchmarks/libkrun.py [RUNS]`: seconds from the start of the process to the end of
its guest, and resident memory beyond the guest's, at the moment when the guest connects. Needs a C compiler.

"krunpy" is what a launch does: the machine's process is started as soon as it is known that libkrun is the VMM, and
waits; seconds count from the moment when it is told what the machine is. "krunpy, cold" counts its own start too.
"""

from __future__ import annotations

import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from krunpy.formats.krun_kernel import wrap_kernel
from krunpy.guest.libkrun import CMDLINE, build_boot_volume
from krunpy.vmm.files import make_sealed_file
from krunpy.vmm.libkrun import build_argv, build_start
from krunpy.vmm.libkrun_bundle import load_bundle_kernel
from krunpy.vmm.libkrun_child import WAIT
from krunpy.vmm.libkrun_find import find_libraries, require_libkrunfw
from krunpy.vmm.libkrun_spec import KrunSpec

WAITED_S = 2.0  # more than a process takes to be ready, emulated
PROGRAM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
static void *library;
#define CALL(name, ...) do { int (*f)() = (int (*)())dlsym(library, name); int r = f(__VA_ARGS__); \
    if (r < 0) { fprintf(stderr, "%s: %d\n", name, r); exit(1); } last = r; } while (0)
int main(int argc, char **argv) {
    int last, context;
    if (argc < 6) return 2;
    library = dlopen(argv[1], RTLD_LAZY);
    if (!library) { fprintf(stderr, "%s\n", dlerror()); return 1; }
    CALL("krun_init_log", -1, 1, 2, 1);
    CALL("krun_create_ctx");
    context = last;
    CALL("krun_set_vm_config", context, 1, 256);
    CALL("krun_set_kernel", context, argv[2], 1, (char *)0, argv[5]);
    CALL("krun_add_virtio_console_default", context, -1, -1, -1);
    CALL("krun_add_disk", context, "boot", argv[3], 1);
    CALL("krun_add_vsock", context, 0);
    CALL("krun_add_vsock_port", context, 27506, argv[4]);
    CALL("krun_start_enter", context);
    return 0;
}
"""
# connects, waits for a byte, ends
INIT = r"""
#include <linux/vm_sockets.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <unistd.h>
int main(void) {
    char byte;
    int channel = socket(AF_VSOCK, SOCK_STREAM, 0);
    struct sockaddr_vm host = {.svm_family = AF_VSOCK, .svm_cid = 2, .svm_port = 27506};
    if (!connect(channel, (struct sockaddr *)&host, sizeof host))
        (void)!read(channel, &byte, 1);
    reboot(RB_AUTOBOOT);
    return 0;
}
"""


def main() -> None:
    """Print the figures."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    folder = Path(tempfile.mkdtemp(prefix="krunpy-benchmark."))
    try:
        measure(folder, runs)
    finally:
        shutil.rmtree(folder)


def measure(folder: Path, runs: int) -> None:
    """Print the figures, with files in a folder. They take turns, each the first in its turn."""
    libraries = find_libraries(os.environ.get("KRUNPY_LIBKRUN", ""), os.environ.get("KRUNPY_LIBKRUNFW", ""))
    program, init = compile_source(folder, "start", PROGRAM), compile_source(folder, "init", INIT, "-static")
    kernel = make_sealed_file("kernel", wrap_kernel(load_bundle_kernel(require_libkrunfw(libraries))))
    boot = make_sealed_file("boot", build_boot_volume(init.read_bytes(), None))
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "channel"))
    os.chmod(folder / "channel", 0o666)
    listener.listen(1)
    files = [kernel, boot, os.open(folder / "channel", os.O_PATH)]
    spec = KrunSpec(
        libraries=libraries, memory_mib=256, cpus=1, cmdline=CMDLINE, kernel_fd=0, boot_fd=1, channel_fd=2, disk_fd=None
    )  # fmt: skip
    paths = [f"/proc/self/fd/{file}" for file in files]
    ours = build_argv(spec)
    for index, file in enumerate(files):
        ours = [word.replace(f"{{fd{index}}}", str(file)) for word in ours]
    argvs = {"C": [str(program), libraries.libkrun, *paths, CMDLINE], "krunpy": ours, "krunpy, cold": ours}
    figures: dict[str, list[tuple[float, int]]] = {name: [] for name in argvs}
    names = list(argvs)
    for number in range(runs + 1):
        for name in names[number % 3 :] + names[: number % 3]:
            figure = (run_waiting if name == "krunpy" else run_machine)(argvs[name], files, listener)
            if number:  # in the first round, memory that was never used makes the first of them faster
                figures[name].append(figure)
    medians = {name: statistics.median(seconds for seconds, _ in found) for name, found in figures.items()}
    memory = {name: statistics.median(kib for _, kib in found) for name, found in figures.items()}
    for name, found in figures.items():
        print(
            f"{name}: {medians[name]:.2f} s ({min(found)[0]:.2f} to {max(found)[0]:.2f}), {memory[name]} KiB"
        )
    for name in ("krunpy", "krunpy, cold"):
        pairs = zip(figures[name], figures["C"], strict=True)
        ratio = statistics.median(own / base for (own, _), (base, _) in pairs)
        print(f"{name}: ratio {ratio:.3f}, {(memory[name] - memory['C']) / 1024:.1f} MiB more")


def compile_source(folder: Path, name: str, source: str, *options: str) -> Path:
    """Return the path of a compiled program."""
    (folder / f"{name}.c").write_text(source)
    program = folder / name
    subprocess.run(["cc", "-O1", *options, "-o", program, folder / f"{name}.c"], check=True)
    return program


def run_machine(argv: list[str], files: list[int], listener: socket.socket) -> tuple[float, int]:
    """Return seconds to the end of a guest, and KiB of resident memory that is not the guest's."""
    before = time.monotonic()
    with subprocess.Popen(argv, pass_fds=files, stdin=subprocess.DEVNULL) as process:
        return finish_machine(process, before, listener)


def run_waiting(argv: list[str], files: list[int], listener: socket.socket) -> tuple[float, int]:
    """Return the same of a process that was started before, from when it is told its words and files."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    start = build_start()
    library = next(word for word in argv if word.startswith("library=")).partition("=")[2]
    words = "\0".join(argv[len(start) :])
    for index, file in enumerate(files):
        words = words.replace(f"/fd/{file}", f"/fd/{{fd{index}}}")
    with ours, subprocess.Popen([*start, WAIT, library], stdin=theirs) as process:
        theirs.close()
        time.sleep(WAITED_S)
        before = time.monotonic()
        socket.send_fds(ours, [words.encode()], files)
        return finish_machine(process, before, listener)


def finish_machine(
    process: subprocess.Popen[bytes], before: float, listener: socket.socket
) -> tuple[float, int]:
    """Return seconds since `before` and KiB, once the guest has connected and ended."""
    connection, _ = listener.accept()
    reached = time.monotonic() - before
    kib = count_own_memory(process.pid)
    after = time.monotonic()
    connection.send(b"x")
    process.wait()
    connection.close()
    return reached + time.monotonic() - after, kib


def count_own_memory(pid: int) -> int:
    """Return the KiB that are resident of a process, without the mapping of its guest's memory (256 MiB)."""
    total, size = 0, 0
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        words = line.split()
        if words[0] == "Size:":
            size = int(words[1])
        elif words[0] == "Rss:" and size < 128 * 1024:
            total += int(words[1])
    return total


if __name__ == "__main__":
    main()
