"""`krunpy evidence show` and `verify`, as a user sees them: the exit status, and what is printed."""

import base64
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from krunpy.cli import evidence_words
from krunpy.cli.collateral_cache import open_collateral_cache
from krunpy.client.collateral_evidence import list_needed
from krunpy.client.collateral_item import Vcek
from krunpy.core.octets import HostData, ReportData
from krunpy.core.settings import load_settings
from krunpy.formats.snp_certs import CertKind, pack_cert_table
from krunpy.formats.snp_report import GuestPolicy
from krunpy.tee.authority import open_authority
from krunpy.tee.software import UnsafeSoftwareTee
from tests.fakes import amd
from tests.fakes.amd import FakeChip
from tests.fakes.azure import NONCE, make_document

VECTORS = Path(
    os.environ.get("KRUNPY_VECTORS") or Path(__file__).resolve().parents[3].parent / "shared" / "vectors"
)
needs_vectors = pytest.mark.skipif(
    "KRUNPY_VECTORS" not in os.environ and not VECTORS.is_dir(),
    reason="no attestation vectors: set KRUNPY_VECTORS to their folder",
)
CHIP = FakeChip()


@pytest.fixture(autouse=True)
def _has_a_cache_of_its_own(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KRUNPY_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))


def run(*words: str) -> int:
    status = evidence_words.run_words(list(words))
    assert status is not None
    return status


# --- real hardware, through the command line


def case(name: str) -> tuple[str, ...]:
    folder = VECTORS / name
    about = json.loads((folder / "case.json").read_text())
    words: tuple[str, ...] = ("--at", about["verify_time"])
    if about["kind"] == "snp":
        return (
            str(folder / "report.bin"),
            *words,
            "--vek",
            str(folder / "vek.der"),
            "--chain",
            str(folder / "chain.pem"),
        )
    return (str(folder / "quote.bin"), *words, "--collateral", str(folder / about["collateral"]))


@needs_vectors
@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("snp-real/milan-v2-virtee", 0),
        ("snp-real/oak-turin-oc", 0),
        ("snp-real/genoa-v3-coco-siena", 0),
        ("snp-real/milan-v2-google", 3),
        ("snp-real/milan-vlek-coco", 3),
        ("snp-real/milan-vlek-coco-expired", 4),
        ("snp-mutated/virtee-flip-measurement", 4),
        ("snp-mutated/siena-milan-chain", 4),
        ("snp-mutated/virtee-swapped-vcek", 4),
        ("snp-mutated/virtee-truncated", 4),
        ("snp-mutated/virtee-trailing", 4),
        ("snp-synth/ok-milan-v3", 4),  # its root is nobody's
        ("tdx-real/phala-v4-B", 0),
        ("tdx-real/automata-ali-v5-F", 3),
        ("tdx-real/automata-ali-v5-C", 3),
        ("tdx-mutated/phala-flip-mrtd", 4),
        ("tdx-synth/ok-v4", 4),
    ],
)
def test_real_evidence_has_its_exit_status(name: str, status: int) -> None:
    assert run("verify", *case(name)) == status


@needs_vectors
def test_real_evidence_without_what_it_is_checked_with_exits_5() -> None:
    report, quote = VECTORS / "snp-real/milan-v2-virtee/report.bin", VECTORS / "tdx-real/phala-v4-B/quote.bin"

    assert run("verify", str(report)) == 5
    assert run("verify", str(quote), "--at", "2025-07-01") == 5


@needs_vectors
def test_what_was_not_given_is_said_and_not_passed_over(capsys: pytest.CaptureFixture[str]) -> None:
    words = case("snp-real/milan-v2-virtee")

    assert run("verify", *words) == 0
    said = capsys.readouterr().out
    assert run("verify", *words, "--json") == 0
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["data"]["checks"]}

    assert said.startswith("trusted, but not checked: report-data, measurement\n")
    assert [checks[name]["wanted"] for name in ("report-data", "measurement")] == ["any", "any"]
    assert checks["report-data"]["source"] == "none was given: --nonce or --report-data"


