"""Trustee's snp evidence: JSON and the report's bytes say the same, bit by bit."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from krunpy.core.errors import FormatError
from krunpy.formats.evidence_sev import SnpEvidence, make_sev_evidence, parse_sev_evidence
from krunpy.formats.narrow import Fields
from krunpy.formats.snp_certs import CertKind
from krunpy.formats.snp_report import pack_report
from krunpy.formats.snp_tcb import Product, Tcb, pack_tcb
from tests.fakes.amd import CPUID, FakeChip

CHIPS = {product: FakeChip(product=product) for product in Product}
LEVELS = st.integers(0, 255)


def read(document: Any) -> SnpEvidence:
    return parse_sev_evidence(Fields(json.loads(json.dumps(document)), "evidence"))


def example(product: Product = Product.MILAN) -> dict[str, Any]:
    raw = pack_report(CHIPS[product].report())
    return make_sev_evidence(SnpEvidence(report=raw, blobs={CertKind.VCEK: b"vcek"}))


@given(
    st.sampled_from(Product),
    st.integers(2, 5),
    st.builds(Tcb, bootloader=LEVELS, tee=LEVELS, snp=LEVELS, microcode=LEVELS),
)
def test_a_report_survives_the_way_through_json(product: Product, version: int, tcb: Tcb) -> None:
    if version == 2 and product is Product.TURIN:
        return  # its TCB cannot be told
    raw = pack_report(
        CHIPS[product].report(
            version=version,
            cpuid=CPUID[product] if version > 2 else (0, 0, 0),
            launch_tcb=pack_tcb(tcb, product),
        )
    )

    evidence = SnpEvidence(report=raw, blobs={CertKind.VCEK: b"\1\2", CertKind.ASK: b"\3"})

    assert read(make_sev_evidence(evidence)) == evidence


def test_turins_tcb_is_laid_out_as_turins() -> None:
    tcb = {"fmc": 1, "bootloader": 2, "tee": 3, "snp": 4, "microcode": 5}
    document = example(Product.TURIN)
    document["attestation_report"]["reported_tcb"] = tcb

    raw = read(document).report

    assert raw[0x180:0x188] == bytes([1, 2, 3, 4, 0, 0, 0, 5])


def test_options_that_rust_leaves_out_are_none() -> None:
    document = example()
    for name in ("launch_mit_vector", "current_mit_vector"):
        del document["attestation_report"][name]
    document["cert_chain"] = None

    assert read(document).blobs == {}


def test_a_certificate_of_a_kind_without_a_name_is_left_out() -> None:
    document = example()
    document["cert_chain"].append(
        {"cert_type": {"OTHER": "00000000-0000-0000-0000-000000000001"}, "data": [1]}
    )

    assert read(document).blobs == {CertKind.VCEK: b"vcek"}


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("version",), -1),
        (("version",), True),
        (("version",), 1 << 32),
        (("policy",), 1 << 64),
        (("policy",), 1.0),
        (("key_info",), 0x20),
        (("key_info",), 2 << 2),
        (("report_data",), [0] * 63),
        (("report_data",), [0] * 65),
        (("report_data",), [256] + [0] * 63),
        (("chip_id",), "00"),
        (("reported_tcb",), {"bootloader": 1}),
        (("reported_tcb", "snp"), 256),
        (("reported_tcb", "more"), 0),
        (("signature", "r"), [0] * 71),
        (("current", "major"), 256),
        (("cpuid_fam_id",), 256),
        (("unknown",), 0),
    ],
)
def test_a_member_out_of_its_range_is_refused(place: tuple[str, ...], value: object) -> None:
    document = example()
    *path, last = place
    inner = document["attestation_report"]
    for name in path:
        inner = inner[name]
    inner[last] = value

    with pytest.raises(FormatError):
        read(document)


@pytest.mark.parametrize(
    "chain",
    [
        "VCEK",
        [{"cert_type": "VCEK"}],
        [{"cert_type": "VCEK", "data": [256]}],
        [{"cert_type": "VCEK", "data": [1]}] * 2,
        [{"cert_type": "VCEK", "data": [1], "more": 1}],
        [{"cert_type": "Empty", "data": []}] * 33,
    ],
)
def test_a_chain_of_another_shape_is_refused(chain: object) -> None:
    with pytest.raises(FormatError):
        read(example() | {"cert_chain": chain})


def test_every_member_of_the_report_is_needed_or_optional_by_name() -> None:
    optional = {"cpuid_fam_id", "cpuid_mod_id", "cpuid_step", "launch_mit_vector", "current_mit_vector"}

    for name in example()["attestation_report"]:
        document = example()
        del document["attestation_report"][name]
        if name in optional:
            read(document)
        else:
            with pytest.raises(FormatError, match=name):
                read(document)
