"""Time `krunpy run` up to the workload's first byte, next to a bare boot of the same kernel in the same machine.

    python benchmarks/launch.py [--runs 7] [--krunpy krunpy] [--guest-dir DIR]...

Needs a guest (`krunpy guest build`) and busybox; uses the settings of the environment (KRUNPY_DATA_DIR...). With
--guest-dir, once or more, it takes the guests of these directories instead, in turn: so kernels are compared. The bare
boot is QEMU with the command line that krunpy uses, without a disk and with an empty initrd, once with the firmware
that QEMU takes by itself and once with krunpy's; it ends where the console says "Kernel panic", because there is no
init. The two are run in turn, and the ratio is the median of the pairs'. Memory is read while the workload sleeps.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from krunpy.core.settings import load_settings
from krunpy.guest.payload import load_guest
from krunpy.runtime.sample import open_sample
from krunpy.vmm.files import make_sealed_file
from krunpy.vmm.qemu import build_argv, require_qemu
from krunpy.vmm.spec import Accel, VmSpec

TARGETS = {
    "krunpy / bare boot": 1.35,
    "host before the VMM, and server, ms": 250,
    "agent, % of the boot": 5,
    "initrd, MiB": 6,
    "shim, resident, MB": 20,
    "shim and krunpy run, PSS, MB": 20,
}
PANIC = b"Kernel panic"
MS = 1e6  # nanoseconds


def boot_bare(guest, memory_mib: int, cpus: int, *, own_firmware: bool) -> float:
    """Return the milliseconds from starting QEMU to the kernel's panic; own_firmware: krunpy's, not QEMU's."""
    ours, theirs = socket.socketpair()
    files = [make_sealed_file("file", data) for data in (guest.firmware, guest.kernel, b"")]
    inherited = [*files, theirs.fileno()]
    spec = VmSpec(
        accel=Accel.TCG,
        memory_mib=memory_mib,
        cpus=cpus,
        cmdline=guest.cmdline,
        firmware_fd=0,
        kernel_fd=1,
        initrd_fd=2,
        channel_fd=3,
        disk_fd=None,
    )
    places = {f"fd{index}": number for index, number in enumerate(inherited)}
    argv = [word.format(**places) for word in build_argv(spec, require_qemu())]
    if not own_firmware:
        at = argv.index("-bios")
        del argv[at : at + 2]
    began = time.monotonic_ns()
    pipe, null = subprocess.PIPE, subprocess.DEVNULL
    with subprocess.Popen(argv, stdin=null, stdout=pipe, stderr=null, pass_fds=inherited) as machine:
        said = b""
        while PANIC not in said:
            part = os.read(machine.stdout.fileno(), 4096)
            if not part:
                raise SystemExit(f"the bare boot did not panic: {said[-300:]!r}")
            said += part
        took = time.monotonic_ns() - began
        machine.kill()
    for descriptor in (*files, ours.detach(), theirs.detach()):
        os.close(descriptor)
    return took / MS


def run_once(krunpy: str, sample: str, root: str) -> dict[str, float]:
    """Return what one `krunpy run` took, in milliseconds and bytes."""
    container = f"bench-{os.getpid()}"
    words = [krunpy, "run", "--name", container, sample, "--", "sh", "-c", "echo ready; sleep 3"]
    began = time.monotonic_ns()
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        first = os.read(process.stdout.fileno(), 100)
        seen = time.monotonic_ns()
        if first != b"ready\n":
            raise SystemExit(f"seen {first!r}, wanted the workload's output")
        folder = f"{root}/krunpy/{container}"
        with open(f"{folder}/timings.json", encoding="utf-8") as stream:
            times = json.load(stream)
        with open(f"{folder}/steps.jsonl", encoding="utf-8") as stream:
            steps = {line["step"]: line for line in map(json.loads, stream)}
        time.sleep(1.0)
        (rss, pss), own = memory_of(process.pid), memory_of(process.pid, below=False)
        process.wait()
    guest = times["guest_us"]
    return {
        "first output": (seen - began) / MS,
        "shim": (times["launcher_ns"] - began) / MS,
        "vmm": (times["machine_ns"] - began) / MS,
        "attest": steps["attest"]["seconds"] * 1000,
        "attestation": steps["attest"]["detail"],
        "agent": (guest[5] - guest[0]) / 1000,
        "modules and hello": (guest[1] - guest[0]) / 1000,
        "challenge, evidence": (guest[2] - guest[1]) / 1000,
        "modules, release": (guest[3] - guest[2]) / 1000,
        "disk": (guest[4] - guest[3]) / 1000,
        "process": (guest[5] - guest[4]) / 1000,
        "boot": (times["started_ns"] - times["machine_ns"]) / MS,
        "rss": rss,
        "pss": pss,
        "shim rss": rss - own[0],
    }


