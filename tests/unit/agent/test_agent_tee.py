"""The agent's TEE drivers, against a fake kernel: reports, certificates, and what may get in between."""

from __future__ import annotations

import errno
import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from krunpy.formats.snp_certs import CertKind, pack_cert_table, parse_evidence

if TYPE_CHECKING:
    from conftest import Tool

TEE = "4"  # FAIL reason
SOFTWARE, SNP, TDX = 1, 2, 4
REPORT_DATA = bytes(range(64))
ROOM = 65536 - 8  # bytes of report and certificates in a frame
REPORT = bytes([5]) * 1184
REPORT_AT, QUOTE_V4_AT, QUOTE_V5_AT = 0x50, 568, 574
RESPONSE_HEADER = 32
TABLE = pack_cert_table({CertKind.VCEK: b"v" * 1360, CertKind.ASK: b"a" * 1630})
PAGES = TABLE + bytes(-len(TABLE) % 4096)


def quote(version: int) -> bytes:
    return struct.pack("<H", version) + bytes(5000)


def over(blob: bytes, at: int, report_data: bytes = REPORT_DATA) -> bytes:
    return blob[:at] + report_data + blob[at + 64 :]


@pytest.fixture(scope="session")
def fake_kernel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("gcc") is None or not Path("/usr/include/linux/sev-guest.h").exists():
        pytest.skip("the fake kernel cannot be built: gcc or linux/sev-guest.h is not installed")
    library = tmp_path_factory.mktemp("kernel") / "fake_kernel.so"
    source = Path(__file__).with_name("fake_kernel.c")
    subprocess.run(
        ["gcc", "-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC", "-o", library, source], check=True
    )
    return library


@dataclass
class Machine:
    """agent-tool on a machine with a TEE."""

    tool: Tool
    kernel: Path
    folder: Path

    def _run(self, command: str, stdin: bytes, fakes: dict[str, object]) -> tuple[int, dict[str, str]]:
        environment = {"LD_PRELOAD": str(self.kernel)}
        for name, value in fakes.items():
            path = self.folder / name
            if isinstance(value, bytes):
                path.write_bytes(value)
            environment[f"FAKE_{name.upper()}"] = str(path if isinstance(value, bytes) else value)
        done = subprocess.run(
            [self.tool.program, command],
            input=stdin,
            capture_output=True,
            env=environment,
            timeout=30,
            check=False,
        )
        assert done.returncode in (0, 1), (done.returncode, done.stderr)
        lines = [line.partition(" ") for line in done.stdout.decode().splitlines()]
        return done.returncode, {name: value for name, _, value in lines}

    def tsm(self, tee: int = SNP, **fakes: object) -> tuple[int, dict[str, str]]:
        reports = self.folder / "report"
        reports.mkdir(exist_ok=True)
        fakes = {
            "provider": "sev_guest" if tee == SNP else "tdx_guest",
            "answer": REPORT,
            "at": REPORT_AT,
            **fakes,
        }
        stdin = bytes([tee]) + REPORT_DATA + str(reports).encode()
        return self._run("tsm", stdin, {"tsm": reports, **fakes})

    def sev(self, **fakes: object) -> tuple[int, dict[str, str]]:
        device = "/dev/sev-guest"
        answer = struct.pack("<II24x", 0, len(REPORT)) + REPORT
        fakes = {"answer": answer, "at": RESPONSE_HEADER + REPORT_AT, **fakes}
        return self._run("sev", REPORT_DATA + device.encode(), {"sev": device, **fakes})


@pytest.fixture
def machine(tool: Tool, fake_kernel: Path, tmp_path: Path) -> Machine:
    return Machine(tool, fake_kernel, tmp_path)


def evidence(answer: tuple[int, dict[str, str]]) -> tuple[bytes, bytes]:
    code, lines = answer
    assert code == 0, lines
    return parse_evidence(bytes.fromhex(lines["evidence"]))


def refusal(answer: tuple[int, dict[str, str]]) -> str:
    code, lines = answer
    assert code == 1, lines
    assert list(lines) == [TEE]
    return lines[TEE]


