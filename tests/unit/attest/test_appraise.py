"""The appraisal: every demand of a policy and every reference value is a check that can fail alone."""

from dataclasses import fields, replace

import pytest

from krunpy.attest.appraise import Expectations, appraise
from krunpy.attest.policy import OneOf, SnpPolicy, Unchecked
from krunpy.attest.refusal import Refusal, Stage
from krunpy.attest.verdict import Verdict, make_refused_verdict
from krunpy.attest.verify import SnpClaims, verify_snp
from krunpy.core.octets import Digest48, HostData, LaunchDigest, ReportData
from krunpy.formats.snp_report import GuestPolicy, PlatformInfo, SigningKey
from krunpy.formats.snp_tcb import Product, Tcb
from tests.fakes import amd
from tests.fakes.amd import NOW, FakeChip

REPORT_DATA, MEASUREMENT, HOST_DATA = b"\x01" * 64, b"\x02" * 48, b"\x03" * 32
ID_KEY, AUTHOR_KEY = b"\x04" * 48, b"\x05" * 48


@pytest.fixture(scope="module")
def claims() -> SnpClaims:
    report = FakeChip().evidence(
        version=5,
        report_data=ReportData(REPORT_DATA),
        measurement=LaunchDigest(MEASUREMENT),
        host_data=HostData(HOST_DATA),
        id_key_digest=Digest48(ID_KEY),
        author_key_digest=Digest48(AUTHOR_KEY),
        has_author_key=True,
        family_id=b"\x06" * 16,
        image_id=b"\x07" * 16,
        guest_svn=3,
        report_id=b"\x08" * 32,
        current_firmware=(1, 55, 22),
        committed_firmware=(1, 55, 21),
        current_mit_vector=0x3,
        launch_mit_vector=0x1,
    )
    return verify_snp(report, anchors=amd.anchors(), now=NOW)


def one_of(*values: bytes) -> OneOf:
    return OneOf(values=frozenset(values), source="the test")


def expectations(**changes) -> Expectations:
    expected = Expectations(
        report_data=one_of(REPORT_DATA), launch_digests=one_of(MEASUREMENT), host_data=one_of(HOST_DATA)
    )
    return replace(expected, **changes)


def failures(verdict: Verdict) -> list[str]:
    assert verdict.trusted is not bool(verdict.failures)
    return [check.name for check in verdict.failures]


def judge(
    claims: SnpClaims, policy: SnpPolicy | None = None, report: dict | None = None, **changes
) -> list[str]:
    seen = replace(claims, report=replace(claims.report, **(report or {})))
    return failures(appraise(seen, expected=expectations(**changes), policy=policy or SnpPolicy()))


def test_what_was_expected_is_trusted(claims: SnpClaims) -> None:
    assert judge(claims) == []


def test_every_check_says_what_was_seen_and_wanted_and_why(claims: SnpClaims) -> None:
    verdict = appraise(claims, expected=expectations(), policy=SnpPolicy())

    assert len(verdict.checks) > 40
    assert len({check.name for check in verdict.checks}) == len(verdict.checks)
    assert all(check.seen and check.wanted and check.source for check in verdict.checks)


REFERENCE = {
    "report-data": {"report_data": one_of(b"\x09" * 64)},
    "measurement": {"launch_digests": one_of(b"\x09" * 48)},
    "host-data": {"host_data": one_of(b"\x09" * 32)},
}


@pytest.mark.parametrize("name", REFERENCE)
def test_another_reference_value_fails_its_check_alone(claims: SnpClaims, name: str) -> None:
    assert judge(claims, **REFERENCE[name]) == [name]


@pytest.mark.parametrize("name", ["report_data", "launch_digests", "host_data"])
def test_an_empty_set_of_reference_values_accepts_nothing(claims: SnpClaims, name: str) -> None:
    assert len(judge(claims, **{name: one_of()})) == 1


def test_one_of_several_reference_values_is_enough(claims: SnpClaims) -> None:
    digests = [bytes([index]) * 48 for index in range(1, 9)]

    assert judge(claims, launch_digests=one_of(*digests)) == []


