"""The doctor's lines about hardware TEEs."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from krunpy.cli.checks import Health, check_tee, fail, ok
from krunpy.cli.checks_tee import choose_kind, find_tee_findings, list_tee_checks
from krunpy.cli.doctor import find_lacking
from krunpy.core.settings import Settings
from krunpy.tee.detect import SEV_DEVICE, SNP_PARAMETER, TDX_PARAMETER, TeeKind
from krunpy.tee.host_tree import HostTree, Readiness, gap, ready, unknown
from tests.fakes.guest_build import build_guest

FINDINGS = [
    ready("cpu", "flag sev_snp"),
    gap("kvm", "kvm_amd.sev_snp is N, wanted Y", "load it with sev_snp=1"),
    unknown("rmp", "the MSRs do not say it", "run as root"),
]
GUEST = ok("guest", "kernel")
SNP_HOST = {SNP_PARAMETER: "Y", SEV_DEVICE: ""}
TDX_HOST = {TDX_PARAMETER: "Y"}


def tree_of(folder: Path, vendor: str) -> HostTree:
    (folder / "proc").mkdir()
    (folder / "proc/cpuinfo").write_text(f"vendor_id : {vendor}\nflags : fpu hypervisor\n")
    return HostTree(root=str(folder))


def test_every_gap_is_a_line_with_its_fix() -> None:
    checks = list_tee_checks(TeeKind.SNP, FINDINGS, is_required=False)

    assert [(check.name, check.health, check.fix) for check in checks] == [
        ("snp cpu", Health.OK, ""),
        ("snp kvm", Health.WARN, "load it with sev_snp=1"),
        ("snp rmp", Health.WARN, "run as root"),
    ]


def test_a_cpu_that_does_not_offer_the_tee_gets_one_line_unless_it_is_required() -> None:
    findings = [gap("cpu", "flag sev_snp is missing", "use another one"), *FINDINGS[1:]]

    (line,) = list_tee_checks(TeeKind.SNP, findings, is_required=False)

    assert line.seen == "flag sev_snp is missing"
    assert line.fix == "use another one; `krunpy doctor --require snp` lists every gap"
    assert len(list_tee_checks(TeeKind.SNP, findings, is_required=True)) == 3


@pytest.mark.parametrize(
    ("vendor", "required", "kind"),
    [
        ("AuthenticAMD", "", TeeKind.SNP),
        ("GenuineIntel", "", TeeKind.TDX),
        ("GenuineIntel", "software", TeeKind.TDX),
        ("AuthenticAMD", "tdx", TeeKind.TDX),
        ("ARM", "", None),
        ("ARM", "snp", TeeKind.SNP),
    ],
)
def test_the_doctor_looks_at_the_tee_of_this_cpu_or_the_one_required(
    tmp_path: Path, vendor: str, required: str, kind: TeeKind | None
) -> None:
    assert choose_kind(tree_of(tmp_path, vendor), required) == kind


def test_a_required_tee_lacks_its_gaps_but_not_what_could_not_be_seen() -> None:
    assert find_lacking([GUEST], "snp", FINDINGS) == "not ready: kvm"
    assert find_lacking([GUEST], "", FINDINGS) == ""
    assert find_lacking([GUEST], "software", FINDINGS) == ""


def test_a_failed_check_comes_before_the_gaps() -> None:
    assert find_lacking([fail("guest", "none", "")], "snp", FINDINGS) == "these checks failed: guest"


@pytest.mark.parametrize("kind", [TeeKind.SNP, TeeKind.TDX])
def test_a_host_without_a_guest_is_told_to_build_one(tmp_path: Path, kind: TeeKind) -> None:
    settings = Settings(data_dir=str(tmp_path), cache_dir=str(tmp_path), guest_dir=str(tmp_path / "guest"))

    findings = {x.subject: x for x in find_tee_findings(kind, settings, tree_of(tmp_path, "AuthenticAMD"))}

    assert "krunpy guest build" in findings["guest"].fix
    assert "qemu" in findings


@pytest.mark.parametrize(
    ("mode", "readiness"), [(0o600, Readiness.GAP), (0o640, Readiness.GAP), (0o666, Readiness.READY)]
)
def test_a_device_that_only_root_may_open_is_a_gap(tmp_path: Path, mode: int, readiness: Readiness) -> None:
    settings = Settings(data_dir=str(tmp_path), cache_dir=str(tmp_path), guest_dir=str(tmp_path / "guest"))
    tree = tree_of(tmp_path, "AuthenticAMD")
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/sev").touch()
    (tmp_path / "dev/sev").chmod(mode)

    findings = {x.subject: x for x in find_tee_findings(TeeKind.SNP, settings, tree)}

    assert findings["access"].readiness is readiness
    assert bool(findings["access"].fix) == (readiness is Readiness.GAP)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    build_guest(tmp_path / "guest", "snp")
    return Settings(data_dir="", cache_dir="", guest_dir=str(tmp_path / "guest"))


@pytest.mark.parametrize(
    ("wanted", "host", "health", "seen"),
    [
        ("auto", {}, Health.WARN, "software: guests are NOT CONFIDENTIAL (snp: "),
        ("auto", SNP_HOST, Health.OK, "guests are launched in snp"),
        ("auto", TDX_HOST, Health.FAIL, "it was built without a firmware for tdx"),
        ("software", SNP_HOST, Health.WARN, "this host offers snp, and the setting tee is software"),
        ("snp", {}, Health.FAIL, "this host does not offer it"),
    ],
)
def test_the_doctor_says_which_tee_guests_are_launched_in(
    settings: Settings, wanted: str, host: dict[str, str], health: Health, seen: str
) -> None:
    check = check_tee(replace(settings, tee=wanted), host.get)

    assert check.health is health
    assert seen in check.seen
    assert bool(check.fix) == (health is Health.FAIL)


def test_a_required_tee_without_gaps_is_there() -> None:
    assert find_lacking([GUEST], "snp", [FINDINGS[0], FINDINGS[2]]) == ""


@pytest.mark.parametrize(
    ("kind", "readiness"), [(TeeKind.SNP, Readiness.READY), (TeeKind.TDX, Readiness.GAP)]
)
def test_the_guests_firmware_is_looked_at_for_its_own_tee(
    tmp_path: Path, settings: Settings, kind: TeeKind, readiness: Readiness
) -> None:
    findings = {x.subject: x for x in find_tee_findings(kind, settings, tree_of(tmp_path, "AuthenticAMD"))}

    assert findings["ovmf"].readiness is readiness
    assert findings["guest"].readiness is Readiness.UNKNOWN  # the kernel of this guest has no such driver


@pytest.mark.parametrize(
    ("features", "krun_sev", "gaps"),
    [
        (0xC0, True, {}),
        (0x03, True, {"libkrun": "no TEE at all"}),
        (0xC0, False, {"guest": "of libkrunfw for SEV"}),
    ],
)
def test_where_libkrun_is_the_vmm_the_doctor_looks_at_what_it_boots_in_snp(
    tmp_path: Path, features: int, krun_sev: bool, gaps: dict[str, str]
) -> None:
    library = tmp_path / "libkrun-sev.so.1"
    source = Path(__file__).parents[1] / "vmm/fake_libkrun.c"
    defines = ["-DTEE", f"-DFEATURES={features}"]
    subprocess.run(["cc", "-shared", "-fPIC", *defines, "-o", library, source], check=True)
    build_guest(tmp_path / "guest", krun_sev=krun_sev)
    settings = Settings(
        data_dir="", cache_dir="", guest_dir=str(tmp_path / "guest"), vmm="libkrun", libkrun=str(library)
    )

    found = find_tee_findings(TeeKind.SNP, settings, tree_of(tmp_path, "AuthenticAMD"))

    named = {each.subject: each for each in found if each.subject in ("libkrun", "guest", "qemu", "ovmf")}
    assert set(named) == {"libkrun", "guest"} - ({"guest"} if "libkrun" in gaps else set())
    for subject, finding in named.items():
        assert (finding.readiness is Readiness.GAP) == (subject in gaps)
        assert gaps.get(subject, "") in finding.seen


def test_libkrun_in_tdx_is_a_gap_with_its_reason(tmp_path: Path) -> None:
    settings = Settings(data_dir="", cache_dir="", guest_dir=str(tmp_path), vmm="libkrun")

    found = find_tee_findings(TeeKind.TDX, settings, tree_of(tmp_path, "GenuineIntel"))

    (finding,) = [each for each in found if each.subject == "libkrun"]
    assert finding.readiness is Readiness.GAP
    assert "any workload has the same MRTD" in finding.seen
    assert "qemu" in finding.fix
