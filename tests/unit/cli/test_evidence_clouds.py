"""How the quotes of three clouds differ, through the command line: by default, and with a policy the other way.

The defaults are those of the vectors' README: GCP's zero padding and Azure's SEPT_VE_DISABLE = 0 pass, Alibaba's
MRSERVICETD is refused.
"""

import json
import os
from pathlib import Path

import pytest

from krunpy.cli import evidence_words
from krunpy.formats.evidence_encodings import TdxEvidence, make_tdx_evidence

FOLDER = Path(
    os.environ.get("KRUNPY_VECTORS") or Path(__file__).resolve().parents[3].parent / "shared" / "vectors"
)
pytestmark = pytest.mark.skipif(
    "KRUNPY_VECTORS" not in os.environ and not FOLDER.is_dir(),
    reason="no attestation vectors: set KRUNPY_VECTORS to their folder",
)
GCP, AZURE, ALIBABA = "google-cos113-v4-E", "coco-azure-v4-E", "automata-ali-v5-F"
OLD_TCB = '[tdx]\nallowed_tcb_status = ["UpToDate", "OutOfDate"]\n'  # what Azure's quote of the time needs
SERVICE_TD = (
    "383c87d3bbb047b2d171eaca95312ede99f258088dc788f6ae2ccf8b6dd848fe8d47629e08b3f6cbd4a00dd47a5a033d"
)
LOG = FOLDER / "eventlog" / "cos113-ccel.bin"


@pytest.fixture(autouse=True)
def _has_a_cache_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KRUNPY_CACHE_DIR", str(tmp_path / "cache"))


def options_of(name: str) -> tuple[str, ...]:
    folder = FOLDER / "tdx-real" / name
    case = json.loads((folder / "case.json").read_text())
    return ("--at", case["verify_time"], "--collateral", str(folder / case["collateral"]))


def quote_of(name: str) -> Path:
    return FOLDER / "tdx-real" / name / "quote.bin"


def write(path: Path, contents: bytes | str) -> str:
    path.write_bytes(contents.encode() if isinstance(contents, str) else contents)
    return str(path)


def verify(capsys: pytest.CaptureFixture[str], file: Path | str, *words: str) -> tuple[int | None, list[str]]:
    """Return the exit status and the names of the checks that did not hold."""
    status = evidence_words.run_words(["verify", str(file), *words, "--json"])
    checks = json.loads(capsys.readouterr().out)["data"]["checks"]
    return status, [check["name"] for check in checks if not check["held"]]