def memory_of(pid: int, *, below: bool = True) -> tuple[float, float]:
    """Return RSS and PSS, in megabytes, of a process, and of all below it that are not the machine."""
    rss = pss = 0
    with open(f"/proc/{pid}/comm", encoding="utf-8") as stream:
        if not stream.read().startswith("qemu"):
            with open(f"/proc/{pid}/smaps_rollup", encoding="utf-8") as rollup:
                values = {line.split()[0]: line.split()[1] for line in rollup.readlines()[1:]}
            rss, pss = int(values["Rss:"]) * 1024, int(values["Pss:"]) * 1024
    with open(f"/proc/{pid}/task/{pid}/children", encoding="utf-8") as stream:
        children = [memory_of(int(word)) for word in stream.read().split()] if below else []
    return rss / 1e6 + sum(child[0] for child in children), pss / 1e6 + sum(child[1] for child in children)


def server_time(krunpy: str, attestation: str) -> float:
    """Return the milliseconds that the server says it worked on one attestation."""
    out = subprocess.run(
        [krunpy, "attestation", "show", attestation, "--json"], check=True, capture_output=True, text=True
    ).stdout
    times = json.loads(out)["data"]["timings_us"]
    return times["total"] / 1000


def show(name: str, value: float, target: float | None = None) -> None:
    verdict = "" if target is None else f"  (target {target:g}: {'met' if value <= target else 'MISSED'})"
    print(f"{name:38}{value:9.2f}{verdict}")


def measure(krunpy: str, guest, settings, sample: str, root: str) -> dict[str, float]:
    """Return one bare boot with each firmware and one `krunpy run` of a guest, one after the other."""
    os.environ["KRUNPY_GUEST_DIR"] = os.path.dirname(os.path.dirname(guest.folder))
    bare = boot_bare(guest, settings.memory_mib, settings.cpus, own_firmware=False)
    same = boot_bare(guest, settings.memory_mib, settings.cpus, own_firmware=True)
    row = run_once(krunpy, sample, root)
    return {**row, "bare": bare, "same": same, "server": server_time(krunpy, row["attestation"])}


def report(guest, rows: list[dict[str, float]]) -> None:
    """Print what the runs of one guest took."""
    middle = {name: statistics.median(row[name] for row in rows) for name in rows[0] if name != "attestation"}
    print(f"kernel {guest.release}: median of {len(rows)}; milliseconds where nothing else is said")
    show("bare boot, QEMU to panic", middle["bare"])
    show("the same with krunpy's firmware", middle["same"])
    show("krunpy run to first output", middle["first output"])
    print(f"  of it: shim runs at {middle['shim']:.0f}, VMM starts at {middle['vmm']:.0f}, boot to workload "
          f"{middle['boot']:.0f}")  # fmt: skip
    ratios = [row["first output"] / row["bare"] for row in rows]
    show("krunpy / bare boot", statistics.median(ratios), TARGETS["krunpy / bare boot"])
    print(f"  each pair: {', '.join(f'{ratio:.2f}' for ratio in ratios)}")
    own = statistics.median(row["first output"] / row["same"] for row in rows)
    print(f"  with krunpy's firmware in the bare boot too: {own:.2f}")
    least = min(row["first output"] for row in rows) / min(row["bare"] for row in rows)
    print(f"  the fastest of each, least disturbed by what else runs here: {least:.2f}")
    name = "host before the VMM, and server, ms"
    show(name, statistics.median(row["vmm"] + row["server"] for row in rows), TARGETS[name])
    print(
        f"  of it: server {middle['server']:.1f}; from HELLO to RELEASE as the relay sees it {middle['attest']:.1f}"
    )
    name = "agent, % of the boot"
    show(name, statistics.median(100 * row["agent"] / row["boot"] for row in rows), TARGETS[name])
    parts = ("modules and hello", "challenge, evidence", "modules, release", "disk", "process")
    print("  waits and the kernel's work on modules included: "
          + ", ".join(f"{part} {middle[part]:.0f}" for part in parts))  # fmt: skip
    show("initrd, MiB", len(guest.base) / 2**20, TARGETS["initrd, MiB"])
    name = "shim, resident, MB"
    show(name, middle["shim rss"], TARGETS[name])
    name = "shim and krunpy run, PSS, MB"
    show(name, middle["pss"], TARGETS[name])
    print(f"  their RSS, which counts what they share twice: {middle['rss']:.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--krunpy", default=shutil.which("krunpy") or "krunpy")
    parser.add_argument("--guest-dir", action="append", default=[], help="in place of the setting guest_dir")
    given = parser.parse_args()
    settings = load_settings(os.environ)
    guests = [load_guest(os.path.realpath(folder)) for folder in given.guest_dir or [settings.guest_dir]]
    os.environ["KRUNPY_ACCEL"] = "tcg"  # as the bare boot
    sample = open_sample(settings.data_dir)
    rows = {guest.folder: [] for guest in guests}
    with tempfile.TemporaryDirectory(prefix="krunpy-bench-") as root:
        os.environ["XDG_RUNTIME_DIR"] = root
        for guest in guests:
            measure(given.krunpy, guest, settings, sample, root)  # fill the caches
        for _ in range(given.runs):
            for guest in guests:
                rows[guest.folder].append(measure(given.krunpy, guest, settings, sample, root))
    for guest in guests:
        report(guest, rows[guest.folder])


if __name__ == "__main__":
    main()
