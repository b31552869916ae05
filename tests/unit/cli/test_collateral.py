import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from krunpy.client.collateral_item import AmdChain, AmdCrl, TdxQeIdentity
from krunpy.client.collateral_source import make_path, make_sources
from krunpy.formats.snp_report import SigningKey
from krunpy.formats.snp_tcb import Product
from tests.fakes.collateral_server import CollateralServer, Reply

HOUSE = Path(__file__).resolve().parents[3]
ROOTS = HOUSE / "krunpy" / "attest" / "roots"
SOURCES = make_sources(kds_url="http://127.0.0.1:1", pcs_url="http://127.0.0.1:1")
STATES = "krunpy.collateral-status.v1"


def path_of(kind, key):
    return make_path(kind(product=Product.MILAN, key=key), SOURCES)


@pytest.fixture
def server():
    """A server that has AMD's own chains, which the package holds, and no CRL."""
    server = CollateralServer()
    for key, name in ((SigningKey.VCEK, "ask"), (SigningKey.VLEK, "asvk")):
        chain = b"".join((ROOTS / f"amd_milan_{which}.pem").read_bytes() for which in (name, "ark"))
        server.put(path_of(AmdChain, key), Reply(body=chain))
    with server.running():
        yield server


def environment(tmp_path, server):
    return {
        **os.environ,
        "KRUNPY_CACHE_DIR": str(tmp_path / "cache"),
        "KRUNPY_DATA_DIR": str(tmp_path / "data"),
        "KRUNPY_KDS_URL": server.url if server else "http://127.0.0.1:1",
        "KRUNPY_PCS_URL": server.url if server else "http://127.0.0.1:1",
    }


def argv(*words):
    return [sys.executable, str(HOUSE / "scripts" / "krunpy"), "collateral", *map(str, words)]


def krunpy(tmp_path, *words, server=None):
    result = subprocess.run(
        argv(*words),
        capture_output=True,
        text=True,
        env=environment(tmp_path, server),
        timeout=60,
        check=False,
    )
    assert "Traceback" not in result.stderr
    return result


def states(result):
    document = json.loads(result.stdout)
    assert document["schema"] == STATES
    return {item["name"]: item["state"] for item in document["data"]}


def test_what_can_be_fetched_is_kept_though_something_cannot(tmp_path, server):
    result = krunpy(tmp_path, "fetch", "--product", "milan", server=server)

    assert result.returncode == 5
    assert "fetched       VCEK chain of Milan, until 2045-10-22" in result.stdout
    assert "cannot get the VLEK CRL of Milan" in result.stderr
    assert "status 404" in result.stderr
    assert states(krunpy(tmp_path, "status", "--json")) == {
        "vcek-chain-milan": "fresh",
        "vlek-chain-milan": "fresh",
    }


def test_fetching_again_asks_for_nothing_that_is_there(tmp_path, server):
    krunpy(tmp_path, "fetch", "--product", "Milan", server=server)
    before = list(server.asked)

    result = krunpy(tmp_path, "fetch", "--product", "Milan", server=server)

    assert "in the cache  VCEK chain of Milan" in result.stdout
    assert server.asked[len(before) :] == [
        path_of(AmdCrl, SigningKey.VCEK),
        path_of(AmdCrl, SigningKey.VLEK),
    ]


def test_a_cache_travels_in_one_file(tmp_path, server):
    krunpy(tmp_path, "fetch", "--product", "Milan", server=server)

    exported = krunpy(tmp_path, "export", tmp_path / "all.json")
    first = krunpy(tmp_path / "other", "import", tmp_path / "all.json")
    again = krunpy(tmp_path / "other", "import", tmp_path / "all.json")

    assert (exported.returncode, exported.stdout.split(",")[0]) == (0, "2 items")
    assert "imported          VCEK chain of Milan, fresh" in first.stdout
    assert "kept what we had  VCEK chain of Milan, fresh" in again.stdout
    assert set(states(krunpy(tmp_path / "other", "status", "--json")).values()) == {"fresh"}


