"""Caches, clocks and good answers for the tests of collateral."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from krunpy.attest.anchors import Anchors, make_anchor
from krunpy.client.collateral import CollateralClient
from krunpy.client.collateral_cache import Clock, CollateralCache
from krunpy.client.collateral_check import Roots
from krunpy.client.collateral_http import CollateralError
from krunpy.client.collateral_item import AmdChain, AmdCrl, PckCa, Vcek, list_tdx_items
from krunpy.client.collateral_source import make_path, make_sources
from krunpy.formats.pck_chain import encode_pem
from krunpy.formats.snp_report import SigningKey
from krunpy.formats.snp_tcb import Product
from tests.fakes import amd
from tests.fakes.collateral_server import CollateralServer, Reply, make_tdx_replies
from tests.fakes.intel_collateral import mint_collateral
from tests.fakes.intel_pki import FMSPC
from tests.fakes.intel_pki import anchors as intel_anchors

NOW = amd.NOW
MILAN = amd.FakeChip()
VCEK = Vcek(product=Product.MILAN, hwid=MILAN.chip_id, tcb=amd.TCB[Product.MILAN])
CHAIN = AmdChain(product=Product.MILAN, key=SigningKey.VCEK)
CRL = AmdCrl(product=Product.MILAN, key=SigningKey.VCEK)
TCB_INFO, QE_IDENTITY, PCK_CRL, ROOT_CRL = TDX = list_tdx_items(FMSPC, PckCa.PLATFORM)
EVERYTHING = (VCEK, CHAIN, CRL, *TDX)


@functools.cache
def vcek_der() -> bytes:
    return MILAN.certificate


@functools.cache
def roots() -> Roots:
    hardware = {}
    for product in Product:
        chips = [amd.FakeChip(product=product, kind=kind) for kind in (SigningKey.VCEK, SigningKey.VLEK)]
        intermediates = [chip.intermediate for chip in chips]
        hardware[product] = make_anchor(amd.mint_root(product), simulated=False, intermediates=intermediates)
    return Roots(amd=Anchors(hardware=hardware, simulated={}), intel=intel_anchors())


@dataclass
class FakeTime:
    """Time that passes by waiting only."""

    now: datetime = NOW
    passed: float = 0.0
    waits: list[float] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.passed += seconds

    @property
    def clock(self) -> Clock:
        return Clock(
            now=lambda: self.now + timedelta(seconds=self.passed),
            monotonic=lambda: self.passed,
            sleep=self.sleep,
        )


def real_clock() -> Clock:
    """Return a clock of the samples' day whose waits are real."""
    return Clock(now=lambda: NOW, monotonic=time.monotonic, sleep=time.sleep)


def open_cache(directory: object, clock: Clock | None = None) -> CollateralCache:
    return CollateralCache(str(directory), roots=roots(), clock=clock or FakeTime().clock)


def make_client(
    directory: object, url: str, *, clock: Clock | None = None, total_s: float = 30.0
) -> CollateralClient:
    return CollateralClient(
        open_cache(directory, clock), make_sources(kds_url=url, pcs_url=url), total_s=total_s
    )


@functools.cache
def good_replies() -> dict[str, Reply]:
    """Return the right answer to everything in EVERYTHING."""
    sources = make_sources(kds_url="http://127.0.0.1:1", pcs_url="http://127.0.0.1:1")
    chain = b"".join(encode_pem(der) + b"\n" for der in (MILAN.intermediate, amd.mint_root(Product.MILAN)))
    replies = {
        make_path(VCEK, sources): Reply(body=vcek_der()),
        make_path(CHAIN, sources): Reply(body=chain),
        make_path(CRL, sources): Reply(body=amd.mint_crl(0x20001)),
    }
    return replies | make_tdx_replies(mint_collateral(), fmspc=FMSPC.hex(), ca="platform")


def good_server() -> CollateralServer:
    return CollateralServer(replies={path: [reply] for path, reply in good_replies().items()})


def path_of(item: object) -> str:
    return make_path(item, make_sources(kds_url="http://127.0.0.1:1", pcs_url="http://127.0.0.1:1"))


def good():
    return Reply(body=vcek_der())


def ask(tmp_path, *replies, item=VCEK, time=None, total_s=30.0):
    """Fetch an item from a server that gives these replies; return the result and what was asked."""
    server = CollateralServer()
    server.put(path_of(item), *replies)
    time = time or FakeTime()
    with server.running():
        try:
            return make_client(tmp_path, server.url, clock=time.clock, total_s=total_s).fetch(item), server
        except CollateralError as error:
            return error, server
