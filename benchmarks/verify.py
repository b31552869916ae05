"""Time the verification of evidence next to the cryptography that it cannot do without, and next to dcap-qvl.

    python benchmarks/verify.py [--vectors DIR] [--runs 15]

Needs the vectors (KRUNPY_VECTORS, or ../shared/vectors). All of a run are done in turn; processor time is counted,
medians are printed. Targets:
an SNP report whose chain is known takes at most 1.5 times its bare cryptography (one P-384 verification, hashing); with
a certificate seen for the first time at most 1.5 times too (two verifications more, and parsing); a TDX quote at most
1.3 times dcap-qvl; `krunpy evidence verify` as a process under 3 times `python -c 'import cryptography.x509'`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import dcap_qvl
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from krunpy.attest import endorsement, tdx_chain, tdx_collateral, tdx_revocation
from krunpy.attest.anchors import load_amd_anchors, load_intel_anchors, split_pem
from krunpy.attest.evidence import read_snp_parts
from krunpy.attest.tdx_evidence import read_tdx_evidence
from krunpy.attest.tdx_verify import verify_tdx
from krunpy.attest.verify import verify_snp
from krunpy.formats.snp_report import parse_report
from krunpy.formats.tdx_collateral import parse_tdx_collateral

HOUSE = Path(__file__).resolve().parents[1]
SNP, TDX = "snp-real/milan-v2-virtee", "tdx-real/google-v5-D"
TARGETS = {"known": 1.5, "new": 1.5, "tdx": 1.3, "process": 3.0}
BATCH = 100
PSS = padding.PSS(mgf=padding.MGF1(hashes.SHA384()), salt_length=48)


def cpu_ms(action, count: int = BATCH) -> float:
    """Return the milliseconds of processor time that one call takes."""
    began = time.process_time()
    for _ in range(count):
        action()
    return (time.process_time() - began) * 1000 / count


def process_ms(words: list[str]) -> float:
    """Return the milliseconds of processor time that a process takes."""
    before = os.times()
    subprocess.run(words, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    after = os.times()
    return (
        after.children_user + after.children_system - before.children_user - before.children_system
    ) * 1000


class Snp:
    """A real report: its verification, and the cryptography in it alone."""

    def __init__(self, folder: Path) -> None:
        self.raw = (folder / "report.bin").read_bytes()
        self.leaf = (folder / "vek.der").read_bytes()
        self.ask, self.ark = split_pem((folder / "chain.pem").read_bytes())
        self.now = datetime.fromisoformat(json.loads((folder / "case.json").read_text())["verify_time"])
        self.anchors = load_amd_anchors()
        report = parse_report(self.raw)
        self.signature = encode_dss_signature(
            int.from_bytes(report.signature_r, "little"), int.from_bytes(report.signature_s, "little")
        )
        self.key = x509.load_der_x509_certificate(self.leaf).public_key()

    def verify(self) -> None:
        parts = read_snp_parts(self.raw, leaf=self.leaf, intermediate=self.ask, root=self.ark)
        verify_snp(parts, anchors=self.anchors, now=self.now)

    def verify_new(self) -> None:
        endorsement._endorse.cache_clear()  # noqa: SLF001
        endorsement._parse.cache_clear()  # noqa: SLF001
        self.verify()

    def bare(self) -> None:
        self.key.verify(self.signature, self.raw[:0x2A0], ec.ECDSA(hashes.SHA384()))

    def bare_new(self) -> None:
        leaf, ask, ark = map(x509.load_der_x509_certificate, (self.leaf, self.ask, self.ark))
        for child, parent in ((leaf, ask), (ask, ark)):
            parent.public_key().verify(child.signature, child.tbs_certificate_bytes, PSS, hashes.SHA384())
        leaf.public_key().verify(self.signature, self.raw[:0x2A0], ec.ECDSA(hashes.SHA384()))


class Tdx:
    """A real quote with its collateral."""

    def __init__(self, folder: Path) -> None:
        case = json.loads((folder / "case.json").read_text())
        self.raw = (folder / "quote.bin").read_bytes()
        self.text = (folder / case["collateral"]).read_text()
        self.now = datetime.fromisoformat(case["verify_time"])
        self.anchors = load_intel_anchors()
        self.parsed = parse_tdx_collateral(self.text.encode())
        self.theirs = dcap_qvl.QuoteCollateralV3.from_json(self.text)
        self.seconds = int(self.now.timestamp())

    def verify(self) -> None:
        verify_tdx(read_tdx_evidence(self.raw), anchors=self.anchors, now=self.now, collateral=self.parsed)

    def verify_new(self) -> None:
        tdx_chain.verify_pck_chain.cache_clear()
        self.verify()

    def verify_cold(self) -> None:
        tdx_chain._verify_pck_ca.cache_clear()  # noqa: SLF001
        tdx_chain.verify_tcb_signer.cache_clear()
        tdx_collateral._verify_signed.cache_clear()  # noqa: SLF001
        tdx_revocation._verify_crl.cache_clear()  # noqa: SLF001
        self.verify_new()

    def verify_theirs(self) -> None:
        dcap_qvl.verify(self.raw, self.theirs, self.seconds)


def show(name: str, ours: list[float], theirs: list[float], target: float) -> None:
    ratio = statistics.median(mine / other for mine, other in zip(ours, theirs, strict=True))
    verdict = "met" if ratio <= target else "MISSED"
    figures = f"{statistics.median(ours):8.3f} / {statistics.median(theirs):8.3f} ms"
    print(f"{name:44}{figures} = {ratio:5.2f}  (target {target:g}: {verdict})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    beside = os.environ.get("KRUNPY_VECTORS") or str(HOUSE.parent / "shared/vectors")
    parser.add_argument("--vectors", type=Path, default=Path(beside))
    parser.add_argument("--runs", type=int, default=15)
    given = parser.parse_args()
    snp, tdx = Snp(given.vectors / SNP), Tdx(given.vectors / TDX)
    snp.verify()
    tdx.verify()
    folder = given.vectors / SNP
    importing = [sys.executable, "-I", "-c", "import cryptography.x509"]
    verifying = [
        sys.executable,
        "-I",
        "-m",
        "krunpy.cli.main",
        "evidence",
        "verify",
        str(folder / "report.bin"),
    ]
    verifying += [
        "--vek",
        str(folder / "vek.der"),
        "--chain",
        str(folder / "chain.pem"),
        "--at",
        snp.now.isoformat(),
    ]
    rows: dict[str, list[float]] = {}
    for _ in range(given.runs):
        for name, value in (
            ("known", cpu_ms(snp.verify)),
            ("known bare", cpu_ms(snp.bare)),
            ("new", cpu_ms(snp.verify_new, 20)),
            ("new bare", cpu_ms(snp.bare_new, 20)),
            ("tdx", cpu_ms(tdx.verify)),
            ("tdx new", cpu_ms(tdx.verify_new)),
            ("tdx cold", cpu_ms(tdx.verify_cold)),
            ("tdx bare", cpu_ms(tdx.verify_theirs)),
            ("process", process_ms(verifying)),
            ("process bare", process_ms(importing)),
        ):
            rows.setdefault(name, []).append(value)
    print(f"median of {given.runs}, processor time")
    show("SNP, chain known / its cryptography", rows["known"], rows["known bare"], TARGETS["known"])
    show("SNP, new certificate / its cryptography", rows["new"], rows["new bare"], TARGETS["new"])
    show("TDX, platform known / dcap-qvl", rows["tdx"], rows["tdx bare"], TARGETS["tdx"])
    show("TDX, new platform / dcap-qvl", rows["tdx new"], rows["tdx bare"], TARGETS["tdx"])
    show("TDX, new collateral too / dcap-qvl", rows["tdx cold"], rows["tdx bare"], TARGETS["tdx"])
    show("evidence verify / import of x509", rows["process"], rows["process bare"], TARGETS["process"])


if __name__ == "__main__":
    main()