@pytest.mark.parametrize("field", ["report_data", "measurement", "host_data"])
@pytest.mark.parametrize("at", [0, -1])
def test_one_bit_of_a_reference_value_is_enough_to_fail(claims: SnpClaims, field: str, at: int) -> None:
    value = bytearray(getattr(claims.report, field))
    value[at] ^= 1
    changed = type(getattr(claims.report, field))(bytes(value))

    assert judge(claims, report={field: changed}) == [field.replace("_", "-")]


def test_host_data_can_be_left_open_and_the_verdict_says_why(claims: SnpClaims) -> None:
    open_host_data = Unchecked(reason="the manifest lies in the initrd")

    verdict = appraise(claims, expected=expectations(host_data=open_host_data), policy=SnpPolicy())

    (check,) = [check for check in verdict.checks if check.name == "host-data"]
    assert (check.wanted, check.source) == ("any", "the manifest lies in the initrd")


WEAK = GuestPolicy.RESERVED_ONE
GUEST = {
    "policy-debug": {"policy": WEAK | GuestPolicy.DEBUG},
    "policy-migrate-ma": {"policy": WEAK | GuestPolicy.MIGRATE_MA},
    "policy-cxl-allow": {"policy": WEAK | GuestPolicy.CXL_ALLOW},
    "vmpl": {"vmpl": 1},
    "mask-chip-key": {"masks_chip_key": True},
}


@pytest.mark.parametrize("name", GUEST)
def test_the_default_policy_refuses_a_weakened_guest(claims: SnpClaims, name: str) -> None:
    assert judge(claims, report=GUEST[name]) == [name]


def test_a_report_that_the_host_asked_for_is_refused(claims: SnpClaims) -> None:
    assert judge(claims, report={"vmpl": 0xFFFFFFFF}) == ["vmpl"]


FLOOR = {Product.MILAN: Tcb(snp=21)}
DEMANDS = {
    "policy-smt": {"forbidden_policy": GuestPolicy.SMT},
    "policy-single-socket": {"required_policy": GuestPolicy.SINGLE_SOCKET},
    "policy-mem-aes-256-xts": {"required_policy": GuestPolicy.MEM_AES_256_XTS},
    "policy-rapl-dis": {"required_policy": GuestPolicy.RAPL_DIS},
    "policy-ciphertext-hiding-dram": {"required_policy": GuestPolicy.CIPHERTEXT_HIDING_DRAM},
    "policy-page-swap-disable": {"required_policy": GuestPolicy.PAGE_SWAP_DISABLE},
    "policy-abi": {"min_abi": (0, 31)},
    "vmpl": {"vmpls": frozenset({1, 2})},
    "guest-svn": {"min_guest_svn": 4},
    "tcb-reported": {"min_reported_tcb": FLOOR},
    "tcb-committed": {"min_committed_tcb": FLOOR},
    "tcb-launch": {"min_launch_tcb": FLOOR},
    "platform-ecc-enabled": {"forbidden_platform_info": PlatformInfo.ECC_ENABLED},
    "platform-smt-enabled": {"forbidden_platform_info": PlatformInfo.SMT_ENABLED},
    "platform-tsme-enabled": {"required_platform_info": PlatformInfo.TSME_ENABLED},
    "platform-rapl-disabled": {"required_platform_info": PlatformInfo.RAPL_DISABLED},
    "platform-ciphertext-hiding-enabled": {"required_platform_info": PlatformInfo.CIPHERTEXT_HIDING_ENABLED},
    "platform-alias-check-complete": {"forbidden_platform_info": PlatformInfo.ALIAS_CHECK_COMPLETE},
    "platform-iommu-write-safe": {"required_platform_info": PlatformInfo.IOMMU_WRITE_SAFE},
    "platform-tio-enabled": {"required_platform_info": PlatformInfo.TIO_ENABLED},
    "mitigations-current": {"required_current_mit_vector": 0x7},
    "mitigations-launch": {"required_launch_mit_vector": 0x3},
    "firmware-committed": {"min_firmware": (1, 55, 22)},
    "firmware-provisional": {"rejects_provisional_firmware": True},
    "report-id": {"report_ids": one_of(b"\x09" * 32)},
    "migration-agent": {"migration_agents": one_of(b"\x09" * 32)},
    "advisory-amd-sb-3019": {"required_advisories": frozenset({"AMD-SB-3019"})},
    "advisory-amd-sb-3020": {"required_advisories": frozenset({"AMD-SB-3020"})},
    "advisory-arxiv-2605.12990": {"denied_advisories": frozenset({"arXiv-2605.12990"})},
    "advisory-tee.fail": {"denied_advisories": frozenset({"TEE.fail"})},
    "product": {"products": frozenset({Product.GENOA, Product.TURIN})},
    "signing-key": {"signing_keys": frozenset({SigningKey.VLEK})},
    "chip-id": {"chip_ids": one_of(b"\x09" * 64)},
    "chip-denied": {"denied_chip_ids": frozenset({FakeChip().chip_id})},
    "family-id": {"family_ids": one_of(b"\x09" * 16)},
    "image-id": {"image_ids": one_of(b"\x09" * 16)},
    "id-key": {"id_key_digests": one_of(b"\x09" * 48)},
    "author-key": {"author_key_digests": one_of(b"\x09" * 48)},
    "revocation": {"requires_crl": True},
}


