"""The TCB of a platform: which level it reaches, what an old module or QE makes of it, when to relaunch.

Each table row is a case of Intel's own evaluation (EvaluateTcb.cpp, TDRelaunchCheck.cpp).
"""

import json
from datetime import UTC, datetime

import pytest

from krunpy.attest.refusal import Refusal, Stage
from krunpy.attest.tdx_claims import TcbStatus, TdxTcb
from krunpy.formats.tdx_quote import BodyType
from tests.fakes.intel import TEE_TCB_SVN, FakePlatform
from tests.fakes.intel_collateral import (
    isv_level,
    level,
    mint_collateral,
    module_signer,
    platform_level,
    tcb_info,
)
from tests.fakes.intel_pki import COMPONENTS, integer, octets, pairs, tcb_entries

S = TcbStatus
ISV = [S.UP_TO_DATE, S.OUT_OF_DATE, S.REVOKED]


def svn(*first: int) -> bytes:
    return bytes(first).ljust(16, b"\0")


def evaluate(platform: FakePlatform | None = None, *, collateral: dict | None = None, **td: object) -> TdxTcb:
    claims = (platform or FakePlatform()).claims(collateral=mint_collateral(**(collateral or {})), **td)
    assert claims.tcb is not None
    return claims.tcb


def refused(
    code: str, platform: FakePlatform | None = None, *, collateral: dict | None = None, **td: object
) -> None:
    with pytest.raises(Refusal) as caught:
        evaluate(platform, collateral=collateral, **td)
    assert (caught.value.stage, caught.value.code) == (Stage.TCB, code)


def with_pck(**levels: int) -> FakePlatform:
    """Return a platform whose PCK says other levels: c1 to c16, pce."""
    entries = tcb_entries()
    for name, value in levels.items():
        entries["2.17" if name == "pce" else f"2.{name[1:]}"] = integer(value)
    return FakePlatform(sgx={"2": pairs(entries)})


def one_level(status: str) -> dict:
    """Return a TCB Info whose platform level has this status."""
    return {"info": {"tcbLevels": [platform_level(COMPONENTS, 13, svn(5, 0, 6), **level(status))]}}


def one_module(status: str) -> list[dict]:
    return [{"id": "TDX_01", **module_signer(), "tcbLevels": [isv_level(5, status)]}]


# Which level.


@pytest.mark.parametrize("index", range(1, 17))
def test_every_component_of_the_pck_counts(index: int) -> None:
    wanted = bytes([*COMPONENTS[: index - 1], COMPONENTS[index - 1] + 1, *COMPONENTS[index:]])
    levels = [
        platform_level(wanted, 13, svn(5, 0, 6), **level("UpToDate")),
        platform_level(COMPONENTS, 13, svn(5, 0, 6), **level("ConfigurationNeeded")),
    ]

    assert evaluate(collateral={"info": {"tcbLevels": levels}}).status is S.CONFIGURATION_NEEDED
    assert evaluate(with_pck(**{f"c{index}": wanted[index - 1]})).status is S.UP_TO_DATE


@pytest.mark.parametrize("index", range(2, 16))
def test_every_tdx_component_but_the_modules_counts(index: int) -> None:
    seen = bytearray(svn(5, 1, 6, *[9] * 13))
    seen[index] = 8
    levels = [platform_level(COMPONENTS, 13, svn(5, 0, *[9] * 14), **level("UpToDate"))]
    collateral = {"info": {"tcbLevels": levels}}

    refused("tcb-platform", collateral=collateral, tee_tcb_svn=bytes(seen))
    seen[2:] = [9] * 14
    assert evaluate(collateral=collateral, tee_tcb_svn=bytes(seen)).status is S.UP_TO_DATE


def test_the_modules_own_version_counts_by_its_identity_and_not_by_the_platforms_levels() -> None:
    levels = [platform_level(COMPONENTS, 13, svn(9, 9, 6), **level("UpToDate"))]

    assert evaluate(collateral={"info": {"tcbLevels": levels}}).status is S.UP_TO_DATE


@pytest.mark.parametrize("seen", [svn(4, 0, 6), svn(5, 0, 5)], ids=["module", "component"])
def test_a_module_without_an_identity_counts_by_the_platforms_levels(seen: bytes) -> None:
    assert evaluate(tee_tcb_svn=svn(5, 0, 6)).status is S.UP_TO_DATE
    assert evaluate(tee_tcb_svn=svn(5, 0, 6)).module is None
    assert evaluate(tee_tcb_svn=seen).status is S.OUT_OF_DATE


def test_the_pcesvn_counts() -> None:
    assert evaluate(with_pck(pce=12)).status is S.OUT_OF_DATE
    refused("tcb-platform", with_pck(pce=10))