@needs_vectors
def test_what_was_given_is_checked(capsys: pytest.CaptureFixture[str]) -> None:
    words = case("snp-real/milan-v2-virtee")
    raw = (VECTORS / "snp-real/milan-v2-virtee/report.bin").read_bytes()
    exact = ("--report-data", raw[0x50:0x90].hex(), "--measurement", raw[0x90:0xC0].hex())

    assert run("verify", *words, *exact) == 0
    assert capsys.readouterr().out.startswith("trusted\n")
    assert run("verify", *words, *exact[:2], "--measurement", "00" * 48) == 3
    assert "refused: measurement" in capsys.readouterr().out
    assert run("verify", *words, *exact[2:], "--nonce", "00") == 3


@needs_vectors
@pytest.mark.parametrize("name", ["snp-real/milan-v2-google"])
def test_a_policy_in_toml_or_json_is_followed(name: str, tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text("[snp]\nallow_debug = true\n")
    (tmp_path / "p.json").write_text('{"snp": {"allow_debug": true}}')
    (tmp_path / "wrong.toml").write_text("[snp]\nallow_debugging = true\n")

    assert run("verify", *case(name)) == 3
    assert run("verify", *case(name), "--policy", str(tmp_path / "p.toml")) == 0
    assert run("verify", *case(name), "--policy", str(tmp_path / "p.json")) == 0
    assert run("verify", *case(name), "--policy", str(tmp_path / "wrong.toml")) == 2


@needs_vectors
def test_certificates_may_be_pem_and_the_report_may_come_through_a_pipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = VECTORS / "snp-real/milan-v2-virtee"
    lines = base64.encodebytes((folder / "vek.der").read_bytes())
    pem = b"-----BEGIN CERTIFICATE-----\n" + lines + b"-----END CERTIFICATE-----\n"
    (tmp_path / "vek.pem").write_bytes(pem + (folder / "chain.pem").read_bytes())
    text = base64.b64encode((folder / "report.bin").read_bytes())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))

    assert run("verify", "-", "--at", "2026-03-01", "--vek", str(tmp_path / "vek.pem")) == 0


@needs_vectors
def test_a_folder_of_configfs_tsm_is_read(tmp_path: Path) -> None:
    folder = VECTORS / "snp-real/milan-v2-virtee"
    (tmp_path / "outblob").write_bytes((folder / "report.bin").read_bytes())

    assert run("verify", str(tmp_path), "--at", "2026-03-01") == 5
    (tmp_path / "auxblob").write_bytes(pack_cert_table({CertKind.VCEK: (folder / "vek.der").read_bytes()}))
    assert run("verify", str(tmp_path), "--at", "2026-03-01") == 0


@needs_vectors
def test_a_certificate_that_was_fetched_before_is_found(capsys: pytest.CaptureFixture[str]) -> None:
    folder = VECTORS / "snp-real/genoa-v3-coco-siena"
    report = folder / "report.bin"
    words = ("verify", str(report), "--at", "2026-03-01")
    before = run(*words)
    cache = open_collateral_cache(load_settings(os.environ))
    (vcek,) = (item for item in list_needed(report.read_bytes()) if isinstance(item, Vcek))
    cache.keep(vcek, (folder / "vek.der").read_bytes())
    capsys.readouterr()

    assert (before, run(*words)) == (5, 0)
    assert "from the cache: " in capsys.readouterr().out


@needs_vectors
@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        (
            "snp-real/milan-v2-virtee",
            "--collateral",
            str(VECTORS / "tdx-real/collateral/B-B0C06F-2025-07.json"),
        ),
        ("snp-real/milan-v2-virtee", "--event-log", str(VECTORS / "eventlog/cos113-ccel.bin")),
        ("snp-real/milan-v2-virtee", "--mrconfigid", "00" * 48),
        ("snp-real/milan-v2-virtee", "--rtmr3", "00" * 48),
        ("tdx-real/phala-v4-B", "--vek", str(VECTORS / "snp-real/milan-v2-virtee/vek.der")),
        ("tdx-real/phala-v4-B", "--chain", str(VECTORS / "snp-real/milan-v2-virtee/chain.pem")),
        ("tdx-real/phala-v4-B", "--host-data", "00" * 32),
    ],
)
def test_an_option_for_the_other_tee_is_refused_and_not_ignored(
    name: str, option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("verify", *case(name), option, value) == 2
    assert f"cannot use {option}\n" in capsys.readouterr().err


# --- what cannot be read


def test_a_malformed_file_exits_4_and_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "e").write_bytes(b"nothing of the kind")

    assert run("verify", str(tmp_path / "e"), "--json") == 4
    (check,) = json.loads(capsys.readouterr().out)["data"]["checks"]
    assert (check["name"], check["stage"]) == ("evidence-format", "parse")
    assert run("show", str(tmp_path / "e")) == 4
    assert "cannot recognise the evidence" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ("verify", "missing"),
        ("show", "missing"),
        ("verify", "e", "--vek", "missing"),
        ("verify", "e", "--vek", "e"),
        ("verify", "e", "--nonce", "0"),
        ("verify", "e", "--nonce", "00" * 65),
        ("verify", "e", "--nonce", "00 00"),
        ("verify", "e", "--report-data", "00" * 63),
        ("verify", "e", "--measurement", "zz" * 48),
        ("verify", "e", "--host-data", "00" * 48),
        ("verify", "e", "--event-log", "missing"),
        ("verify", "e", "--event-log", "e"),
        ("verify", "e", "--nonce", "00", "--report-data", "00" * 64),
        ("verify", "e", "--at", "yesterday"),
        ("verify", "e", "--policy", "e"),
        ("verify", "e", "--collateral", "e"),
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_exits_2(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "e").write_bytes(CHIP.payload())
    monkeypatch.chdir(tmp_path)

    assert run(*words) == 2


