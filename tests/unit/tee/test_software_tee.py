"""The software TEE: its states, its digest, its root, and the marks it cannot leave out."""

import json
import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from krunpy.core.errors import FormatError, HostError, StateError
from krunpy.core.octets import HostData, ReportData
from krunpy.formats import snp_simulated
from krunpy.formats.launch_digest import VMSA_GPA, ZERO_DIGEST, PageType, fold_page
from krunpy.formats.snp_certs import CertKind, parse_cert_table, parse_evidence
from krunpy.formats.snp_report import GuestPolicy, parse_report
from krunpy.formats.x509 import parse_certificate
from krunpy.tee.authority import Authority, open_authority
from krunpy.tee.detect import SEV_DEVICE, SNP_PARAMETER, TDX_PARAMETER, find_host_tee, read_host_file
from krunpy.tee.software import Faults, UnsafeSoftwareTee

NOW = datetime(2026, 6, 1, tzinfo=UTC)
HOST_DATA, REPORT_DATA = HostData(b"\x02" * 32), ReportData(b"\x01" * 64)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tee") / "authority"


@pytest.fixture(scope="module")
def authority(directory: Path) -> Authority:
    return open_authority(str(directory), now=NOW)


def running(authority: Authority, faults: Faults | None = None) -> UnsafeSoftwareTee:
    tee = UnsafeSoftwareTee(authority, faults=faults)
    tee.launch_start()
    tee.launch_update(PageType.NORMAL, 0x1000, bytes(8192))
    tee.launch_update(PageType.VMSA, VMSA_GPA, b"\1" * 4096)
    tee.launch_finish(HOST_DATA)
    return tee


def test_the_digest_is_folded_from_what_was_handed_over(authority: Authority) -> None:
    digest = fold_page(ZERO_DIGEST, PageType.NORMAL, bytes(8192), 0x1000)
    digest = fold_page(digest, PageType.VMSA, b"\1" * 4096, VMSA_GPA)

    report = parse_report(parse_evidence(running(authority).report(REPORT_DATA))[0])

    assert report.measurement == digest
    assert report.report_data == REPORT_DATA
    assert report.host_data == HOST_DATA
    assert not report.policy & GuestPolicy.DEBUG


def test_every_report_bears_the_marks(authority: Authority) -> None:
    report = parse_report(parse_evidence(running(authority).report(REPORT_DATA))[0])

    assert report.family_id == b"KRUNPY-SIMULATED"
    assert report.chip_id.startswith(b"SIM")


def test_each_instance_has_its_own_report_id(authority: Authority) -> None:
    reports = [parse_report(parse_evidence(running(authority).report(REPORT_DATA))[0]) for _ in range(2)]

    assert reports[0].report_id != reports[1].report_id


def test_nothing_can_be_added_after_finish(authority: Authority) -> None:
    tee = running(authority)

    with pytest.raises(StateError, match="cannot update"):
        tee.launch_update(PageType.NORMAL, 0x5000, bytes(4096))
    with pytest.raises(StateError, match="cannot finish"):
        tee.launch_finish(HOST_DATA)
    with pytest.raises(StateError, match="cannot start"):
        tee.launch_start()


def test_nothing_is_signed_before_finish(authority: Authority) -> None:
    tee = UnsafeSoftwareTee(authority)
    with pytest.raises(StateError, match="cannot update"):
        tee.launch_update(PageType.NORMAL, 0, bytes(4096))
    tee.launch_start()

    with pytest.raises(StateError, match="cannot report"):
        tee.report(REPORT_DATA)


def test_a_page_that_cannot_be_is_refused_and_changes_nothing(authority: Authority) -> None:
    tee = UnsafeSoftwareTee(authority)
    tee.launch_start()
    with pytest.raises(FormatError):
        tee.launch_update(PageType.NORMAL, 1, bytes(4096))

    assert tee.launch_finish(HOST_DATA) == ZERO_DIGEST


def test_a_vmpl_that_does_not_exist_is_a_mistake(authority: Authority) -> None:
    with pytest.raises(ValueError, match="vmpl is 0 to 3"):
        running(authority).report(REPORT_DATA, vmpl=4)


def test_faults_are_off_unless_asked_for(authority: Authority) -> None:
    honest = parse_report(parse_evidence(running(authority).report(REPORT_DATA))[0])
    lying = parse_report(parse_evidence(running(authority, Faults(debug_policy=True)).report(REPORT_DATA))[0])

    assert not honest.policy & GuestPolicy.DEBUG
    assert lying.policy & GuestPolicy.DEBUG