def test_the_first_level_that_is_reached_counts() -> None:
    assert evaluate(with_pck(c1=6)).status is S.SW_HARDENING_NEEDED
    assert evaluate(with_pck(c1=5)).status is S.OUT_OF_DATE


@pytest.mark.parametrize("pck", [with_pck(c1=4), with_pck(c2=4), with_pck(c8=4)])
def test_a_platform_below_every_level_is_refused(pck: FakePlatform) -> None:
    refused("tcb-platform", pck)


def test_components_and_not_the_cpu_svn_are_compared() -> None:
    # they are the same in Intel's certificates; the components are what Intel's own library compares
    platform = FakePlatform(sgx={"2": pairs(tcb_entries() | {"2.18": octets(bytes(16))})})

    assert evaluate(platform).status is S.UP_TO_DATE


# Module and QE.


def test_a_module_that_intel_does_not_name_is_refused() -> None:
    refused("tcb-module", tee_tcb_svn=svn(5, 9, 6))
    refused("tcb-module", tee_tcb_svn=svn(5, 0x10, 6))


def test_a_tcb_info_without_identities_knows_no_module_of_a_later_version() -> None:
    info = tcb_info()
    del info["tdxModuleIdentities"]

    refused("tcb-module", collateral={"info": json.dumps(info).encode()})


def test_the_id_of_a_module_is_hexadecimal_in_either_case() -> None:
    identities = [{"id": "tdx_1a", **module_signer(), "tcbLevels": [isv_level(5, "UpToDate")]}]

    assert (
        evaluate(collateral={"info": {"tdxModuleIdentities": identities}}, tee_tcb_svn=svn(5, 0x1A, 6)).module
        is S.UP_TO_DATE
    )


@pytest.mark.parametrize(
    ("minor", "status"), [(6, S.UP_TO_DATE), (4, S.OUT_OF_DATE), (3, S.OUT_OF_DATE), (2, S.REVOKED)]
)
def test_the_minor_version_of_the_module_gives_its_status(minor: int, status: TcbStatus) -> None:
    tcb = evaluate(tee_tcb_svn=svn(minor, 1, 6))

    assert (tcb.module, tcb.status, tcb.platform) == (status, status, S.UP_TO_DATE)


def test_a_module_below_every_level_is_refused() -> None:
    refused("tcb-svn", tee_tcb_svn=svn(1, 1, 6))


@pytest.mark.parametrize(("seen", "status"), [(5, S.UP_TO_DATE), (3, S.OUT_OF_DATE), (2, S.REVOKED)])
def test_the_version_of_the_qe_gives_its_status(seen: int, status: TcbStatus) -> None:
    tcb = evaluate(FakePlatform(qe={"isv_svn": seen.to_bytes(2, "little")}))

    assert (tcb.qe, tcb.status, tcb.module) == (status, status, S.UP_TO_DATE)


def test_a_qe_below_every_level_is_refused() -> None:
    refused("tcb-svn", FakePlatform(qe={"isv_svn": b"\1\0"}))


CONVERGED = {
    S.UP_TO_DATE: S.OUT_OF_DATE,
    S.SW_HARDENING_NEEDED: S.OUT_OF_DATE,
    S.CONFIGURATION_NEEDED: S.OUT_OF_DATE_CONFIGURATION_NEEDED,
    S.CONFIGURATION_AND_SW_HARDENING_NEEDED: S.OUT_OF_DATE_CONFIGURATION_NEEDED,
    S.OUT_OF_DATE: S.OUT_OF_DATE,
    S.OUT_OF_DATE_CONFIGURATION_NEEDED: S.OUT_OF_DATE_CONFIGURATION_NEEDED,
    S.REVOKED: S.REVOKED,
}


@pytest.mark.parametrize("platform", CONVERGED)
@pytest.mark.parametrize("module", ISV)
@pytest.mark.parametrize("qe", ISV)
def test_the_statuses_converge(platform: TcbStatus, module: TcbStatus, qe: TcbStatus) -> None:
    collateral = one_level(platform)
    collateral["info"]["tdxModuleIdentities"] = one_module(module)
    collateral["identity"] = {"tcbLevels": [isv_level(4, qe)]}

    tcb = evaluate(collateral=collateral)

    expected = platform
    if S.OUT_OF_DATE in (module, qe):
        expected = CONVERGED[platform]
    if S.REVOKED in (module, qe):
        expected = S.REVOKED
    assert (tcb.status, tcb.platform, tcb.module, tcb.qe) == (expected, platform, module, qe)


@pytest.mark.parametrize("status", ["Fine", "uptodate", "", "TDRelaunchAdvised"])
def test_a_status_that_is_not_known_is_refused(status: str) -> None:
    refused("tcb-status", collateral=one_level(status))
    refused("tcb-status", collateral={"info": {"tdxModuleIdentities": one_module(status)}})
    refused("tcb-status", collateral={"identity": {"tcbLevels": [isv_level(4, status)]}})