# --- configfs-tsm


def test_tsm_gives_the_report_over_our_report_data_and_the_certificates(machine: Machine) -> None:
    assert evidence(machine.tsm(certificates=TABLE)) == (over(REPORT, REPORT_AT), TABLE)


def test_tsm_gives_a_quote_without_certificates(machine: Machine) -> None:
    answer = machine.tsm(TDX, answer=quote(4), at=QUOTE_V4_AT)

    assert evidence(answer) == (over(quote(4), QUOTE_V4_AT), b"")
    assert "left_out" not in answer[1]


def test_tsm_leaves_no_entry_behind(machine: Machine) -> None:
    machine.tsm()

    assert list((machine.folder / "report").iterdir()) == []


@pytest.mark.parametrize("tee", [SNP, TDX])
def test_tsm_refuses_the_provider_of_another_tee(machine: Machine, tee: int) -> None:
    assert "wanted" in refusal(machine.tsm(tee, provider="arm_cca_guest"))
    assert "wanted" in refusal(machine.tsm(tee, provider="tdx_guest" if tee == SNP else "sev_guest"))


def test_tsm_asks_again_when_somebody_else_asked_meanwhile(machine: Machine) -> None:
    assert evidence(machine.tsm(intruders=2))[0] == over(REPORT, REPORT_AT)


@pytest.mark.slow
def test_tsm_gives_up_when_somebody_always_gets_in_between(machine: Machine) -> None:
    assert refusal(machine.tsm(intruders=99)) == "the kernel gave no report of ours in 8 attempts"


def test_tsm_asks_again_when_the_kernel_lost_the_request(machine: Machine) -> None:
    assert evidence(machine.tsm(lost=1))[0] == over(REPORT, REPORT_AT)


def test_tsm_asks_again_when_the_kernel_is_busy(machine: Machine) -> None:
    assert evidence(machine.tsm(busy=3))[0] == over(REPORT, REPORT_AT)


def test_tsm_says_why_the_kernel_gives_no_report(machine: Machine) -> None:
    text = refusal(machine.tsm(errno=errno.EIO))

    assert text == "the kernel gives no outblob: Input/output error"


def test_tsm_says_that_there_is_no_driver(machine: Machine) -> None:
    stdin = bytes([SNP]) + REPORT_DATA + str(machine.folder / "missing").encode()

    assert "cannot make" in machine.tool.refuse("tsm", stdin)[0][1]


def test_tsm_refuses_a_quote_that_no_frame_holds(machine: Machine) -> None:
    fits, too_long = (
        machine.tsm(TDX, answer=quote(4)[:2] + bytes(size - 2), at=QUOTE_V4_AT) for size in (ROOM, ROOM + 1)
    )

    assert len(evidence(fits)[0]) == ROOM
    assert refusal(too_long) == "the kernel gives no outblob: File too large"


def test_tsm_leaves_out_certificates_that_no_frame_holds(machine: Machine) -> None:
    room = ROOM - len(REPORT) - 48  # without the entry and the end of the list
    tables = [pack_cert_table({CertKind.VCEK: bytes(size)}) for size in (room, room + 1)]
    fits, too_long = (machine.tsm(certificates=table) for table in tables)

    assert evidence(fits)[1] == tables[0]
    assert evidence(too_long) == (over(REPORT, REPORT_AT), b"")
    assert bytes.fromhex(too_long[1]["left_out"]) == b"they are too many"


def test_certificates_that_are_no_table_are_left_out(machine: Machine) -> None:
    answer = machine.tsm(certificates=b"-----BEGIN CERTIFICATE-----")

    assert evidence(answer) == (over(REPORT, REPORT_AT), b"")
    assert bytes.fromhex(answer[1]["left_out"]) == b"they are not a certificate table"


def test_a_report_of_a_kernel_that_ignores_our_report_data_is_refused(machine: Machine) -> None:
    for at in (REPORT_AT + 1, 0):
        assert "other report_data" in refusal(machine.tsm(at=at))


# --- /dev/sev-guest


