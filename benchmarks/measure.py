"""Time the prediction of launch measurements next to the hashing that it cannot do without.

    python benchmarks/measure.py [--runs 15] [--firmware FILE]

Each run does all of them in turn, and processor time is counted, so that what else the machine does falls on all
alike; medians are printed. Targets:
an SNP digest of a 4 MiB firmware takes at most 1.2 times its SHA-384 work (every page, and the record that follows
each); with the firmware folded once, a digest takes under 2 ms.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from krunpy.measure.description import (
    LaunchDescription,
    measure_cmdline,
    measure_file,
    measure_firmware,
    predict_described,
)
from krunpy.measure.kernel_hashes import KernelHashes
from krunpy.measure.launch import LaunchInputs, Layout, predict_snp_digest
from krunpy.measure.tdx_mrtd import PageOrder, predict_mrtd
from tests.fakes.firmware import build_sev_firmware
from tests.fakes.tdvf import build_tdvf

SIZE = 4 << 20  # bytes
PAGE, RECORD, CHUNK = 4096, 112, 256  # bytes
RATIO, CACHED_MS = 1.2, 2.0


def hash_snp_work(image: bytes) -> None:
    """Hash what an SNP digest hashes: the pages, and one record of 112 bytes after each."""
    view, record, sha384 = memoryview(image), bytes(RECORD - 48), hashlib.sha384
    digest = bytes(48)
    for at in range(0, len(image), PAGE):
        sha384(view[at : at + PAGE]).digest()
        digest = sha384(digest + record).digest()


def hash_tdx_work(image: bytes) -> None:
    """Hash what an MRTD hashes: one record of 128 bytes for each page and for each 256 bytes, and the bytes."""
    running = hashlib.sha384()
    running.update(bytes(len(image) // PAGE * 128 + len(image) // CHUNK * 128))
    running.update(image)
    running.digest()


def timed(action, *arguments) -> float:
    started = time.process_time()
    action(*arguments)
    return (time.process_time() - started) * 1000


def main() -> int:
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--runs", type=int, default=15)
    options.add_argument("--firmware", type=Path, help="an image with SEV metadata instead of a made-up one")
    given = options.parse_args()
    firmware = given.firmware.read_bytes() if given.firmware else build_sev_firmware(SIZE)
    tdvf = build_tdvf([(0, SIZE, 0xFFC00000, SIZE, 0, 1)], size=SIZE)
    files = {name: measure_file(name, b"") for name in ("kernel", "initrd")}
    described = LaunchDescription(
        layout=Layout.SEV_METADATA,
        firmware=measure_firmware("firmware", firmware),
        cmdline=measure_cmdline("quiet"),
        vcpus=1,
        **files,
    )
    hashes = KernelHashes(
        kernel=files["kernel"].digest, initrd=files["initrd"].digest, cmdline=measure_cmdline("quiet").digest
    )
    whole = LaunchInputs(firmware=firmware, layout=Layout.SEV_METADATA, kernel_hashes=hashes, vcpus=1)
    rows: dict[str, list[float]] = {}
    for _ in range(max(given.runs, 7)):
        for name, action, arguments in (
            ("SHA-384 of the image alone", lambda image: hashlib.sha384(image).digest(), (firmware,)),
            ("SHA-384 work of SNP", hash_snp_work, (firmware,)),
            ("SNP digest", predict_snp_digest, (whole,)),
            ("SNP digest, firmware folded, 1 vCPU", predict_described, (described,)),
            ("SNP digest, firmware folded, 64 vCPUs", predict_described, (replace(described, vcpus=64),)),
            ("SHA-384 work of TDX", hash_tdx_work, (tdvf,)),
            ("MRTD", predict_mrtd, (tdvf, PageOrder.SINGLE_PASS)),
        ):
            rows.setdefault(name, []).append(timed(action, *arguments))
    medians = {name: statistics.median(times) for name, times in rows.items()}
    for name, took in medians.items():
        print(f"{name:40} {took:8.3f} ms")
    ratio = statistics.median(
        own / work for own, work in zip(rows["SNP digest"], rows["SHA-384 work of SNP"], strict=True)
    )
    cached = medians["SNP digest, firmware folded, 1 vCPU"]
    print(f"SNP digest / its SHA-384 work: {ratio:.2f} (target {RATIO})")
    print(f"MRTD / its SHA-384 work: {medians['MRTD'] / medians['SHA-384 work of TDX']:.2f}")
    print(f"SNP digest, firmware folded: {cached:.3f} ms (target {CACHED_MS})")
    return 0 if ratio <= RATIO and cached < CACHED_MS else 1


if __name__ == "__main__":
    sys.exit(main())
