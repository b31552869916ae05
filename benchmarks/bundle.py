"""Time the bundle of an SEV-SNP machine of libkrun next to the hashing that its launch digest cannot do without.

    python benchmarks/bundle.py [--runs 7] [--kernel FILE] [--initrd-mib 2]

Each run does all of them in turn, and processor time is counted, so that what else the machine does falls on all
alike; the median ratio is printed. --kernel: a kernel in place of 20 MiB of random bytes, of which no page is empty.
Target: the bundle written, and the digests of all VMSA variants predicted, at most 1.3 times the SHA-384
work (every page, and the record that follows each); with the payload folded before, digests take under 2 ms.
A launch has the digest after firmware and kernel from the guest's build, and hashes its initrd alone.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from benchmarks.measure import hash_snp_work, timed
from krunpy.core.files import write_atomically
from krunpy.formats.krun_bundle import KERNEL_STEP, QBOOT_SIZE, SONAMES, KrunBundle, pack_parts, pad
from krunpy.formats.krun_kernel import KrunKernel
from krunpy.formats.vmsa_libkrun import VmsaVariant
from krunpy.guest.bundle import describe_bundle
from krunpy.measure.libkrun import LibkrunLaunch, fold_payload, fold_system, predict_folded_digest
from krunpy.vmm.files import make_sealed_file

if TYPE_CHECKING:
    from krunpy.core.octets import LaunchDigest

KERNEL_GPA, KERNEL_SIZE = 0x1000000, 20 << 20
RATIO, CACHED_MS = 1.3, 2.0


def make_bundle(image: bytes, initrd_size: int) -> KrunBundle:
    """Return a bundle whose firmware and initrd are random bytes."""
    kernel = KrunKernel(image=pad(image, KERNEL_STEP), load_gpa=KERNEL_GPA, entry_gpa=KERNEL_GPA)
    source = random.Random(1)
    return KrunBundle(kernel=kernel, qboot=source.randbytes(QBOOT_SIZE), initrd=source.randbytes(initrd_size))


def write(bundle: KrunBundle, path: str) -> None:
    """Write the shared object into a file, as `krunpy measure` does."""
    write_atomically(path, pack_parts(bundle, SONAMES[0]))


def predict(launch: LibkrunLaunch) -> None:
    """Predict the digests of every VMSA variant, the payload hashed once."""
    predict_folded(launch, fold_payload(launch))


def launch_again(bundle: KrunBundle, launch: LibkrunLaunch, system: LaunchDigest) -> None:
    """Do what a launch does: write the bundle into sealed memory, and predict from what the build hashed already."""
    os.close(make_sealed_file("bundle", *pack_parts(bundle, SONAMES[0])))
    predict_folded(launch, fold_payload(launch, system))


def predict_folded(launch: LibkrunLaunch, folded: LaunchDigest) -> None:
    """Predict them with the payload hashed before."""
    for variant in VmsaVariant:
        predict_folded_digest(
            folded,
            vcpus=launch.vcpus,
            memory_mib=launch.memory_mib,
            initrd_size=len(launch.initrd),
            variant=variant,
        )


def main() -> int:
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--runs", type=int, default=7)
    options.add_argument("--kernel", type=Path, help="random bytes by default")
    options.add_argument("--initrd-mib", type=int, default=2)
    given = options.parse_args()
    image = given.kernel.read_bytes() if given.kernel else random.Random(2).randbytes(KERNEL_SIZE)
    with tempfile.TemporaryDirectory(prefix="krunpy-benchmark.") as folder:
        return measure(make_bundle(image, given.initrd_mib << 20), f"{folder}/bundle.so", given.runs)


def measure(bundle: KrunBundle, path: str, runs: int) -> int:
    """Print the figures; return 0 if the targets are met."""
    launch = describe_bundle(bundle, vcpus=2, memory_mib=1024)
    system = fold_system(bundle.qboot, bundle.kernel.image, bundle.kernel.load_gpa)
    folded = fold_payload(launch, system)
    measured = bundle.qboot + bundle.kernel.image + bundle.initrd
    rows: dict[str, list[float]] = {}
    for _ in range(max(runs, 7)):
        for name, action, arguments in (
            ("SHA-384 work", hash_snp_work, (measured,)),
            ("bundle into a file", write, (bundle, path)),
            ("digests predicted", predict, (launch,)),
            ("digests predicted, payload folded", predict_folded, (launch, folded)),
            ("a launch: sealed, initrd hashed", launch_again, (bundle, launch, system)),
        ):
            rows.setdefault(name, []).append(timed(action, *arguments))
    for name, times in rows.items():
        print(f"{name:36} {statistics.median(times):8.3f} ms")
    again = zip(rows["a launch: sealed, initrd hashed"], rows["SHA-384 work"], strict=True)
    ratios = {"a launch": statistics.median(launch_ms / work for launch_ms, work in again)}
    print(f"a launch / SHA-384 work: {ratios['a launch']:.2f} (target {RATIO})")
    first = zip(rows["bundle into a file"], rows["digests predicted"], rows["SHA-384 work"], strict=True)
    ratios["first"] = statistics.median(
        (write_ms + predict_ms) / work for write_ms, predict_ms, work in first
    )
    print(f"bundle into a file and digests / SHA-384 work: {ratios['first']:.2f} (target {RATIO})")
    cached = statistics.median(rows["digests predicted, payload folded"])
    print(f"digests, payload folded: {cached:.3f} ms (target {CACHED_MS})")
    return 0 if max(ratios.values()) <= RATIO and cached < CACHED_MS else 1


if __name__ == "__main__":
    sys.exit(main())