def test_the_device_gives_report_and_certificates_in_the_size_it_asks_for(machine: Machine) -> None:
    assert evidence(machine.sev(certificates=TABLE)) == (over(REPORT, REPORT_AT), TABLE)


def test_the_device_of_a_host_without_certificates_gives_none(machine: Machine) -> None:
    answer = machine.sev()

    assert evidence(answer) == (over(REPORT, REPORT_AT), b"")
    assert "left_out" not in answer[1]


def test_a_kernel_without_extended_reports_gives_the_report_alone(machine: Machine) -> None:
    assert evidence(machine.sev(no_extended=1, certificates=TABLE)) == (over(REPORT, REPORT_AT), b"")


def test_a_host_that_changes_its_certificates_is_asked_again(machine: Machine) -> None:
    assert evidence(machine.sev(certificates=TABLE, resized=1))[1] == TABLE


@pytest.mark.parametrize("fakes", [{"certificates": TABLE, "resized": 9}, {"certificates": bytes(70000)}])
def test_certificates_in_no_size_that_fits_are_left_out(machine: Machine, fakes: dict[str, object]) -> None:
    answer = machine.sev(**fakes)

    assert evidence(answer) == (over(REPORT, REPORT_AT), b"")
    assert bytes.fromhex(answer[1]["left_out"]) == b"the host gives them in no size that fits"


def test_a_throttling_host_is_asked_again(machine: Machine) -> None:
    assert evidence(machine.sev(busy=3))[0] == over(REPORT, REPORT_AT)


def test_a_throttling_host_is_not_asked_again_after_the_kernel_gave_up(machine: Machine) -> None:
    text = refusal(machine.sev(busy=1, timed_out=1))

    assert text == "the host throttles requests for reports, and gave none in time"


def test_an_error_of_the_firmware_is_told(machine: Machine) -> None:
    text = refusal(machine.sev(errno=errno.EIO))

    assert text == "no report: firmware error 0x16, error 0x0 of the host: Input/output error"


def test_a_time_out_is_final_and_a_missing_device_is_named(machine: Machine) -> None:
    assert "timed out" in refusal(machine.sev(errno=errno.ETIMEDOUT))
    stdin = REPORT_DATA + str(machine.folder / "missing").encode()
    assert "cannot open" in machine.tool.refuse("sev", stdin)[0][1]


# --- what was given, as bytes


@pytest.mark.parametrize(
    ("tee", "blob", "at"),
    [(SNP, REPORT, REPORT_AT), (TDX, quote(4), QUOTE_V4_AT), (TDX, quote(5), QUOTE_V5_AT)],
)
def test_a_report_over_other_report_data_is_refused(tool: Tool, tee: int, blob: bytes, at: int) -> None:
    head = bytes([tee]) + REPORT_DATA

    tool.accept("report", head + over(blob, at))

    for index in (0, 31, 63):
        wrong = bytearray(over(blob, at))
        wrong[at + index] ^= 1
        assert "report_data" in tool.refuse("report", head + wrong)[0][1]


def test_a_report_of_another_length_or_version_is_refused(tool: Tool) -> None:
    snp, tdx = bytes([SNP]) + REPORT_DATA, bytes([TDX]) + REPORT_DATA
    report = over(REPORT, REPORT_AT)

    for wrong in (b"", report[:-1], report + b"\0"):
        assert "wanted 1184" in tool.refuse("report", snp + wrong)[0][1]
    for version in (0, 3, 6):
        assert "version" in tool.refuse("report", tdx + over(quote(version), QUOTE_V4_AT))[0][1]
    assert "ends after" in tool.refuse("report", tdx + over(quote(4), QUOTE_V4_AT)[: QUOTE_V4_AT + 63])[0][1]


HOST_DATA = "13"  # FAIL reason
HASH = bytes(range(100, 132))


def payload(blob: bytes, at: int, named: bytes = HASH) -> bytes:
    """Return evidence whose report or quote has `named` at an offset."""
    report = blob[:at] + named + blob[at + len(named) :]
    return struct.pack("<I", len(report)) + report + bytes(4)