# --- show


def show(data: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    (tmp_path / "e").write_bytes(data)
    assert run("show", str(tmp_path / "e")) == 0
    return capsys.readouterr().out


def test_simulated_evidence_is_shown_as_such(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tee = UnsafeSoftwareTee(open_authority(str(tmp_path / "authority"), now=amd.NOW))
    tee.launch_start()
    tee.launch_finish(HostData(bytes(32)))

    assert show(tee.report(ReportData(bytes(64))), tmp_path, capsys).startswith(
        "SIMULATED - NOT CONFIDENTIAL"
    )


def test_a_report_is_shown_with_its_bits_levels_and_product(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = show(CHIP.payload(policy=GuestPolicy.RESERVED_ONE | GuestPolicy.DEBUG), tmp_path, capsys)

    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert "DEBUG 1 (the host may read the guest's memory)" in lines
    assert "SMT 0" in lines
    assert "product Milan (family 0x19, model 0x1, stepping 1)" in lines
    assert any(line.startswith("reported_tcb") and "bootloader 4, tee 0, snp 20" in line for line in lines)
    assert any(line.startswith("VCEK") and "issued by SEV-Milan" in line for line in lines)
    assert "nothing of this is verified" in lines[0]


def test_every_field_of_a_report_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = {
        name: bytes([index]) * size
        for index, (name, size) in enumerate(
            {"family_id": 16, "image_id": 16, "report_id": 32, "report_id_ma": 32}.items(), start=1
        )
    }

    shown = show(CHIP.payload(**changes, version=5, current_mit_vector=0x1234), tmp_path, capsys)

    for value in changes.values():
        assert value.hex() in shown
    assert "0x1234" in shown


def test_azure_is_shown_with_its_registers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = show(json.dumps(make_document(CHIP)).encode(), tmp_path, capsys)

    assert NONCE.hex() in shown
    assert "secure-boot" in shown
    assert (b"\x17" * 32).hex() in shown


@needs_vectors
def test_a_quote_is_shown_with_its_attributes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("show", str(VECTORS / "tdx-real/google-v5-D/quote.bin"), "--json") == 0

    document = json.loads(capsys.readouterr().out)["data"]
    fields = {field["name"]: field for section in document["sections"] for field in section["fields"]}
    assert fields["SEPT_VE_DISABLE"]["value"] == "1"
    assert fields["DEBUG"]["value"] == "0"
    assert len(fields["mrtd"]["value"]) == 96
    assert "AMX tile data" in fields["xfam"]["meaning"]


# --- start-up


@needs_vectors
def test_verifying_imports_neither_typer_nor_the_runtime() -> None:
    argv = [sys.executable, "-X", "importtime", "-m", "krunpy.cli.main", "evidence", "verify"]

    result = subprocess.run(
        [*argv, *case("tdx-real/phala-v4-B")], capture_output=True, text=True, check=False
    )

    imported = {
        line.rpartition("|")[2].strip() for line in result.stderr.splitlines() if "import time:" in line
    }
    assert result.returncode == 0
    assert "krunpy.cli.evidence_verify" in imported
    assert not {"typer", "click", "rich", "msgspec", "krunpy.cli.app", "krunpy.runtime.broker"} & imported
