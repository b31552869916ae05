"""Refusals of SNP evidence that nothing but one part of one check makes."""

import pytest

from krunpy.attest.evidence import UnverifiedSnp
from krunpy.attest.refusal import Refusal, Stage
from krunpy.attest.verify import verify_snp
from krunpy.formats.snp_tcb import Product, Tcb, pack_tcb
from tests.fakes import amd
from tests.fakes.amd import NOW, OID, FakeChip


def refused(evidence: UnverifiedSnp) -> tuple[str, str]:
    with pytest.raises(Refusal) as caught:
        verify_snp(evidence, anchors=amd.anchors(), now=NOW)
    return caught.value.stage, caught.value.code


def test_a_reported_tcb_above_the_current_is_refused_where_the_committed_is_not() -> None:
    low = pack_tcb(Tcb(bootloader=1), Product.MILAN)

    evidence = FakeChip().evidence(current_tcb=low, committed_tcb=low)

    assert refused(evidence) == (Stage.BINDING, "tcb-order")


@pytest.mark.parametrize("constraints", [b"\x30\x03\x01\x01\x00", b"\x30\x00", b"\x30\x03\x02\x01\x01"])
def test_an_intermediate_whose_constraints_do_not_say_that_it_is_a_ca_is_refused(constraints: bytes) -> None:
    chip = FakeChip(ask={"is_ca": None, "extensions": (("2.5.29.19", constraints, True),)})

    assert refused(chip.evidence()) == (Stage.CHAIN, "chain-ca")


def test_a_hwid_with_bytes_behind_its_octet_string_is_refused() -> None:
    chip = FakeChip()
    longer = FakeChip(add={f"{OID}.4": b"\x04\x40" + chip.chip_id + b"\0"})

    assert refused(longer.evidence()) == (Stage.PARSE, "certificate-format")
