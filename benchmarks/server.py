"""Time the attestation server: how fast it is ready, how fast it attests, and its part of one launch.

    python benchmarks/server.py [--runs 7] [--rounds 200]

Everything goes over loopback with one connection a call, as the launcher's relay does it, against the software
TEE's evidence, whose chain is verified like real hardware's. Targets: the server's part of a launch (challenge and
attest) takes a small part of 250 ms.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from krunpy.client.server import Registration, ServerClient
from krunpy.core.octets import Secret
from tests.fakes.broker import DISK_KEY, make_authority, make_registration
from tests.fakes.guest import FakeGuest, launch, make_manifest
from tests.fakes.serving import serve


def start(directory: str, root: str):
    return serve(directory, mode="development", simulated_root=root)


def time_starts(scratch: str, root: str, runs: int) -> list[float]:
    spans = []
    for _ in range(runs):
        begin = time.perf_counter()
        with start(scratch + "/starts", root):
            spans.append(time.perf_counter() - begin)
    return spans


def attest_once(client: ServerClient, guest: FakeGuest, tee) -> tuple[float, float]:
    begin = time.perf_counter()
    challenge = client.challenge(guest.manifest_hash)
    asked = time.perf_counter()
    report = tee.report(guest.make_report_data(challenge.nonce))
    made = time.perf_counter()
    client.attest(
        session=challenge.session,
        tee="software",
        guest_key=guest.public_key,
        manifest_hash=guest.manifest_hash,
        evidence=report,
    )
    return asked - begin, time.perf_counter() - made


def show(name: str, spans: list[float]) -> None:
    spans = sorted(spans)
    worst = spans[int(len(spans) * 0.99)]
    print(
        f"{name:28} median {statistics.median(spans) * 1e3:7.1f} ms   99 % {worst * 1e3:7.1f} ms   n {len(spans)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--rounds", type=int, default=200)
    given = parser.parse_args()
    authority = make_authority()
    with tempfile.TemporaryDirectory() as scratch:
        root = scratch + "/root.der"
        with open(root, "wb") as stream:
            stream.write(authority.root)
        show("start to ready", time_starts(scratch, root, given.runs))
        with start(scratch + "/store", root) as serving:
            with open(scratch + "/store/admin.token", "rb") as stream:
                client = ServerClient(serving.url, token=Secret(stream.read()))
            guest = FakeGuest(make_manifest(client.info().key))
            values = make_registration(authority, guest.manifest)["reference_values"]
            registration = Registration(
                manifest=guest.manifest, disk_key=Secret(DISK_KEY), reference_values=tuple(values)
            )
            begin = time.perf_counter()
            client.register("web", registration)
            show("register", [time.perf_counter() - begin])
            tee, _ = launch(authority, guest.manifest)
            pairs = [attest_once(client, guest, tee) for _ in range(given.rounds)]
            show("challenge", [pair[0] for pair in pairs])
            show("attest", [pair[1] for pair in pairs])
            show("both: the part of a launch", [sum(pair) for pair in pairs])
            for width in (4, 16):
                begin = time.perf_counter()
                with ThreadPoolExecutor(width) as pool:
                    list(pool.map(lambda _: attest_once(client, guest, tee), range(given.rounds)))
                rate = given.rounds / (time.perf_counter() - begin)
                print(f"{f'{width} guests at once':28} {rate:.0f} attestations/s")
            with open(f"/proc/{serving.process.pid}/status") as stream:
                memory = next(line for line in stream if line.startswith("VmRSS")).split()[1]
            print(f"{'server resident memory':28} {int(memory) / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
