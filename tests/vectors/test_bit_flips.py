"""No bit of real evidence can be changed, wherever it is: a sample of all, or all if KRUNPY_TESTS_FULL=1.

`python -m tests.vectors.flips` does all of it and prints the figures.
"""

import os
from dataclasses import replace

import pytest

from krunpy.attest.refusal import Refusal, Stage
from krunpy.formats.snp_report import REPORT_SIZE, SIGNED_SIZE
from krunpy.formats.tdx_quote import parse_tdx_quote
from tests.vectors.flips import BITS, KINDS, UNREAD, flip, load_subject
from tests.vectors.run import run_case
from tests.vectors.test_vector_cases import FOLDER

pytestmark = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="no attestation vectors: set KRUNPY_VECTORS to their folder"
)
STRIDE = 1 if os.environ.get("KRUNPY_TESTS_FULL") == "1" else 23  # a prime: it meets every bit of a byte
SNP = [name for name in KINDS if not name.startswith("TDX")]
TDX = [name for name in KINDS if name.startswith("TDX")]
SIGNATURE_SIZE = 48  # bytes of R or S that may be other than zero
R, S, AFTER_S = 0x2A0, 0x2E8, 0x330


@pytest.mark.parametrize("name", KINDS)
def test_the_evidence_whose_bits_are_flipped_is_accepted(name: str) -> None:
    path = FOLDER / KINDS[name] / "case.json"

    assert run_case(FOLDER, path)["verdict"] == "accept"


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_no_flip_of_accepted_evidence_is_accepted_and_none_crashes(name: str) -> None:
    subject = load_subject(name)

    outcome = flip(subject, STRIDE)

    assert set(outcome.counts) == set(subject.parts)
    assert outcome.accepted == []
    assert outcome.crashed == []


@pytest.mark.parametrize("name", SNP)
def test_a_bit_of_a_report_that_nobody_signs_must_be_zero(name: str) -> None:
    subject = load_subject(name)
    unsigned = [
        *range(R + SIGNATURE_SIZE, S),
        *range(S + SIGNATURE_SIZE, AFTER_S),
        *range(AFTER_S, REPORT_SIZE),
    ]
    wrong = []

    assert R == SIGNED_SIZE
    assert not any(subject.parts["report"][at] for at in unsigned)
    for at in unsigned:
        with pytest.raises(Refusal) as caught:
            subject.verify(subject.change("report", at, BITS[at % len(BITS)]))
        if caught.value.stage is not (Stage.PARSE if at >= AFTER_S else Stage.SIGNATURE):
            wrong.append((at, caught.value.code))
    assert wrong == []


@pytest.mark.parametrize("name", TDX)
def test_a_bit_behind_the_end_of_a_quote_must_be_zero(name: str) -> None:
    subject = load_subject(name)
    raw = subject.parts["quote"]
    padding = parse_tdx_quote(raw).padding
    longer = subject.parts | {"quote": raw + bytes(8)}

    assert padding or name == "TDX v5"
    subject.verify(longer)
    for at in range(len(raw) - padding, len(raw) + 8, max(1, padding // 64)):
        changed = bytearray(longer["quote"])
        changed[at] ^= BITS[at % len(BITS)]
        with pytest.raises(Refusal) as caught:
            subject.verify(longer | {"quote": bytes(changed)})
        assert caught.value.stage is Stage.PARSE, at


@pytest.mark.parametrize("name", TDX)
def test_the_chain_beside_a_pck_crl_decides_nothing(name: str) -> None:
    """It is the one part of the collateral that no flip reaches: the CA in the quote has to have signed."""
    subject = load_subject(name)
    (collateral, *rest) = subject.verify.args  # type: ignore[attr-defined]
    without = replace(collateral, **{UNREAD: b""})

    claims = subject.verify.func(without, *rest, subject.parts)  # type: ignore[attr-defined]

    assert claims.is_revocation_checked
    assert claims == subject.verify(subject.parts)
