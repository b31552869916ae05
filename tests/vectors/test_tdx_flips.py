"""No byte of a real quote can be changed: neither what is signed, nor what only carries it."""

import json
from datetime import datetime

import pytest

from krunpy.attest.anchors import load_intel_anchors
from krunpy.attest.refusal import Refusal
from krunpy.attest.tdx_evidence import read_tdx_evidence
from krunpy.attest.tdx_verify import verify_tdx
from krunpy.formats.tdx_collateral import parse_tdx_collateral
from tests.vectors.test_vector_cases import FOLDER

pytestmark = [
    pytest.mark.skipif(not FOLDER.is_dir(), reason="no attestation vectors: set KRUNPY_VECTORS"),
    pytest.mark.slow,
]


@pytest.mark.parametrize("name", ["phala-v4-B", "google-v5-D"])
def test_no_byte_of_a_real_quote_can_be_changed(name: str) -> None:
    folder = FOLDER / "tdx-real" / name
    case = json.loads((folder / "case.json").read_text())
    raw = (folder / "quote.bin").read_bytes()
    given = {
        "anchors": load_intel_anchors(),
        "now": datetime.fromisoformat(case["verify_time"]),
        "collateral": parse_tdx_collateral((folder / case["collateral"]).read_bytes()),
    }
    assert verify_tdx(read_tdx_evidence(raw), **given).tcb is not None
    accepted = []
    for at in range(len(raw)):
        flipped = raw[:at] + bytes([raw[at] ^ 1 << at % 8]) + raw[at + 1 :]
        try:
            verify_tdx(read_tdx_evidence(flipped), **given)
        except Refusal:
            continue
        accepted.append(at)

    assert accepted == []
