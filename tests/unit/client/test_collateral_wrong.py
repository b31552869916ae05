from datetime import timedelta

import pytest

from krunpy.client.collateral_http import CollateralError
from krunpy.formats.snp_report import SigningKey
from krunpy.formats.snp_tcb import Product
from tests.fakes import amd
from tests.fakes.collateral_samples import (
    CHAIN,
    CRL,
    MILAN,
    NOW,
    VCEK,
    ask,
    good_replies,
    open_cache,
    path_of,
    vcek_der,
)
from tests.fakes.collateral_server import NOT_FOUND, Reply


def asked_for_nothing(tmp_path, item=VCEK):
    return open_cache(tmp_path).find(item) is None


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (lambda: NOT_FOUND, "status 404; it has none"),
        (lambda: Reply(status=400), "status 400"),
        (
            lambda: Reply(status=302, headers=(("Location", "https://elsewhere.example/"),)),
            "redirects are not",
        ),
        (lambda: Reply(status=204), "status 204"),
        (lambda: Reply(body=b"garbage"), "cannot be read"),
        (lambda: Reply(body=b""), "cannot be read"),
        (lambda: Reply(body=vcek_der()[:700]), "cannot be read"),
        (lambda: Reply(body=vcek_der() + b"\0"), "cannot be read"),
        (lambda: Reply(body=bytes(4097)), "over 4096 bytes"),
        (lambda: Reply(body=amd.mint_root(Product.MILAN)), "seen issuer"),
        (lambda: Reply(body=MILAN.intermediate), "seen issuer"),
    ],
)
def test_a_wrong_answer_is_not_asked_for_again_nor_kept(tmp_path, reply, why):
    error, server = ask(tmp_path, reply())

    assert why in error.why
    assert error.exit_code == 5
    assert len(server.asked) == 1
    assert asked_for_nothing(tmp_path)


@pytest.mark.parametrize(
    ("chip", "why"),
    [
        (lambda: amd.FakeChip(add={f"{amd.OID}.4": b"\x99" * 64}), "chip 99999999"),
        (lambda: amd.FakeChip(drop=(f"{amd.OID}.4",)), "chip none"),
        (lambda: amd.FakeChip(add={f"{amd.OID}.3.1": b"\2\1\3"}), "bootloader 3, wanted 4"),
        (lambda: amd.FakeChip(add={f"{amd.OID}.3.2": b"\2\1\1"}), "tee 1, wanted 0"),
        (lambda: amd.FakeChip(add={f"{amd.OID}.3.3": b"\2\1\x13"}), "snp 19, wanted 20"),
        (lambda: amd.FakeChip(add={f"{amd.OID}.3.8": b"\2\1\x72"}), "microcode 114, wanted 115"),
        (lambda: amd.FakeChip(drop=(f"{amd.OID}.3.8",)), "microcode None"),
        (lambda: amd.FakeChip(product=Product.GENOA), "of Genoa, wanted a VCEK of Milan"),
        (lambda: amd.FakeChip(kind=SigningKey.VLEK), "seen a VLEK"),
        (lambda: amd.FakeChip(leaf={"signer": amd.rsa_key("evil")}), "not signed"),
        (lambda: amd.FakeChip(leaf={"not_after": NOW - timedelta(days=1)}), "now it is"),
        (lambda: amd.FakeChip(leaf={"not_before": NOW + timedelta(days=1)}), "it was issued at 2026-06-02"),
    ],
)
def test_a_certificate_of_something_else_is_not_kept(tmp_path, chip, why):
    error, _ = ask(tmp_path, Reply(body=chip().certificate))

    assert why in error.why
    assert open_cache(tmp_path).find_fresh(VCEK) is None


@pytest.mark.parametrize(
    ("crl", "why"),
    [
        (lambda: amd.mint_crl(product=Product.GENOA), 'CRL of "ARK-Genoa"'),
        (lambda: amd.mint_crl(signer="evil"), "not signed"),
        (lambda: amd.mint_crl(next_update=NOW - timedelta(days=1)), "now it is"),
        (lambda: amd.mint_crl()[:-1], "cannot"),
    ],
)
def test_a_crl_of_something_else_is_not_used(tmp_path, crl, why):
    error, _ = ask(tmp_path, Reply(body=crl()), item=CRL)

    assert isinstance(error, CollateralError)
    assert why in f"{error.why} {error.__cause__}"
    assert open_cache(tmp_path).find_fresh(CRL) is None


def test_an_older_crl_does_not_replace_a_newer_one(tmp_path):
    newer = amd.mint_crl(0x77, this_update=NOW - timedelta(days=1))
    cache = open_cache(tmp_path)
    cache.keep(CRL, newer)

    kept = cache.keep(CRL, amd.mint_crl(next_update=amd.LATER))

    assert kept.contents == newer
    assert cache.find(CRL).contents == newer


def test_a_chain_with_another_root_is_not_kept(tmp_path):
    good = good_replies()[path_of(CHAIN)].body
    other = good.replace(b"-----END CERTIFICATE-----\n", b"-----END CERTIFICATE-----\n#", 1)

    cached, _ = ask(tmp_path, Reply(body=other), item=CHAIN)
    error, _ = ask(tmp_path / "b", Reply(body=good[: len(good) // 2]), item=CHAIN)

    assert cached.contents == good  # text between certificates is not kept
    assert isinstance(error, CollateralError)
