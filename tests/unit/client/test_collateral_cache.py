import os
import subprocess
import sys
import threading
from hashlib import sha256

import pytest

from krunpy.client.collateral_item import Vendor, name_item
from krunpy.formats.snp_tcb import Product
from tests.fakes import amd
from tests.fakes.collateral_samples import (
    CRL,
    EVERYTHING,
    MILAN,
    NOW,
    PCK_CRL,
    QE_IDENTITY,
    ROOT_CRL,
    TCB_INFO,
    VCEK,
    ask,
    good,
    good_server,
    make_client,
    open_cache,
    path_of,
    real_clock,
    vcek_der,
)
from tests.fakes.collateral_server import Reply

# --- at once


def test_eight_threads_ask_once(tmp_path):
    server = good_server()
    server.put(path_of(VCEK), Reply(body=vcek_der(), delay_s=0.2))
    found = []
    with server.running():
        client = make_client(tmp_path, server.url, clock=real_clock())
        threads = [
            threading.Thread(target=lambda: found.append(client.fetch(VCEK).contents)) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert found == [vcek_der()] * 8
    assert len(server.asked) == 1


_HOLDER = """
import fcntl, os, sys
descriptor = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)
fcntl.flock(descriptor, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.readline()
"""


def hold_elsewhere(directory, item):
    """Start another process that fetches the same item; return it once it does."""
    shard = sha256(name_item(item).encode()).digest()[0] % 64
    argv = [sys.executable, "-c", _HOLDER, os.path.join(directory, "locks", f"{shard:02d}")]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdout.readline()
    return process


def test_what_another_process_fetched_meanwhile_is_not_fetched_again(tmp_path):
    cache = open_cache(tmp_path)
    other = hold_elsewhere(tmp_path, VCEK)
    found = []
    with good_server().running() as server:
        client = make_client(tmp_path, server.url, clock=real_clock())
        thread = threading.Thread(target=lambda: found.append(client.fetch(VCEK)))
        thread.start()
        cache.keep(VCEK, vcek_der())
        other.communicate(b"\n")
        thread.join()

    assert found[0].contents == vcek_der()
    assert server.asked == []


_FETCHER = """
import sys, time
from datetime import UTC, datetime
from krunpy.attest.anchors import Anchors, load_intel_anchors, make_anchor
from krunpy.client.collateral import CollateralClient
from krunpy.client.collateral_cache import Clock, CollateralCache
from krunpy.client.collateral_check import Roots
from krunpy.client.collateral_item import parse_item
from krunpy.client.collateral_source import make_sources
directory, url, name, now, root, intermediate = sys.argv[1:]
anchor = make_anchor(bytes.fromhex(root), simulated=False, intermediates=[bytes.fromhex(intermediate)])
roots = Roots(amd=Anchors(hardware={anchor.product: anchor}, simulated={}), intel=load_intel_anchors())
clock = Clock(now=lambda: datetime.fromisoformat(now), monotonic=time.monotonic, sleep=time.sleep)
client = CollateralClient(CollateralCache(directory, roots=roots, clock=clock), make_sources(kds_url=url))
print("ready", flush=True)
sys.stdin.readline()
print(len(client.fetch(parse_item(name)).contents))
"""


def test_two_processes_ask_once(tmp_path):
    server = good_server()
    server.put(path_of(VCEK), Reply(body=vcek_der(), delay_s=0.3))
    pinned = [der.hex() for der in (amd.mint_root(Product.MILAN), MILAN.intermediate)]
    with server.running():
        words = [str(tmp_path), server.url, name_item(VCEK), NOW.isoformat(), *pinned]
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", _FETCHER, *words],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(2)
        ]
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        results = [process.communicate(timeout=30)[0] for process in processes]

    assert results == [f"{len(vcek_der())}\n"] * 2
    assert server.asked == [path_of(VCEK)]


def test_somebody_who_never_lets_go_is_not_waited_for_for_ever(tmp_path):
    make_client(tmp_path, "http://127.0.0.1:1")
    other = hold_elsewhere(tmp_path, VCEK)

    error, server = ask(tmp_path, good(), total_s=1.0)
    other.communicate(b"\n")

    assert "another process has been at it" in error.why
    assert server.asked == []


# --- what is kept


@pytest.mark.parametrize("damage", ["flipped", "truncated", "removed", "swapped", "nonsense"])
def test_a_damaged_object_is_fetched_again(tmp_path, damage):
    with good_server().running() as server:
        client = make_client(tmp_path, server.url)
        client.fetch(VCEK)
        client.fetch(CRL)
        index = tmp_path / "index"
        entry = next(index.glob("vcek-milan-*"))
        if damage == "swapped":
            entry.write_bytes((index / "vcek-crl-milan.json").read_bytes())
        elif damage == "nonsense":
            entry.write_bytes(b"[]")
        for file in (tmp_path / "objects").iterdir():
            if file.read_bytes() != vcek_der():
                continue
            if damage == "flipped":
                file.write_bytes(vcek_der()[:-1] + b"\xff")
            elif damage == "truncated":
                file.write_bytes(vcek_der()[:-1])
            elif damage == "removed":
                file.unlink()

        assert client.cache.find(VCEK) is None
        assert (VCEK, None) in client.cache.list_items()
        assert client.fetch(VCEK).contents == vcek_der()

    assert server.asked.count(path_of(VCEK)) == 2


@pytest.mark.parametrize("text", ['{"until": 9999999999, "why": "x"}', "{}", "", "[1]"])
def test_a_pause_that_we_did_not_write_so_is_none(tmp_path, text):
    cache = open_cache(tmp_path)
    (tmp_path / "paused-amd").write_text(text)

    assert cache.find_pause(Vendor.AMD) is None


def test_an_object_is_what_its_name_says(tmp_path):
    cache = open_cache(tmp_path)
    cache.keep(CRL, amd.mint_crl(0x77))
    (entry,) = (tmp_path / "objects").iterdir()
    entry.write_bytes(amd.mint_crl())

    assert cache.find(CRL) is None


def test_the_cache_is_private_and_leaves_no_drafts(tmp_path):
    with good_server().running() as server:
        client = make_client(tmp_path / "c", server.url)
        for item in EVERYTHING:
            client.fetch(item)

    files = [path for path in (tmp_path / "c").rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "c").iterdir()} == {0o700}
    assert not [path for path in files if path.name.endswith(".new")]
    assert [item for item, _ in client.cache.list_items()].count(TCB_INFO) == 1
    assert {QE_IDENTITY, PCK_CRL, ROOT_CRL} <= {item for item, _ in client.cache.list_items()}