@pytest.mark.parametrize("name", DEMANDS)
def test_a_demand_that_is_not_met_fails_its_check_alone(claims: SnpClaims, name: str) -> None:
    assert judge(claims, SnpPolicy(**DEMANDS[name])) == [name]


# each of these has a test of its own below
OWN_TESTS = {
    "firmware-current",
    "platform-unknown",
    "key-denied",
    "csp-id",
    "not-simulated-here",
    "advisory-amd-sb-3015",
}


def test_every_check_of_a_verdict_has_a_test_that_makes_it_fail(claims: SnpClaims) -> None:
    verdict = appraise(claims, expected=expectations(), policy=SnpPolicy())

    assert {check.name for check in verdict.checks} == {*REFERENCE, *GUEST, *DEMANDS, *OWN_TESTS}


def test_the_alias_check_is_the_mitigation_of_badram(claims: SnpClaims) -> None:
    policy = SnpPolicy(required_advisories=frozenset({"AMD-SB-3015"}))
    bits = claims.report.platform_info

    assert judge(claims, policy) == []
    assert judge(claims, policy, {"platform_info": bits & ~PlatformInfo.ALIAS_CHECK_COMPLETE}) == [
        "advisory-amd-sb-3015"
    ]


def test_firmware_is_provisional_if_the_tcb_is_though_the_version_is_not(claims: SnpClaims) -> None:
    policy = SnpPolicy(rejects_provisional_firmware=True)
    committed = {"committed_firmware": claims.report.current_firmware}
    rolled = replace(claims, committed_tcb=replace(claims.committed_tcb, snp=1))

    assert judge(claims, policy, committed) == []
    assert judge(rolled, policy, committed) == ["firmware-provisional"]


def test_a_missing_revocation_list_is_no_evidence_against_a_report(claims: SnpClaims) -> None:
    policy = SnpPolicy(requires_crl=True)
    weak = replace(claims, report=replace(claims.report, vmpl=1))

    assert appraise(claims, expected=expectations(), policy=policy).could_not_check
    assert not appraise(weak, expected=expectations(), policy=policy).could_not_check
    assert appraise(weak, expected=expectations(), policy=policy).heading == "refused: vmpl"
    assert appraise(claims, expected=expectations(), policy=policy).code == "revocation"
    assert not appraise(claims, expected=expectations(), policy=SnpPolicy()).could_not_check


@pytest.mark.parametrize("component", [field.name for field in fields(Tcb)])
def test_every_component_of_a_floor_counts(claims: SnpClaims, component: str) -> None:
    floor = {Product.MILAN: replace(claims.reported_tcb, **{component: 255})}

    assert judge(claims, SnpPolicy(min_reported_tcb=floor)) == ["tcb-reported"]


