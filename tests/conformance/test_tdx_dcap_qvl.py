"""TDX verdicts agree with dcap-qvl, but for the differences that docs/verification-differences.md explains."""

import json
import os
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from krunpy.attest.anchors import split_pem
from krunpy.attest.refusal import Refusal
from krunpy.attest.tdx_claims import TcbStatus
from krunpy.attest.tdx_evidence import read_tdx_evidence
from krunpy.attest.tdx_verify import verify_tdx
from krunpy.formats.tdx_collateral import TdxCollateral, pack_tdx_collateral
from krunpy.formats.tdx_quote import BodyType
from tests.fakes.intel import FakePlatform
from tests.fakes.intel_collateral import (
    isv_level,
    level,
    mint_collateral,
    mint_crl,
    module_signer,
    platform_level,
)
from tests.fakes.intel_pki import (
    CA_USAGE,
    COMPONENTS,
    NOW,
    PCK,
    PLATFORM_CA,
    ROOT,
    ROOT_CERT,
    anchors,
    mint_root,
    name,
)
from tests.vectors.tdx_cases import verify_case

dcap_qvl = pytest.importorskip("dcap_qvl", reason="dcap-qvl is not installed")

HOUSE = Path(__file__).resolve().parents[2]
FOLDER = Path(os.environ.get("KRUNPY_VECTORS") or HOUSE.parent / "shared" / "vectors")
DOCUMENT = (HOUSE / "docs" / "verification-differences.md").read_text()
FUTURE = {"this_update": datetime(2026, 6, 2, tzinfo=UTC)}
GOOD = FakePlatform()


def read_table(heading: str) -> dict[str, tuple[str, str]]:
    """Return, by case, what krunpy and dcap-qvl say, of the table below a heading."""
    section = DOCUMENT.split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (.+?) \| (.+?) \| (.+?) \| .+ \|$", section, re.MULTILINE)
    table = {case: (ours, theirs) for case, ours, theirs in rows if case not in {"case", "---"}}
    assert table
    return table


def ask_oracle(quote: bytes, collateral: bytes, root: bytes, now: datetime) -> str:
    try:
        parsed = dcap_qvl.QuoteCollateralV3.from_json(collateral.decode())
        return dcap_qvl.verify_with_root_ca(quote, parsed, root, int(now.timestamp())).status
    except ValueError as error:
        said = str(error).removeprefix("Verification failed:").strip()
        return f"refused: {said.splitlines()[0] if said else ''}"


def ask_both(quote: bytes, collateral: TdxCollateral | None = None) -> tuple[str, str]:
    collateral = collateral or mint_collateral()
    try:
        evidence = read_tdx_evidence(quote)
        claims = verify_tdx(evidence, anchors=anchors(), now=NOW, collateral=collateral)
        ours = str(claims.tcb.status)
    except Refusal as refusal:
        ours = f"refused: {refusal.code}"
    return ours, ask_oracle(quote, pack_tdx_collateral(collateral), mint_root(), NOW)


def differ(ours: str, theirs: str) -> bool:
    return ours.split(":", maxsplit=1)[0] != theirs.split(":", maxsplit=1)[0]


@pytest.mark.skipif(not FOLDER.is_dir(), reason="no attestation vectors: set KRUNPY_VECTORS to their folder")
def test_every_difference_on_the_vectors_is_explained() -> None:
    differences, compared = {}, 0
    for path in sorted(FOLDER.glob("tdx-*/*/case.json")):
        case, folder = json.loads(path.read_text()), path.parent
        if not case.get("collateral"):
            continue
        try:
            ours = str(verify_case(folder, case).tcb.status)
        except Refusal as refusal:
            ours = f"refused: {refusal.code}"
        (root,) = split_pem((folder / case["trust_anchor"]).read_bytes())
        theirs = ask_oracle(
            (folder / "quote.bin").read_bytes(),
            (folder / case["collateral"]).read_bytes(),
            root,
            datetime.fromisoformat(case["verify_time"]),
        )
        compared += 1
        if differ(ours, theirs):
            differences[path.parent.relative_to(FOLDER).as_posix()] = (ours, theirs)

    assert compared > 60
    assert differences == read_table("On the vectors")


def outer_type_5() -> bytes:
    raw = bytearray(GOOD.quote())
    raw[48 + 584 + 4 + 128] = 5
    return bytes(raw)


def made_up() -> dict[str, tuple[bytes, TdxCollateral | None]]:
    bound = GOOD.qe_report(bytes(range(32)))[-64:-32]
    below_root = FakePlatform(leaf={"issuer": name(ROOT), "signer": "root"})
    return {
        "outer certification type 5": (outer_type_5(), None),
        "QE report data with a tail": (FakePlatform(report_data=bound + b"\1" * 32).quote(), None),
        "PCK that may sign certificates": (FakePlatform(leaf={"usage": CA_USAGE}).quote(), None),
        "PCK of another organization": (FakePlatform(leaf={"subject": name(PCK, "Other")}).quote(), None),
        "PCK CRL of the future": (
            GOOD.quote(),
            mint_collateral(pck_crl=mint_crl(PLATFORM_CA, "ca", **FUTURE)),
        ),
        "QE identity signed by a PCK below the root": (
            GOOD.quote(),
            mint_collateral(identity_chain=(below_root.certificate, mint_root()), identity_signer="pck"),
        ),
    }


def test_every_difference_on_made_up_platforms_is_explained() -> None:
    answers = {case: ask_both(*given) for case, given in made_up().items()}

    assert answers == read_table("On made-up platforms")


@pytest.mark.parametrize(
    ("version", "body"), [(4, BodyType.TD_1_0), *((5, body) for body in BodyType)], ids=str
)
def test_both_read_every_body(version: int, body: BodyType) -> None:
    assert ask_both(GOOD.quote(version=version, body=body)) == ("UpToDate", "UpToDate")


STATUSES = [status for status in TcbStatus if "Relaunch" not in status]


@pytest.mark.parametrize("platform", STATUSES)
@pytest.mark.parametrize("module", ["UpToDate", "OutOfDate", "Revoked"])
@pytest.mark.parametrize("qe", ["UpToDate", "OutOfDate", "Revoked"])
@pytest.mark.parametrize("minor", [5, 3])
def test_both_converge_to_the_same_status(platform: str, module: str, qe: str, minor: int) -> None:
    identity = {
        "id": "TDX_01",
        **module_signer(),
        "tcbLevels": [isv_level(5, "UpToDate"), isv_level(3, module)],
    }
    levels = [platform_level(COMPONENTS, 13, bytes([5, 0, 6, *bytes(13)]), **level(platform))]
    collateral = mint_collateral(
        info={"tcbLevels": levels, "tdxModuleIdentities": [identity]},
        identity={"tcbLevels": [isv_level(4, qe)]},
    )
    launch = bytes([minor, 1, 6, *bytes(13)])

    ours, theirs = ask_both(GOOD.quote(version=5, body=BodyType.TD_1_5, tee_tcb_svn=launch), collateral)

    # dcap-qvl refuses Revoked, krunpy leaves that to the policy, which cannot accept it
    assert theirs == ours or (ours == "Revoked" and theirs.startswith("refused: TCB status is invalid"))


def test_neither_trusts_another_root() -> None:
    other = replace(ROOT_CERT, key="evil", signer="evil").der()
    theirs = ask_oracle(GOOD.quote(), pack_tdx_collateral(mint_collateral()), other, NOW)

    assert theirs.startswith("refused")
