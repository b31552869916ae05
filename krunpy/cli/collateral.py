"""`krunpy collateral`: the certificates, revocation lists and TCB levels of AMD and Intel, fetched or carried."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from krunpy.cli.collateral_cache import open_collateral_cache
from krunpy.cli.context import settings_of
from krunpy.cli.render import format_size, print_error, print_json, print_table
from krunpy.client.collateral_item import PckCa, describe_item, name_item
from krunpy.core.errors import BrokerError, UsageError, make_plain
from krunpy.core.files import load_bounded, write_atomically
from krunpy.formats.snp_tcb import Product

if TYPE_CHECKING:
    from datetime import datetime

    from krunpy.client.collateral import CollateralClient
    from krunpy.client.collateral_cache import Cached
    from krunpy.client.collateral_item import Item
    from krunpy.core.settings import Settings

app = typer.Typer(no_args_is_help=True, help="What AMD and Intel publish: fetch it, carry it on.")
JsonFlag = Annotated[bool, typer.Option("--json", help="Print JSON.")]
KdsOption = Annotated[
    str,
    typer.Option(metavar="URL", help="A mirror of AMD's key distribution service."),
]
PcsOption = Annotated[str, typer.Option(metavar="URL", help="A cache (PCCS) of Intel's PCS.")]
_TIME = "%Y-%m-%d %H:%M"


@app.command()
def status(context: typer.Context, json: JsonFlag = False) -> None:
    """List what the cache holds, and until when it holds."""
    cache = open_collateral_cache(settings_of(context))
    now = cache.clock.now()
    found = cache.list_items()
    if json:
        print_json("collateral-status", [_describe(item, cached, now) for item, cached in found])
        return
    rows = [
        [
            _judge(cached, now),
            describe_item(item),
            f"{cached.span.expires:{_TIME}}" if cached else "-",
            f"{cached.fetched_at:{_TIME}}" if cached else "-",
            format_size(len(cached.contents)) if cached else "-",
        ]
        for item, cached in found
    ]
    print_table(["state", "item", "until", "fetched", "size"], rows)


@app.command()
def fetch(
    context: typer.Context,
    evidence: Annotated[
        str, typer.Argument(metavar="EVIDENCE-FILE", help="A report or quote: what it needs.")
    ] = "",
    product: Annotated[str, typer.Option(help="Milan, Genoa or Turin: chains and CRLs.")] = "",
    fmspc: Annotated[str, typer.Option(metavar="HEX", help="6 bytes: what TDX quotes of it need.")] = "",
    ca: Annotated[str, typer.Option(help="With --fmspc: platform or processor.")] = "",
    kds_url: KdsOption = "",
    pcs_url: PcsOption = "",
    json: JsonFlag = False,
) -> None:
    """Fetch what is missing or no longer holds, for a product, a platform, or evidence in a file."""
    items = _choose(evidence, product=product, fmspc=fmspc, ca=ca)
    client = open_collateral_client(settings_of(context), kds_url=kds_url, pcs_url=pcs_url)
    got, failures = _fetch_all(client, items, quiet=json)
    if json:
        now = client.cache.clock.now()
        print_json("collateral-status", [_describe(cached.item, cached, now) for cached in got])
    if failures:
        for failure in failures[:-1]:
            print_error(failure)
        raise failures[-1]


@app.command("export")
def export_all(
    context: typer.Context, file: Annotated[str, typer.Argument(metavar="FILE", help="Where to write it.")]
) -> None:
    """Write everything that the cache holds into one file."""
    from krunpy.client.collateral_archive import pack_archive

    cache = open_collateral_cache(settings_of(context))
    whole = [cached for _, cached in cache.list_items() if cached is not None]
    raw = pack_archive(whole)
    write_atomically(os.path.abspath(file), raw)
    print(f"{len(whole)} items, {format_size(len(raw))}")


@app.command("import")
def import_all(
    context: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="What export wrote.")],
    json: JsonFlag = False,
) -> None:
    """Take in what export wrote on another host, after checking all of it."""
    from krunpy.client.collateral_archive import LARGEST_ARCHIVE, import_archive

    cache = open_collateral_cache(settings_of(context))
    imported = import_archive(cache, load_bounded(os.path.abspath(file), LARGEST_ARCHIVE))
    now = cache.clock.now()
    if json:
        print_json("collateral-status", [_describe(one.cached.item, one.cached, now) for one in imported])
        return
    for one in imported:
        word = "imported" if one.is_new else "kept what we had"
        print(f"{word:16}  {describe_item(one.cached.item)}, {_judge(one.cached, now)}")


def open_collateral_client(settings: Settings, *, kds_url: str = "", pcs_url: str = "") -> CollateralClient:
    """Return who fetches into that cache. Raises UsageError on a URL that will not do, HostError."""
    from krunpy.client.collateral import CollateralClient
    from krunpy.client.collateral_source import make_sources

    sources = make_sources(kds_url=kds_url or settings.kds_url, pcs_url=pcs_url or settings.pcs_url)
    return CollateralClient(open_collateral_cache(settings), sources)


def _choose(evidence: str, *, product: str, fmspc: str, ca: str) -> tuple[Item, ...]:
    """Return the items that a command line asks for."""
    from krunpy.client.collateral_evidence import list_needed
    from krunpy.client.collateral_item import FMSPC_SIZE, list_product_items, list_tdx_items
    from krunpy.formats.evidence_encodings import LARGEST_EVIDENCE

    if ca and (not fmspc or ca not in list(PckCa)):
        raise UsageError(
            "cannot use --ca", why=f'seen "{ca[:80]}", wanted platform or processor, with --fmspc'
        )
    named = _find_product(product) if product else None
    if evidence:
        if fmspc:
            raise UsageError("cannot use --fmspc", why="the evidence file says which platform it is from")
        return list_needed(load_bounded(os.path.abspath(evidence), LARGEST_EVIDENCE), named)
    items: list[Item] = []
    if named is not None:
        items += list_product_items(named)
    if fmspc:
        try:
            platform = bytes.fromhex(fmspc)
        except ValueError:
            platform = b""
        if len(platform) != FMSPC_SIZE:
            raise UsageError("cannot use --fmspc", why=f'seen "{fmspc[:80]}", wanted 12 hex digits')
        items += list_tdx_items(platform, PckCa(ca or PckCa.PLATFORM))
    if not items:
        raise UsageError(
            "cannot fetch collateral",
            why="nothing says for what",
            next="give an evidence file, --product Milan|Genoa|Turin, or --fmspc HEX",
        )
    return tuple(items)


def _find_product(word: str) -> Product:
    for product in Product:
        if word.lower() == product.lower():
            return product
    raise UsageError("cannot use --product", why=f'seen "{word[:80]}", wanted {", ".join(Product)}')


def _fetch_all(
    client: CollateralClient, items: tuple[Item, ...], *, quiet: bool
) -> tuple[list[Cached], list[BrokerError]]:
    """Return what was got and what could not be: one that fails keeps no other from being fetched."""
    got: list[Cached] = []
    failures: list[BrokerError] = []
    for number, item in enumerate(items, 1):
        if sys.stderr.isatty():
            print(f"{number}/{len(items)} {describe_item(item)} ...", file=sys.stderr)
        had = client.cache.find_fresh(item) is not None
        try:
            cached = client.fetch(item)
        except BrokerError as error:
            failures.append(error)
            continue
        got.append(cached)
        if not quiet:
            word = "in the cache" if had else "fetched"
            print(f"{word:12}  {make_plain(describe_item(item))}, until {cached.span.expires:{_TIME}}")
    return got, failures


def _judge(cached: Cached | None, now: datetime) -> str:
    if cached is None:
        return "damaged"
    return "fresh" if cached.span.holds_at(now) else "stale"


def _describe(item: Item, cached: Cached | None, now: datetime) -> dict[str, object]:
    facts: dict[str, object] = {
        "name": name_item(item),
        "item": describe_item(item),
        "state": _judge(cached, now),
    }
    if cached is not None:
        facts |= {
            "issued": cached.span.issued.isoformat(),
            "expires": cached.span.expires.isoformat(),
            "fetched": cached.fetched_at.isoformat(),
            "size": len(cached.contents),
        }
    return facts