def test_a_floor_of_another_product_does_not_count(claims: SnpClaims) -> None:
    assert judge(claims, SnpPolicy(min_reported_tcb={Product.GENOA: Tcb(snp=255)})) == []


def test_firmware_is_compared_as_a_version(claims: SnpClaims) -> None:
    assert judge(claims, SnpPolicy(min_firmware=(1, 54, 99))) == []
    assert judge(claims, SnpPolicy(min_firmware=(2, 0, 0))) == ["firmware-current", "firmware-committed"]


def test_unknown_platform_bits_are_refused_only_where_the_policy_says_so(claims: SnpClaims) -> None:
    report = {"platform_info": 1 << 40}

    assert judge(claims, report=report) == []
    assert judge(claims, SnpPolicy(rejects_unknown_platform_info=True), report) == ["platform-unknown"]


def test_a_denied_key_is_refused(claims: SnpClaims) -> None:
    assert judge(claims, SnpPolicy(denied_keys=frozenset({claims.key_digest}))) == ["key-denied"]


def test_an_author_key_that_is_not_enabled_is_refused_where_one_is_wanted(claims: SnpClaims) -> None:
    policy = SnpPolicy(author_key_digests=one_of(AUTHOR_KEY))

    assert judge(claims, policy) == []
    assert judge(claims, policy, {"has_author_key": False}) == ["author-key"]


def test_another_cloud_is_refused_where_the_policy_names_one() -> None:
    vlek = verify_snp(FakeChip(kind=SigningKey.VLEK).evidence(), anchors=amd.anchors(), now=NOW)
    vlek = replace(vlek, report=replace(vlek.report, report_data=ReportData(REPORT_DATA)))
    expected = expectations(launch_digests=one_of(bytes(48)), host_data=one_of(bytes(32)))

    here = appraise(vlek, expected=expected, policy=SnpPolicy(csp_ids=one_of(b"CN=fake")))
    there = appraise(vlek, expected=expected, policy=SnpPolicy(csp_ids=one_of(b"CN=other")))

    assert here.trusted
    assert failures(there) == ["csp-id"]


def test_what_a_policy_allows_is_accepted(claims: SnpClaims) -> None:
    policy = SnpPolicy(
        forbidden_policy=GuestPolicy(0), vmpls=frozenset({1}), accepts_masked_chip_key=True, min_guest_svn=3
    )
    report = {"policy": WEAK | GuestPolicy.DEBUG, "vmpl": 1, "masks_chip_key": True}

    assert judge(claims, policy, report) == []


def test_simulated_claims_are_refused_unless_the_mode_accepts_them(claims: SnpClaims) -> None:
    simulated = replace(claims, simulated=True)

    production = appraise(simulated, expected=expectations(), policy=SnpPolicy())
    development = appraise(simulated, expected=expectations(), policy=SnpPolicy(accepts_simulated=True))

    assert failures(production) == ["not-simulated-here"]
    assert development.trusted
    assert development.heading.startswith("SIMULATED - NOT CONFIDENTIAL")
    assert production.to_dict()["code"] == "not-simulated-here"


def test_a_verdict_without_checks_is_not_trusted() -> None:
    assert not Verdict(tee="snp", simulated=False, checks=()).trusted


def test_a_refusal_becomes_a_verdict_with_its_code() -> None:
    refusal = Refusal(Stage.CHAIN, "chain-root", why="seen another root", next="look")

    document = make_refused_verdict(refusal, tee="snp", simulated=False).to_dict()

    assert document["trusted"] is False
    assert document["code"] == "chain-root"
    assert document["checks"][0]["stage"] == "chain"
    assert document["could_not_check"] is False


@pytest.mark.parametrize("code", ["crl-missing", "crl-stale", "collateral-stale"])
def test_a_refusal_for_want_of_something_fresh_is_no_evidence_against_it(code: str) -> None:
    verdict = make_refused_verdict(Refusal(Stage.REVOCATION, code, why="late"), tee="snp", simulated=False)

    assert (verdict.trusted, verdict.could_not_check) == (False, True)
    assert verdict.heading == f"could not check: {code}"