def test_a_damaged_file_is_refused_whole(tmp_path, server):
    krunpy(tmp_path, "fetch", "--product", "Milan", server=server)
    krunpy(tmp_path, "export", tmp_path / "all.json")
    whole = (tmp_path / "all.json").read_bytes()
    (tmp_path / "all.json").write_bytes(whole[: len(whole) * 2 // 3])

    result = krunpy(tmp_path / "other", "import", tmp_path / "all.json")

    assert result.returncode == 2
    assert states(krunpy(tmp_path / "other", "status", "--json")) == {}


def test_a_damaged_object_is_shown_as_such(tmp_path, server):
    krunpy(tmp_path, "fetch", "--product", "Milan", server=server)
    for file in (tmp_path / "cache" / "collateral" / "objects").iterdir():
        file.write_bytes(b"damaged")

    result = krunpy(tmp_path, "status")

    assert result.returncode == 0
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["state", "damaged", "damaged"]


def test_json_alone_is_on_standard_output(tmp_path, server):
    result = krunpy(tmp_path, "fetch", "--product", "Milan", "--json", server=server)

    assert result.returncode == 5
    assert states(result) == {"vcek-chain-milan": "fresh", "vlek-chain-milan": "fresh"}


@pytest.mark.parametrize(
    ("words", "status", "why"),
    [
        (["fetch"], 2, "nothing says for what"),
        (["fetch", "--product", "Rome"], 2, "wanted Milan, Genoa, Turin"),
        (["fetch", "--fmspc", "00"], 2, "wanted 12 hex digits"),
        (["fetch", "--fmspc", "00906ED50000", "--ca", "other"], 2, "wanted platform or processor"),
        (["fetch", "--ca", "platform"], 2, "with --fmspc"),
        (["fetch", "/nowhere", "--fmspc", "00906ED50000"], 2, "the evidence file says"),
        (["fetch", "/nowhere"], 4, "no such file"),
        (["fetch", "/etc/hostname"], 2, "cannot recognise the evidence"),
        (["fetch", "--product", "Milan", "--kds-url", "http://kds.example"], 2, "use https"),
        (["import", "/nowhere"], 4, "no such file"),
        (["export", "/nowhere/at/all"], 4, "no such file"),
    ],
)
def test_what_cannot_be_done_is_one_error(tmp_path, words, status, why):
    result = krunpy(tmp_path, *words)

    assert result.returncode == status
    assert why in result.stderr


def test_a_platform_needs_four_things(tmp_path, server):
    result = krunpy(tmp_path, "fetch", "--fmspc", "00906ED50000", server=server)

    assert result.returncode == 5
    assert server.asked == [
        "/tdx/certification/v4/tcb?fmspc=00906ED50000",
        "/tdx/certification/v4/qe/identity",
        "/sgx/certification/v4/pckcrl?ca=platform&encoding=der",
        "/sgx/certification/v4/rootcacrl",
    ]


def test_ctrl_c_ends_it_at_once_and_leaves_a_whole_cache(tmp_path, server):
    server.put(make_path(TdxQeIdentity(), SOURCES), Reply(delay_s=30))
    krunpy(tmp_path, "fetch", "--product", "Milan", server=server)
    process = subprocess.Popen(
        argv("fetch", "--fmspc", "00906ED50000"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(tmp_path, server),
    )
    while make_path(TdxQeIdentity(), SOURCES) not in server.asked:
        assert process.poll() is None
        time.sleep(0.02)

    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=10)

    assert process.returncode == 130
    assert "krunpy: interrupted" in stderr
    assert "Traceback" not in stderr
    assert set(states(krunpy(tmp_path, "status", "--json")).values()) == {"fresh"}
    assert not list((tmp_path / "cache").rglob("*.new"))
