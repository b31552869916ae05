"""The table of advisories: what claims show of each, by product and floor, and what is honestly not known."""

from dataclasses import replace

import pytest

from krunpy.attest.advisories import ADVISORIES, Advisory, Tee, find_advisory
from krunpy.attest.appraise_advisories import Exposure, rate_snp
from krunpy.attest.policy import OneOf, SnpPolicy
from krunpy.attest.verify import SnpClaims, verify_snp
from krunpy.formats.snp_tcb import Product, Tcb
from tests.fakes import amd
from tests.fakes.amd import NOW, FakeChip


@pytest.fixture(scope="module")
def claims() -> SnpClaims:
    return verify_snp(FakeChip().evidence(), anchors=amd.anchors(), now=NOW)


def of(claims: SnpClaims, product: Product, reported: int, launch: int) -> SnpClaims:
    return replace(
        claims, product=product, reported_tcb=Tcb(snp=reported, microcode=255), launch_tcb=Tcb(snp=launch)
    )


def named(name: str) -> Advisory:
    advisory = find_advisory(name, Tee.SNP)
    assert advisory is not None
    return advisory


ENTRY_SIGN = [
    (Product.MILAN, 0x18, 0x18, Exposure.MENDED),
    (Product.MILAN, 0x17, 0x18, Exposure.OPEN),
    (Product.MILAN, 0x18, 0x17, Exposure.OPEN),
    (Product.GENOA, 0x17, 0x17, Exposure.MENDED),
    (Product.GENOA, 0x16, 0x17, Exposure.OPEN),
    (Product.TURIN, 0xFF, 0xFF, Exposure.UNKNOWN),
]


@pytest.mark.parametrize(("product", "reported", "launch", "exposure"), ENTRY_SIGN)
def test_a_floor_counts_for_its_product_and_for_the_launch(
    claims: SnpClaims, product: Product, reported: int, launch: int, exposure: Exposure
) -> None:
    assert rate_snp(named("AMD-SB-3019"), of(claims, product, reported, launch), SnpPolicy()) is exposure


@pytest.mark.parametrize("product", Product)
def test_a_floor_that_nobody_has_filled_in_is_not_known(claims: SnpClaims, product: Product) -> None:
    highest = of(claims, product, 255, 255)

    assert rate_snp(named("RMPocalypse"), highest, SnpPolicy()) is Exposure.UNKNOWN


def test_a_floor_that_the_policy_gives_is_used_before_the_tables(claims: SnpClaims) -> None:
    floors = {"AMD-SB-3020": {Product.GENOA: Tcb(snp=9)}, "AMD-SB-3019": {Product.GENOA: Tcb(snp=0x30)}}
    policy = SnpPolicy(advisory_floors=floors)
    genoa = of(claims, Product.GENOA, 0x20, 0x20)

    assert rate_snp(named("AMD-SB-3020"), genoa, policy) is Exposure.MENDED
    assert rate_snp(named("AMD-SB-3019"), genoa, policy) is Exposure.OPEN


@pytest.mark.parametrize("product", Product)
def test_nothing_mends_milan_whose_root_seed_can_be_read(claims: SnpClaims, product: Product) -> None:
    exposure = rate_snp(named("BadFuse"), of(claims, product, 255, 255), SnpPolicy())

    assert exposure is (Exposure.OPEN if product is Product.MILAN else Exposure.MENDED)


def test_only_a_list_of_known_chips_helps_against_a_key_that_was_probed(claims: SnpClaims) -> None:
    chips = OneOf(values=frozenset({bytes(64)}), source="the test")

    assert rate_snp(named("TEE.fail"), claims, SnpPolicy()) is Exposure.OPEN
    assert rate_snp(named("TEE.fail"), claims, SnpPolicy(chip_ids=chips)) is Exposure.MENDED


def test_every_id_and_alias_names_one_advisory_of_its_tee() -> None:
    names = [name for advisory in ADVISORIES for name in (advisory.id, *advisory.aliases)]

    assert len(set(names)) == len(names) > 10
    for advisory in ADVISORIES:
        for name in (advisory.id, *advisory.aliases):
            assert [find_advisory(name, tee) for tee in advisory.tees] == [advisory] * len(advisory.tees)
    assert find_advisory("AMD-SB-3015", Tee.TDX) is None
    assert find_advisory("INTEL-SA-00837", Tee.SNP) is None
    assert find_advisory("INTEL-SA-00837", Tee.TDX) is not None
    assert find_advisory("INTEL-SA-00837 ", Tee.TDX) is None


def test_every_advisory_says_what_it_protects_from_and_has_a_means_and_a_source() -> None:
    for advisory in ADVISORIES:
        means = (
            advisory.has_floors,
            bool(advisory.platform_info),
            bool(advisory.broken_products),
            advisory.needs_known_platform,
        )
        assert advisory.protects_from
        assert advisory.source
        assert sum(means) == 1, advisory.id
        assert advisory.has_floors or not advisory.floors


@pytest.mark.parametrize(
    "demand",
    [
        {"required_advisories": frozenset({"AMD-SB-9999"})},
        {"denied_advisories": frozenset({"EntrySign"})},  # an alias: policies hold ids
        {"advisory_floors": {"INTEL-SA-00837": {}}},
    ],
)
def test_a_policy_that_names_an_unknown_advisory_cannot_be_made(demand: dict) -> None:
    with pytest.raises(ValueError, match="is not the id of an advisory about snp"):
        SnpPolicy(**demand)
