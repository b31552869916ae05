"""Evidence of the software TEE, from launch to verdict, and the barriers that keep it out of production."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from krunpy.attest.anchors import load_amd_anchors
from krunpy.attest.appraise import Expectations
from krunpy.attest.evidence import read_snp_parts
from krunpy.attest.judge import Judgement, judge_snp
from krunpy.attest.policy import OneOf, SnpPolicy
from krunpy.attest.refusal import Refusal
from krunpy.attest.verify import verify_snp
from krunpy.core.octets import HostData, ReportData
from krunpy.formats import snp_simulated
from krunpy.formats.launch_digest import PageType
from krunpy.formats.snp_certs import (
    CertKind,
    pack_cert_table,
    pack_evidence,
    parse_cert_table,
    parse_evidence,
)
from krunpy.formats.snp_report import SIGNED_SIZE, SnpReport, pack_report, parse_report
from krunpy.formats.snp_tcb import Tcb
from krunpy.measure.kernel_hashes import hash_direct_boot
from krunpy.measure.launch import LaunchInputs, Layout, iter_launch_pages, predict_snp_digest
from krunpy.tee.authority import Authority, open_authority
from krunpy.tee.software import Faults, UnsafeSoftwareTee
from tests.fakes import amd

NOW = datetime(2026, 6, 1, tzinfo=UTC)
INPUTS = LaunchInputs(
    firmware=b"\x5a" * 16384,
    layout=Layout.PLAIN,
    kernel_hashes=hash_direct_boot(b"kernel", b"initrd", "console=ttyS0"),
    vcpus=2,
)
REPORT_DATA, HOST_DATA = ReportData(b"\x01" * 64), HostData(b"\x02" * 32)
DEVELOPMENT = SnpPolicy(accepts_simulated=True)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return open_authority(str(tmp_path_factory.mktemp("authority")), now=NOW)


def launch(authority: Authority, faults: Faults | None = None) -> UnsafeSoftwareTee:
    tee = UnsafeSoftwareTee(authority, faults=faults)
    tee.launch_start()
    for page in iter_launch_pages(INPUTS):
        tee.launch_update(page.kind, page.gpa, page.contents)
    tee.launch_finish(HOST_DATA)
    return tee


def one_of(value: bytes) -> OneOf:
    return OneOf(values=frozenset({value}), source="the test")


def judge(
    authority: Authority, payload: bytes, *, policy: SnpPolicy = DEVELOPMENT, anchors=None
) -> Judgement:
    expected = Expectations(
        report_data=one_of(REPORT_DATA),
        launch_digests=one_of(predict_snp_digest(INPUTS)),
        host_data=one_of(HOST_DATA),
    )
    roots = anchors or load_amd_anchors().add_simulated_root(authority.root)
    return judge_snp(payload, anchors=roots, now=NOW, expected=expected, policy=policy)


def test_a_simulated_launch_is_trusted_in_development_and_says_what_it_is(authority: Authority) -> None:
    judgement = judge(authority, launch(authority).report(REPORT_DATA))

    assert judgement.verdict.trusted, judgement.verdict.failures
    assert judgement.claims is not None
    assert judgement.claims.simulated
    assert judgement.verdict.heading == "SIMULATED - NOT CONFIDENTIAL: trusted"


def test_one_more_page_changes_the_verdict(authority: Authority) -> None:
    tee = UnsafeSoftwareTee(authority)
    tee.launch_start()
    for page in iter_launch_pages(INPUTS):
        tee.launch_update(page.kind, page.gpa, page.contents)
    tee.launch_update(PageType.NORMAL, 0x1000, bytes(4096))
    tee.launch_finish(HOST_DATA)

    assert judge(authority, tee.report(REPORT_DATA)).verdict.code == "measurement"


@pytest.mark.parametrize(
    ("faults", "code"),
    [
        (Faults(debug_policy=True), "policy-debug"),
        (Faults(tcb=Tcb(bootloader=3, snp=8, microcode=115)), "tcb-certificate"),
        (Faults(chip_id=b"SIM" + bytes(61)), "chip-id"),
    ],
)
def test_a_lying_software_tee_is_refused(authority: Authority, faults: Faults, code: str) -> None:
    assert judge(authority, launch(authority, faults).report(REPORT_DATA)).verdict.code == code


def test_a_report_of_another_vmpl_is_refused(authority: Authority) -> None:
    assert judge(authority, launch(authority).report(REPORT_DATA, vmpl=1)).verdict.code == "vmpl"


def test_a_replayed_report_is_refused(authority: Authority) -> None:
    replayed = launch(authority).report(ReportData(b"\x09" * 64))

    assert judge(authority, replayed).verdict.code == "report-data"


def test_a_production_server_does_not_trust_the_simulated_root(authority: Authority) -> None:
    payload = launch(authority).report(REPORT_DATA)

    verdict = judge(authority, payload, anchors=load_amd_anchors()).verdict

    assert verdict.code == "chain-anchor"
    assert verdict.simulated


def test_a_trusted_simulated_root_is_not_enough_outside_development(authority: Authority) -> None:
    payload = launch(authority).report(REPORT_DATA)

    assert judge(authority, payload, policy=SnpPolicy()).verdict.code == "not-simulated-here"


def test_another_installations_root_is_not_trusted(authority: Authority, tmp_path) -> None:
    other = open_authority(str(tmp_path), now=NOW)

    assert judge(authority, launch(other).report(REPORT_DATA)).verdict.code == "chain-root"


def test_without_the_root_in_the_evidence_the_signature_still_counts(authority: Authority, tmp_path) -> None:
    other = open_authority(str(tmp_path), now=NOW)
    report, table = parse_evidence(launch(other).report(REPORT_DATA))
    blobs = dict(parse_cert_table(table).blobs)
    del blobs[CertKind.ARK]

    verdict = judge(authority, pack_evidence(report, pack_cert_table(blobs))).verdict

    assert verdict.code == "chain-signature"


def test_an_expired_authority_is_refused(authority: Authority) -> None:
    payload = launch(authority).report(REPORT_DATA)
    roots = load_amd_anchors().add_simulated_root(authority.root)
    expected = Expectations(
        report_data=one_of(REPORT_DATA),
        launch_digests=one_of(predict_snp_digest(INPUTS)),
        host_data=one_of(HOST_DATA),
    )

    late = NOW + timedelta(days=31)
    verdict = judge_snp(payload, anchors=roots, now=late, expected=expected, policy=DEVELOPMENT).verdict

    assert verdict.code == "certificate-validity"


def test_hardware_evidence_is_not_simulated(authority: Authority) -> None:
    payload = amd.FakeChip().payload(report_data=REPORT_DATA, host_data=HOST_DATA)

    verdict = judge(authority, payload, anchors=amd.anchors()).verdict

    assert not verdict.simulated
    assert verdict.code == "measurement"


@pytest.mark.parametrize(
    "payload", [b"", b"\0" * 8, b"\xff" * 2000, b"\xa0\x04\0\0" + bytes(1184) + bytes(4)]
)
def test_garbage_is_a_verdict_and_no_error(authority: Authority, payload: bytes) -> None:
    judgement = judge(authority, payload)

    assert not judgement.verdict.trusted
    assert judgement.claims is None
    assert judgement.verdict.failures[0].stage == "parse"


def sign(authority: Authority, report: SnpReport) -> bytes:
    signed = pack_report(report)[:SIGNED_SIZE]
    r, s = decode_dss_signature(authority.key.sign(signed, ec.ECDSA(hashes.SHA384())))
    return signed + (r.to_bytes(72, "little") + s.to_bytes(72, "little")).ljust(512, b"\0")


def test_simulated_evidence_without_the_mark_in_its_report_is_refused(authority: Authority) -> None:
    raw, table = parse_evidence(launch(authority).report(REPORT_DATA))
    unmarked = sign(authority, replace(parse_report(raw), family_id=bytes(16)))

    assert judge(authority, pack_evidence(unmarked, table)).verdict.code == "marks"


@pytest.mark.parametrize("marking", ["absent", "not critical"])
def test_a_simulated_certificate_without_its_critical_mark_is_refused(marking: str) -> None:
    mark = (snp_simulated.EXTENSION_OID, snp_simulated.EXTENSION_VALUE)
    chip = amd.FakeChip()
    root_name, ask_name, leaf_name = (
        amd.name(f"SIM-{stem}", snp_simulated.ORGANIZATION) for stem in ("ARK-Milan", "SEV-Milan", "SEV-VCEK")
    )
    ca = {"is_ca": True, "cert_sign": True, "extensions": ((*mark, True),)}
    ark_key, ask_key = amd.rsa_key("ark"), amd.rsa_key("ask")
    root = amd.Cert(subject=root_name, issuer=root_name, key=ark_key, signer=ark_key, **ca).der()
    ask = amd.Cert(subject=ask_name, issuer=root_name, key=ask_key, signer=ark_key, **ca).der()
    leaf = amd.Cert(
        subject=leaf_name,
        issuer=ask_name,
        key=amd.ec_key("leaf"),
        signer=ask_key,
        extensions=() if marking == "absent" else ((*mark, False),),
    ).der()
    evidence = read_snp_parts(chip.sign(chip.report()), leaf=leaf, intermediate=ask, root=root)

    with pytest.raises(Refusal) as caught:
        verify_snp(evidence, anchors=load_amd_anchors().add_simulated_root(root), now=NOW)

    assert caught.value.code == "chain-mark"
