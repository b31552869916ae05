"""Policies as JSON: strict defaults, known members only, nothing that turns simulation on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krunpy.attest.policy import OneOf, SnpPolicy
from krunpy.attest.policy_document import parse_policy
from krunpy.core.errors import FormatError
from krunpy.formats.snp_report import GuestPolicy, PlatformInfo, SigningKey
from krunpy.formats.snp_tcb import Product, Tcb


def parse(**document: object) -> SnpPolicy:
    return parse_policy(document, source="the test", accepts_simulated=False)


def test_an_empty_document_is_the_default_policy() -> None:
    assert parse() == SnpPolicy(source="the test")


def test_every_member_reaches_its_demand() -> None:
    policy = parse(
        allow_debug=True,
        allow_smt=False,
        require_single_socket=True,
        vmpl=[0, 1],
        min_abi=[1, 55],
        allow_mask_chip_key=True,
        allow_masked_chip=True,
        products=["Genoa"],
        signing_keys=["VCEK"],
        csp_ids=["CN=a"],
        min_tcb={"Milan": {"snp": 20}, "Turin": {"fmc": 1}},
        min_committed_tcb={"microcode": 5},
        min_launch_tcb={"bootloader": 4},
        require_platform_info={"alias_check_complete": True},
        forbid_platform_info={"smt_enabled": True},
        reject_unknown_platform_info=True,
        require_current_mit_vector="0x3",
        require_launch_mit_vector=1,
        min_firmware=[1, 55, 21],
        min_guest_svn=2,
        family_ids=["00" * 16],
        image_ids=["01" * 16],
        trusted_id_key_digests=["02" * 48],
        require_author_key=["03" * 48],
        chip_ids=["04" * 64],
        denied_chip_ids=["05" * 64],
        denied_keys=["06" * 32],
        require_crl=True,
        reject_provisional_firmware=True,
        report_ids=["07" * 32],
        migration_agents=["ff" * 32],
        require_advisories=["AMD-SB-3015", "EntrySign"],
        deny_advisories=["BadFuse"],
        advisory_floors={"RMPocalypse": {"Genoa": {"snp": 27}}},
    )

    def one_of(value: bytes) -> OneOf:
        return OneOf(values=frozenset({value}), source="the test")

    assert policy == SnpPolicy(
        source="the test",
        forbidden_policy=GuestPolicy.MIGRATE_MA | GuestPolicy.CXL_ALLOW | GuestPolicy.SMT,
        required_policy=GuestPolicy.SINGLE_SOCKET,
        vmpls=frozenset({0, 1}),
        min_abi=(1, 55),
        accepts_masked_chip_key=True,
        accepts_masked_chip=True,
        products=frozenset({Product.GENOA}),
        signing_keys=frozenset({SigningKey.VCEK}),
        csp_ids=one_of(b"CN=a"),
        min_reported_tcb={Product.MILAN: Tcb(snp=20), Product.TURIN: Tcb(fmc=1)},
        min_committed_tcb=dict.fromkeys(Product, Tcb(microcode=5)),
        min_launch_tcb=dict.fromkeys(Product, Tcb(bootloader=4)),
        required_platform_info=PlatformInfo.ALIAS_CHECK_COMPLETE,
        forbidden_platform_info=PlatformInfo.SMT_ENABLED,
        rejects_unknown_platform_info=True,
        required_current_mit_vector=3,
        required_launch_mit_vector=1,
        min_firmware=(1, 55, 21),
        min_guest_svn=2,
        family_ids=one_of(b"\0" * 16),
        image_ids=one_of(b"\1" * 16),
        id_key_digests=one_of(b"\2" * 48),
        author_key_digests=one_of(b"\3" * 48),
        chip_ids=one_of(b"\4" * 64),
        denied_chip_ids=frozenset({b"\5" * 64}),
        denied_keys=frozenset({b"\6" * 32}),
        requires_crl=True,
        rejects_provisional_firmware=True,
        report_ids=one_of(b"\7" * 32),
        migration_agents=one_of(b"\xff" * 32),
        required_advisories=frozenset({"AMD-SB-3015", "AMD-SB-3019"}),
        denied_advisories=frozenset({"arXiv-2605.12990"}),
        advisory_floors={"AMD-SB-3020": {Product.GENOA: Tcb(snp=27)}},
    )


@pytest.mark.parametrize(
    "document",
    [
        {"allow_simulated": True},
        {"accepts_simulated": True},
        {"allow_debug": 1},
        {"allow_debug": None},
        {"vmpl": 4},
        {"vmpl": []},
        {"vmpl": True},
        {"vmpl": {}},
        {"min_tcb": {"snp": 256}},
        {"min_tcb": {"ucode": 1}},
        {"min_tcb": {"Rome": {"snp": 1}}},
        {"min_tcb": {"Milan": {"snp": 1}, "snp": 2}},
        {"products": ["Rome"]},
        {"signing_keys": ["NONE"]},
        {"require_platform_info": {"alias_check_complete": False}},
        {"require_platform_info": {"unheard_of": True}},
        {"require_current_mit_vector": "3"},
        {"require_current_mit_vector": "0xg"},
        {"require_current_mit_vector": -1},
        {"min_firmware": [1, 55]},
        {"min_abi": [1, 256]},
        {"chip_ids": ["AB" * 64]},
        {"chip_ids": ["ab"]},
        {"chip_ids": "ab"},
        {"require_advisories": ["AMD-SB-9999"]},
        {"require_advisories": ["INTEL-SA-00837"]},
        {"deny_advisories": "AMD-SB-3015"},
        {"advisory_floors": {"AMD-SB-3015": {"snp": 1}}},
        {"advisory_floors": {"AMD-SB-3020": {"Genoa": {"snp": 256}}}},
        {"advisory_floors": {"AMD-SB-3020": {"Genoa": {}}}},
        {"advisory_floors": {"AMD-SB-3020": {"snp": 9}, "RMPocalypse": {"snp": 8}}},
        {"reject_provisional_firmware": 1},
        {"report_ids": ["00"]},
        {"snp": {}},
    ],
)
def test_a_document_with_an_unknown_or_wrong_member_is_refused(document: dict) -> None:
    with pytest.raises(FormatError):
        parse(**document)


MEMBERS = [
    "allow_debug",
    "vmpl",
    "min_tcb",
    "products",
    "chip_ids",
    "require_platform_info",
    "min_firmware",
    "require_current_mit_vector",
    "require_advisories",
    "advisory_floors",
]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(MEMBERS), VALUES))
def test_any_document_is_a_policy_or_a_format_error(document: dict) -> None:
    try:
        policy = parse(**document)
    except FormatError:
        return
    assert isinstance(policy, SnpPolicy)