@pytest.mark.parametrize(
    ("name", "default", "policy", "other"),
    [
        (GCP, (0, []), "[tdx]\nallow_zero_padding = false", (3, ["zero-padding"])),
        (
            AZURE,
            (3, ["tcb-status"]),
            f"{OLD_TCB}require_sept_ve_disable = true",
            (3, ["attribute-sept-ve-disable"]),
        ),
        (ALIBABA, (3, ["mrservicetd"]), f'[tdx]\nallow_mr_service_td = ["{SERVICE_TD}"]', (0, [])),
    ],
)
def test_a_written_policy_turns_a_clouds_difference_the_other_way(
    name: str,
    default: tuple[int, list[str]],
    policy: str,
    other: tuple[int, list[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = options_of(name)

    assert verify(capsys, quote_of(name), *words) == default
    assert (
        verify(capsys, quote_of(name), *words, "--policy", write(tmp_path / "policy.toml", policy)) == other
    )


def test_azure_without_sept_ve_disable_is_trusted_once_its_old_tcb_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (*options_of(AZURE), "--policy", write(tmp_path / "policy.toml", OLD_TCB))

    assert verify(capsys, quote_of(AZURE), *words) == (0, [])


def test_gcps_quote_without_its_padding_passes_where_padding_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    policy = write(tmp_path / "policy.toml", "[tdx]\nallow_zero_padding = false")
    raw = quote_of(GCP).read_bytes()
    unpadded = write(tmp_path / "quote", raw[: 8000 - 3065])

    assert verify(capsys, unpadded, *options_of(GCP), "--policy", policy) == (0, [])


# --- GCP's event log


def test_gcps_log_replays_to_its_quote(capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(capsys, quote_of(GCP), *options_of(GCP), "--event-log", str(LOG)) == (0, [])


def test_a_log_of_another_machine_is_refused_for_its_registers(capsys: pytest.CaptureFixture[str]) -> None:
    other = FOLDER / "eventlog" / "ovmf-direct-boot-ccel.bin"

    status, failed = verify(capsys, quote_of(GCP), *options_of(GCP), "--event-log", str(other))

    assert (status, failed) == (3, ["event-log-rtmr0", "event-log-rtmr1", "event-log-rtmr2"])


def wrap(folder: Path, log: bytes) -> str:
    evidence = TdxEvidence(quote=quote_of(GCP).read_bytes(), event_log=log)
    return write(folder / "evidence.json", json.dumps(make_tdx_evidence(evidence)))


def show(capsys: pytest.CaptureFixture[str], file: str) -> str:
    assert evidence_words.run_words(["show", file]) == 0
    return capsys.readouterr().out


def test_a_log_that_came_with_a_quote_is_replayed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(capsys, wrap(tmp_path, LOG.read_bytes()), *options_of(GCP)) == (0, [])


def test_a_log_that_is_cut_is_malformed_evidence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = wrap(tmp_path, LOG.read_bytes()[:1000])

    assert verify(capsys, file, *options_of(GCP)) == (4, ["event-log-format"])
    assert evidence_words.run_words(["show", file]) == 4


@pytest.mark.parametrize("name", ["cos113-ccel.bin", "ovmf-direct-boot-ccel.bin"])
def test_a_log_alone_is_shown_and_is_no_evidence(capsys: pytest.CaptureFixture[str], name: str) -> None:
    log = str(FOLDER / "eventlog" / name)
    shown = show(capsys, log)

    assert shown.startswith("event log, without its quote; nothing of this is verified")
    assert "RTMR0 EV_EFI_VARIABLE_DRIVER_CONFIG" in shown
    assert evidence_words.run_words(["verify", log]) == 4
    assert "it is an event log alone" in capsys.readouterr().out


def test_a_log_without_events_explains_no_register(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = wrap(tmp_path, b"[]")

    assert verify(capsys, file, *options_of(GCP)) == (
        3,
        ["event-log-rtmr0", "event-log-rtmr1", "event-log-rtmr2"],
    )
    assert "event log of 0 events" in show(capsys, file)


def test_events_are_shown_with_whether_their_digests_are_those_of_their_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = show(capsys, wrap(tmp_path, LOG.read_bytes()))

    assert "event log of 43 events; only verify replays it" in shown
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert any(
        line.startswith("RTMR1 EV_EFI_ACTION ")
        and line.endswith('(the digest is that of its data: "Exit Boot Services Invocation")')
        for line in lines
    )
    assert any(
        line.startswith("RTMR0 EV_PLATFORM_CONFIG_FLAGS ")
        and line.endswith('(the digest is NOT that of its data: "ACPI DATA")')
        for line in lines
    )


def test_events_of_dstacks_agent_are_shown_by_name_and_cannot_write_to_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    event = {"imr": 3, "event_type": 0x08000001, "event": "app-id\x1b[2J", "event_payload": "00ff"}

    shown = show(capsys, wrap(tmp_path, json.dumps([event]).encode()))

    assert "RTMR3 dstack" in shown
    assert "(the digest is that of its data: app-id" in shown
    assert ": 00ff)" in shown
    assert "\x1b" not in shown


def test_registers_are_checked_against_those_that_were_given(capsys: pytest.CaptureFixture[str]) -> None:
    registers = json.loads((LOG.parent / "expected.json").read_text())[LOG.name]["rtmr"]
    words = [word for index, value in enumerate(registers) for word in (f"--rtmr{index}", value)]
    zeros = "00" * 48

    assert verify(capsys, quote_of(GCP), *options_of(GCP), *words, "--mrconfigid", zeros) == (0, [])
    assert verify(capsys, quote_of(GCP), *options_of(GCP), "--rtmr1", zeros) == (3, ["rtmr1"])
    assert verify(capsys, quote_of(GCP), *options_of(GCP), "--rtmr1", zeros, "--rtmr1", registers[1])[0] == 0


def test_a_reference_value_is_in_the_table_only_if_it_was_given(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["verify", str(quote_of(GCP)), *options_of(GCP)]

    evidence_words.run_words(words)
    without = capsys.readouterr().out
    evidence_words.run_words([*words, "--mrconfigid", "00" * 48])
    with_it = capsys.readouterr().out

    assert "mrconfigid" not in without
    (line,) = (line for line in with_it.splitlines() if line.startswith("mrconfigid"))
    assert line.split()[1] == "ok"
    assert line.endswith("  --mrconfigid")