@pytest.mark.parametrize(
    ("tee", "blob", "at", "size"),
    [
        (SOFTWARE, REPORT, 0xC0, 32),
        (SNP, REPORT, 0xC0, 32),
        (TDX, quote(4), 48 + 0xB8, 48),
        (TDX, quote(5), 54 + 0xB8, 48),
    ],
)
def test_evidence_that_names_another_manifest_than_the_one_that_came_is_refused(
    tool: Tool, tee: int, blob: bytes, at: int, size: int
) -> None:
    head, named = bytes([tee]) + HASH, HASH.ljust(size, b"\0")

    tool.accept("host-data", head + payload(blob, at, named))

    for index in range(size):
        wrong = named[:index] + bytes([named[index] ^ 1]) + named[index + 1 :]
        ((reason, text),) = tool.refuse("host-data", head + payload(blob, at, wrong))
        assert reason == HOST_DATA
        assert ("MRCONFIGID" if tee == TDX else "HOST_DATA") in text


@pytest.mark.parametrize(
    ("tee", "blob", "end"), [(SNP, REPORT, 0xE0), (SOFTWARE, REPORT, 0xE0), (TDX, quote(4), 48 + 0xE8)]
)
def test_evidence_that_ends_before_it_names_a_manifest_is_refused(
    tool: Tool, tee: int, blob: bytes, end: int
) -> None:
    head, at = bytes([tee]) + HASH, end - (48 if tee == TDX else 32)
    named = HASH.ljust(end - at, b"\0")
    whole = payload(blob, at, named)[4:-4]

    tool.accept("host-data", head + struct.pack("<I", end) + whole[:end])

    for length in (0, 1, at, end - 1):
        assert tool.refuse("host-data", head + struct.pack("<I", length) + whole)[0][0] == TEE
    assert tool.refuse("host-data", head + struct.pack("<I", end) + whole[: end - 1])[0][0] == TEE
    assert tool.refuse("host-data", head)[0][0] == TEE


def test_padding_after_a_certificate_table_is_cut_off(tool: Tool) -> None:
    assert tool.accept("certificates", PAGES) == [("length", str(len(TABLE)))]
    assert tool.accept("certificates", TABLE) == [("length", str(len(TABLE)))]


def test_an_empty_certificate_table_is_none(tool: Tool) -> None:
    assert tool.accept("certificates", bytes(4096)) == [("length", "0")]
    assert tool.accept("certificates", b"") == [("length", "0")]


def test_certificate_tables_that_point_outside_are_refused(tool: Tool) -> None:
    entry = struct.Struct("<16sII")
    guid, end = CertKind.VCEK.value, bytes(24)
    wrong = [
        entry.pack(guid, 48, 1) + end,  # one byte after the end
        entry.pack(guid, 47, 1) + end + b"x",  # in the list itself
        entry.pack(guid, 2**32 - 1, 2) + end + bytes(100),  # wraps in 32 bits
        entry.pack(guid, 48, 0),  # no end
        entry.pack(guid, 24 * 34, 0) * 33 + end,  # too many entries
        bytes(23),
    ]

    for table in wrong:
        assert tool.refuse("certificates", table) == []
    assert tool.accept("certificates", entry.pack(guid, 48, 1) + end + b"x") == [("length", "49")]


def test_answers_of_the_firmware_with_an_error_or_another_size_are_refused(tool: Tool) -> None:
    def answer(status: int, size: int) -> bytes:
        return struct.pack("<II24x", status, size) + REPORT + bytes(4000 - 32 - 1184)

    assert tool.accept("response", answer(0, 1184)) == [("report", REPORT.hex())]
    assert "status 0x16" in tool.refuse("response", answer(0x16, 1184))[0][1]
    assert "wanted 1184" in tool.refuse("response", answer(0, 1185))[0][1]
    assert "wanted 1184" in tool.refuse("response", answer(0, 0))[0][1]
    assert "1215 bytes" in tool.refuse("response", answer(0, 1184)[:1215])[0][1]