@pytest.mark.parametrize("status", ["ConfigurationNeeded", "SWHardeningNeeded"])
def test_a_status_that_a_module_or_qe_cannot_have_is_refused(status: str) -> None:
    refused("tcb-status", collateral={"info": {"tdxModuleIdentities": one_module(status)}})
    refused("tcb-status", collateral={"identity": {"tcbLevels": [isv_level(4, status)]}})


def test_advisories_and_the_oldest_date_are_those_of_the_matched_levels() -> None:
    tcb = evaluate(with_pck(c1=5), tee_tcb_svn=svn(3, 1, 6))

    assert tcb.advisory_ids == {"INTEL-SA-1", "INTEL-SA-2"}
    assert tcb.tcb_date == datetime(2023, 6, 1, tzinfo=UTC)


@pytest.mark.parametrize(("info", "identity"), [(7, 9), (9, 7)])
def test_the_lower_evaluation_number_counts(info: int, identity: int) -> None:
    collateral = {
        "info": {"tcbEvaluationDataNumber": info},
        "identity": {"tcbEvaluationDataNumber": identity},
    }

    assert evaluate(collateral=collateral).evaluation_number == 7


# Relaunch.


@pytest.mark.parametrize("body", [BodyType.TD_1_5, BodyType.TD_1_5_EXTENDED])
def test_a_td_that_outlived_an_update_is_advised_to_relaunch(body: BodyType) -> None:
    tcb = evaluate(version=5, body=body, tee_tcb_svn=svn(3, 1, 6), tee_tcb_svn_2=TEE_TCB_SVN)

    assert (tcb.status, tcb.platform, tcb.module) == (S.TD_RELAUNCH_ADVISED, S.UP_TO_DATE, S.OUT_OF_DATE)


@pytest.mark.parametrize(
    ("platform", "expected"),
    {
        S.SW_HARDENING_NEEDED: S.TD_RELAUNCH_ADVISED,
        S.CONFIGURATION_NEEDED: S.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED,
        S.CONFIGURATION_AND_SW_HARDENING_NEEDED: S.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED,
        S.OUT_OF_DATE: S.OUT_OF_DATE,
        S.OUT_OF_DATE_CONFIGURATION_NEEDED: S.OUT_OF_DATE_CONFIGURATION_NEEDED,
        S.REVOKED: S.REVOKED,
    }.items(),
)
def test_a_relaunch_helps_only_where_all_else_is_current(platform: TcbStatus, expected: TcbStatus) -> None:
    td = {"tee_tcb_svn": svn(3, 1, 6), "tee_tcb_svn_2": TEE_TCB_SVN}

    assert evaluate(version=5, body=BodyType.TD_1_5, collateral=one_level(platform), **td).status is expected


def test_configuration_that_only_the_platform_of_now_needs_is_told() -> None:
    levels = [
        platform_level(COMPONENTS, 13, svn(5, 0, 6), **level("ConfigurationNeeded")),
        platform_level(COMPONENTS, 13, svn(5, 0, 5), **level("OutOfDate")),
    ]
    td = {"tee_tcb_svn": svn(5, 1, 5), "tee_tcb_svn_2": svn(5, 1, 6)}

    tcb = evaluate(version=5, body=BodyType.TD_1_5, collateral={"info": {"tcbLevels": levels}}, **td)

    assert tcb.status is S.TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED


def test_a_current_launch_stays_current_whatever_runs_now() -> None:
    td = {"tee_tcb_svn": TEE_TCB_SVN, "tee_tcb_svn_2": svn(3, 1, 6)}

    assert evaluate(version=5, body=BodyType.TD_1_5, **td).status is S.UP_TO_DATE


def test_a_module_of_now_that_intel_does_not_name_is_refused() -> None:
    refused("tcb-module", version=5, body=BodyType.TD_1_5, tee_tcb_svn_2=svn(5, 9, 6))


def test_a_revoked_launch_is_not_mended_by_a_relaunch() -> None:
    td = {"tee_tcb_svn": svn(2, 1, 6), "tee_tcb_svn_2": TEE_TCB_SVN}

    assert evaluate(version=5, body=BodyType.TD_1_5, **td).status is S.REVOKED


def test_an_outdated_qe_is_not_mended_by_a_relaunch() -> None:
    td = {"tee_tcb_svn": svn(3, 1, 6), "tee_tcb_svn_2": TEE_TCB_SVN}
    platform = FakePlatform(qe={"isv_svn": b"\3\0"})

    assert evaluate(platform, version=5, body=BodyType.TD_1_5, **td).status is S.OUT_OF_DATE
