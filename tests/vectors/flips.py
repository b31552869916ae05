"""Flip bits of accepted evidence: `python -m tests.vectors.flips [STRIDE]` prints what came of it, as a table.

Every bit of the report or quote is flipped, the certificates inside it included; every byte of what comes
beside it (certificates, CRLs, collateral) is changed by some patterns. Nothing may be accepted, and nothing
but a Refusal or a FormatError may come of it. To be accepted here means that the signatures hold and all
belongs together, before any policy: a policy could only refuse more.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

from krunpy.attest.anchors import load_amd_anchors, load_intel_anchors, split_pem
from krunpy.attest.evidence import read_snp_parts
from krunpy.attest.refusal import Refusal
from krunpy.attest.revocation import Revocation, RevocationMode
from krunpy.attest.tdx_evidence import read_tdx_evidence
from krunpy.attest.tdx_verify import verify_tdx
from krunpy.attest.verify import verify_snp
from krunpy.core.errors import FormatError
from krunpy.formats.tdx_collateral import TdxCollateral, parse_tdx_collateral
from tests.vectors.test_vector_cases import FOLDER

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

KINDS = {
    "Milan": "snp-real/milan-v5-atakit",
    "Genoa": "snp-real/oak-genoa-oc",
    "Turin": "snp-real/oak-turin-oc",
    "VLEK": "snp-real/milan-vlek-coco-vmpl1-allowed",
    "TDX v4": "tdx-real/phala-v4-B",
    "TDX v4 with padding": "tdx-real/google-cos113-v4-E",
    "TDX v5": "tdx-real/google-v5-D",
}
EVIDENCE = ("report", "quote")  # parts of which every bit is flipped
BITS = tuple(1 << bit for bit in range(8))
PATTERNS = (0x01, 0x0A, 0x20, 0x80, 0xFF)  # for every byte of the other parts
UNREAD = "pck_crl_issuer_chain"  # the PCK CRL is held against the CA in the quote, not against this chain
COLLATERAL = tuple(name for name in TdxCollateral.__dataclass_fields__ if name != UNREAD)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Accepted evidence in parts; verify: from parts to claims, or a refusal."""

    name: str
    folder: Path
    parts: dict[str, bytes]
    verify: Callable[[dict[str, bytes]], object]

    def flips(self) -> Iterator[tuple[str, int, int]]:
        """Yield part, offset and pattern of each flip."""
        for name, part in self.parts.items():
            for at in range(len(part)):
                yield from ((name, at, mask) for mask in (BITS if name in EVIDENCE else PATTERNS))

    def change(self, part: str, at: int, mask: int) -> dict[str, bytes]:
        raw = bytearray(self.parts[part])
        raw[at] ^= mask
        return self.parts | {part: bytes(raw)}


@dataclass
class Outcome:
    """What came of the flips of one subject, by part; accepted, crashed: the flips that were or did."""

    counts: Counter = field(default_factory=Counter)
    accepted: list[tuple[str, int, int]] = field(default_factory=list)
    crashed: list[tuple[str, int, int, str]] = field(default_factory=list)


def _verify_snp(case: dict, now: datetime, parts: dict[str, bytes]) -> object:
    policy = case.get("policy") or {}
    crls = (parts["crl"],) if "crl" in parts else ()
    evidence = read_snp_parts(
        parts["report"], leaf=parts["leaf"], intermediate=parts["intermediate"], root=parts["root"]
    )
    return verify_snp(
        evidence,
        anchors=load_amd_anchors(),
        now=now,
        revocation=Revocation(mode=RevocationMode.REQUIRED if crls else RevocationMode.OFF, crls=crls),
        allows_masked_chip=bool(policy.get("allow_masked_chip")),
    )


def _verify_tdx(collateral: TdxCollateral, now: datetime, parts: dict[str, bytes]) -> object:
    given = {name: part for name, part in parts.items() if name in COLLATERAL}
    claims = verify_tdx(
        read_tdx_evidence(parts["quote"]),
        anchors=load_intel_anchors(),
        now=now,
        collateral=replace(collateral, **given),
    )
    assert claims.tcb is not None
    return claims


def load_subject(name: str) -> Subject:
    """Return the evidence of a kind."""
    folder = FOLDER / KINDS[name]
    case = json.loads((folder / "case.json").read_text())
    now = datetime.fromisoformat(case["verify_time"])
    if case["kind"] == "tdx":
        collateral = parse_tdx_collateral((folder / case["collateral"]).read_bytes())
        parts = {"quote": (folder / "quote.bin").read_bytes()}
        parts |= {one: getattr(collateral, one) for one in COLLATERAL}
        return Subject(name=name, folder=folder, parts=parts, verify=partial(_verify_tdx, collateral, now))
    intermediate, root = split_pem((folder / "chain.pem").read_bytes())
    parts = {
        "report": (folder / "report.bin").read_bytes(),
        "leaf": (folder / "vek.der").read_bytes(),
        "intermediate": intermediate,
        "root": root,
    }
    if case.get("crl"):
        parts["crl"] = (folder / case["crl"]).read_bytes()
    return Subject(name=name, folder=folder, parts=parts, verify=partial(_verify_snp, case, now))


def flip(subject: Subject, stride: int) -> Outcome:
    """Return what comes of every flip, or of every `stride`-th."""
    outcome = Outcome()
    for number, (part, at, mask) in enumerate(subject.flips()):
        if number % stride:
            continue
        outcome.counts[part] += 1
        try:
            subject.verify(subject.change(part, at, mask))
        except (Refusal, FormatError):
            continue
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
            outcome.crashed.append((part, at, mask, repr(error)))
        else:
            outcome.accepted.append((part, at, mask))
    return outcome


def main(stride: int) -> int:
    """Print the table. Returns 1 if anything was accepted or crashed."""
    found = 0
    for name in KINDS:
        start = time.monotonic()
        subject = load_subject(name)
        subject.verify(subject.parts)
        outcome = flip(subject, stride)
        found += len(outcome.accepted) + len(outcome.crashed)
        counts = ", ".join(f"{part} {count}" for part, count in outcome.counts.items())
        print(
            f"{name}: {outcome.counts.total()} flips, {len(outcome.accepted)} accepted, "
            f"{len(outcome.crashed)} crashed, {time.monotonic() - start:.0f} s ({counts})",
            flush=True,
        )
        for one in (*outcome.accepted, *outcome.crashed):
            print("  found:", *one)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1))