def test_an_authority_is_made_once_and_kept_from_others(directory: Path, authority: Authority) -> None:
    again = open_authority(str(directory), now=NOW + timedelta(days=1))

    assert again.root == authority.root
    assert os.stat(directory).st_mode & 0o777 == 0o700
    assert os.stat(directory / "authority.json").st_mode & 0o777 == 0o600


def test_no_key_but_the_vceks_is_kept(directory: Path, authority: Authority) -> None:
    kept = json.loads((directory / "authority.json").read_text())

    assert set(kept) == {"version", "chip_id", "certificates", "key"}
    assert len(kept["key"]) < 400  # base64 of a P-384 key; an RSA-4096 key has over 3000 characters
    assert authority.key.curve.name == "secp384r1"


def test_every_certificate_says_that_it_is_not_hardware(authority: Authority) -> None:
    blobs = parse_cert_table(authority.certificates).blobs

    assert set(blobs) == {CertKind.VCEK, CertKind.ASK, CertKind.ARK}
    for der in blobs.values():
        certificate = parse_certificate(der)
        mark = certificate.extensions[snp_simulated.EXTENSION_OID_BYTES]
        assert mark.is_critical
        assert certificate.subject.organization == "krunpy SIMULATED TEE (not hardware)"
        assert certificate.subject.common_name.startswith("SIM-")
        assert certificate.not_after - certificate.not_before <= timedelta(days=30)


def test_other_libraries_read_the_certificates_and_see_the_critical_mark(authority: Authority) -> None:
    certificate = x509.load_der_x509_certificate(authority.root)
    mark = certificate.extensions.get_extension_for_oid(x509.ObjectIdentifier(snp_simulated.EXTENSION_OID))

    assert mark.critical
    certificate.verify_directly_issued_by(certificate)


def test_an_expired_authority_is_replaced(tmp_path: Path) -> None:
    first = open_authority(str(tmp_path), now=NOW)

    second = open_authority(str(tmp_path), now=NOW + timedelta(days=30))

    assert second.root != first.root
    assert second.not_after > first.not_after


def test_an_authority_that_others_can_read_is_refused(
    directory: Path, authority: Authority, tmp_path: Path
) -> None:
    del authority
    copy = tmp_path / "authority.json"
    copy.write_bytes((directory / "authority.json").read_bytes())
    copy.chmod(0o644)

    with pytest.raises(HostError, match="seen mode 644"):
        open_authority(str(tmp_path), now=NOW)


@pytest.mark.parametrize("contents", [b"", b"{}", b"[]", b'{"version": 1}', b"\xff\xfe", b"x" * 70_000])
def test_a_broken_authority_is_said_by_name(tmp_path: Path, contents: bytes) -> None:
    (tmp_path / "authority.json").write_bytes(contents)
    (tmp_path / "authority.json").chmod(0o600)

    with pytest.raises(FormatError) as caught:
        open_authority(str(tmp_path), now=NOW)

    assert "remove" in caught.value.next


def test_processes_that_start_together_make_one_authority(tmp_path: Path) -> None:
    roots = []
    threads = [
        threading.Thread(target=lambda: roots.append(open_authority(str(tmp_path), now=NOW).root))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(roots) == 3
    assert len(set(roots)) == 1


HOSTS = {
    "nothing": ({}, "software", 2),
    "SNP": ({SNP_PARAMETER: "Y\n", SEV_DEVICE: ""}, "snp", 0),
    "SNP off": ({SNP_PARAMETER: "N\n", SEV_DEVICE: ""}, "software", 2),
    "SNP without its device": ({SNP_PARAMETER: "Y\n"}, "software", 2),
    "TDX": ({TDX_PARAMETER: "Y\n"}, "tdx", 1),
    "TDX as a number": ({TDX_PARAMETER: "1\n"}, "tdx", 1),
    "TDX off": ({TDX_PARAMETER: "N\n"}, "software", 2),
    "an unreadable parameter": ({TDX_PARAMETER: ""}, "software", 2),
}


@pytest.mark.parametrize("case", HOSTS)
def test_a_host_offers(case: str) -> None:
    files, kind, reasons = HOSTS[case]

    found = find_host_tee(files.get)

    assert found.kind == kind
    assert len(found.reasons) == reasons


def test_files_of_the_host_are_read(tmp_path: Path) -> None:
    parameter = tmp_path / "sev_snp"
    parameter.write_text("Y\n")

    assert read_host_file(str(parameter)) == "Y\n"
    assert read_host_file("/dev/null") == ""
    assert read_host_file(str(tmp_path / "missing")) is None
