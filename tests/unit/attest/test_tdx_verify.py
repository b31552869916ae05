"""TDX evidence: what holds becomes claims; each step refuses what only it can see, at its stage."""

from datetime import UTC, datetime
from hashlib import sha256

import pytest

from krunpy.attest.refusal import Refusal, Stage
from krunpy.attest.tdx_claims import TcbStatus, TdxClaims
from krunpy.attest.tdx_evidence import read_tdx_evidence
from krunpy.attest.tdx_verify import verify_tdx
from krunpy.formats.tdx_quote import BodyType
from tests.fakes.intel import FakePlatform, public_point
from tests.fakes.intel_collateral import mint_collateral, module_signer
from tests.fakes.intel_pki import (
    COMPONENTS,
    FMSPC,
    LATER,
    LONG_AGO,
    NOW,
    PROCESSOR_CA,
    anchors,
    name,
    pem,
    sign,
)

GOOD = FakePlatform()


def refused(stage: Stage, code: str, platform: FakePlatform = GOOD, **changes) -> None:
    """Verify, and expect to be refused so; `now` and `collateral` are verify_tdx's, the rest is the quote's."""
    now, collateral = changes.pop("now", NOW), changes.pop("collateral", None) or mint_collateral()
    with pytest.raises(Refusal) as caught:
        verify_tdx(
            read_tdx_evidence(changes.pop("raw", None) or platform.quote(**changes)),
            anchors=anchors(),
            now=now,
            collateral=collateral,
        )
    assert (caught.value.stage, caught.value.code) == (stage, code)


@pytest.mark.parametrize(
    ("version", "body"), [(4, BodyType.TD_1_0), *((5, body) for body in BodyType)], ids=str
)
def test_a_good_quote_of_every_body_becomes_claims(version: int, body: BodyType) -> None:
    claims = GOOD.claims(version=version, body=body)

    assert claims.tcb is not None
    assert claims.tcb.status is TcbStatus.UP_TO_DATE
    assert claims.tcb.module is TcbStatus.UP_TO_DATE
    assert claims.tcb.evaluation_number == 20  # TCB Info's; the QE identity's is 21
    assert claims.tcb.tcb_date == datetime(2025, 1, 1, tzinfo=UTC)
    assert claims.tcb.advisory_ids == frozenset()
    assert claims.is_revocation_checked
    assert not claims.simulated
    assert claims.quote.td.mrtd == b"\x11" * 48


def test_the_platform_is_named_by_its_certificate() -> None:
    pck = GOOD.claims().pck

    assert (pck.fmspc, pck.pceid, pck.ppid, pck.piid) == (FMSPC, bytes(2), b"\x77" * 16, b"\x66" * 16)
    assert (pck.components, pck.cpu_svn, pck.pce_svn, pck.sgx_type) == (COMPONENTS, COMPONENTS, 13, 1)
    assert (pck.dynamic_platform, pck.cached_keys, pck.smt_enabled) == (True, False, True)
    assert pck.ca_kind == "platform"


def test_a_processor_ca_issues_platforms_without_a_piid_and_configuration() -> None:
    platform = FakePlatform(
        ca={"subject": name(PROCESSOR_CA)},
        leaf={"issuer": name(PROCESSOR_CA)},
        sgx={"6": None, "7": None},
    )

    claims = verify_tdx(platform.evidence(), anchors=anchors(), now=NOW, collateral=None)

    assert claims.pck.ca_kind == "processor"
    assert (claims.pck.piid, claims.pck.smt_enabled) == (None, None)


def test_without_collateral_the_claims_say_that_nothing_but_signatures_is_known() -> None:
    claims = verify_tdx(GOOD.evidence(), anchors=anchors(), now=NOW, collateral=None)

    assert claims.tcb is None
    assert not claims.is_revocation_checked


def test_claims_cannot_be_made_by_hand() -> None:
    claims = GOOD.claims()

    with pytest.raises(TypeError, match="verify_tdx alone"):
        TdxClaims(
            quote=claims.quote,
            simulated=False,
            pck=claims.pck,
            tcb=claims.tcb,
            is_revocation_checked=True,
            proof=object(),
        )


def test_zero_padding_after_the_quote_is_no_part_of_it() -> None:
    evidence = read_tdx_evidence(GOOD.quote() + bytes(70))

    assert verify_tdx(evidence, anchors=anchors(), now=NOW, collateral=mint_collateral()).tcb is not None


# Step 0: reading.


@pytest.mark.parametrize(
    "chain",
    [
        pem(*GOOD.chain) + b"\n",
        pem(*GOOD.chain).replace(b"\n", b"\v", 1),
        pem(*GOOD.chain) + b"\0\0",
        pem(*GOOD.chain).replace(b"BEGIN CERTIFICATE", b"BEGIN X509 CERTIFICATE", 1),
        b"",
    ],
    ids=["second newline", "other blank", "second NUL", "other label", "empty"],
)
def test_a_chain_that_is_not_written_strictly_is_refused(chain: bytes) -> None:
    refused(Stage.PARSE, "quote-format", chain=chain or b"\0")


@pytest.mark.parametrize("chain", [pem(*GOOD.chain)[:-1], pem(*GOOD.chain) + b"\0"], ids=["no end", "NUL"])
def test_a_chain_may_end_without_a_newline_or_in_nul(chain: bytes) -> None:
    assert GOOD.claims(chain=chain).tcb is not None


def test_another_vendors_quoting_enclave_is_refused() -> None:
    refused(Stage.PARSE, "qe-vendor", FakePlatform(vendor=bytes(16)))


def test_bytes_that_are_no_quote_are_refused() -> None:
    refused(Stage.PARSE, "quote-format", raw=b"\4")


# Step 2: validity.


@pytest.mark.parametrize(
    "platform",
    [
        FakePlatform(leaf={"not_after": datetime(2026, 5, 31, tzinfo=UTC)}),
        FakePlatform(leaf={"not_before": datetime(2026, 6, 2, tzinfo=UTC)}),
        FakePlatform(ca={"not_after": datetime(2026, 5, 31, tzinfo=UTC)}),
    ],
    ids=["PCK past", "PCK future", "CA past"],
)
def test_a_certificate_of_another_time_is_refused(platform: FakePlatform) -> None:
    refused(Stage.VALIDITY, "certificate-validity", platform)


def test_the_roots_own_time_counts() -> None:
    platform = FakePlatform(leaf={"not_after": datetime(2040, 1, 1, tzinfo=UTC)})
    late = FakePlatform(leaf=platform.leaf, ca=platform.leaf)

    refused(Stage.VALIDITY, "certificate-validity", late, now=datetime(2035, 1, 1, tzinfo=UTC))


@pytest.mark.parametrize("now", [LONG_AGO, LATER], ids=["first second", "last second"])
def test_the_limits_of_a_certificates_time_belong_to_it(now: datetime) -> None:
    assert verify_tdx(GOOD.evidence(), anchors=anchors(), now=now, collateral=None).pck.fmspc == FMSPC


# Steps 5 and 6: the QE and the quote.


def test_a_qe_report_that_another_key_signed_is_refused() -> None:
    refused(Stage.SIGNATURE, "qe-signature", FakePlatform(qe_signer="evil"))


def test_an_attestation_key_that_the_qe_does_not_name_is_refused() -> None:
    refused(Stage.BINDING, "attestation-key", FakePlatform(report_data=b"\1" * 32 + bytes(32)))


def test_report_data_of_the_qe_with_a_tail_is_refused() -> None:
    good = GOOD.qe_report(bytes(range(32)))[-64:-32]

    refused(Stage.BINDING, "attestation-key", FakePlatform(report_data=good + b"\1" + bytes(31)))


def test_a_quote_that_another_key_signed_is_refused() -> None:
    refused(Stage.SIGNATURE, "signature", FakePlatform(quote_signer="evil"))


@pytest.mark.parametrize("signed", [slice(48, None), slice(0, -1)], ids=["no header", "no last byte"])
def test_a_signature_over_another_region_is_refused(signed: slice) -> None:
    refused(Stage.SIGNATURE, "signature", signed=signed)


def test_the_body_descriptor_of_version_5_is_signed_too() -> None:
    without = b"".join([GOOD.quote(version=5)[:48], GOOD.quote(version=5)[54 : 54 + 584]])
    raw = bytearray(GOOD.quote(version=5))
    raw[54 + 584 + 4 : 54 + 584 + 68] = sign("ak", without)

    refused(Stage.SIGNATURE, "signature", raw=bytes(raw))


@pytest.mark.parametrize("scalar", ["r", "s"])
@pytest.mark.parametrize("value", [0, 2**256 - 1], ids=["zero", "too large"])
def test_a_scalar_outside_its_range_is_refused(scalar: str, value: int) -> None:
    raw = bytearray(GOOD.quote())
    at = 48 + 584 + 4 + (0 if scalar == "r" else 32)
    raw[at : at + 32] = value.to_bytes(32, "big")

    refused(Stage.SIGNATURE, "signature", raw=bytes(raw))


def test_an_attestation_key_that_is_no_point_is_refused() -> None:
    point = bytes(64)
    good = GOOD.quote()
    at = good.index(public_point("ak"))
    bound = sha256(point + bytes(range(32))).digest() + bytes(32)
    raw = FakePlatform(report_data=bound).quote()
    raw = raw[:at] + point + raw[at + 64 :]

    refused(Stage.SIGNATURE, "attestation-key", raw=raw)


# Step 7: binding.


def test_a_tcb_info_of_another_platform_is_refused() -> None:
    refused(Stage.BINDING, "fmspc", collateral=mint_collateral(info={"fmspc": "00f0f0000002"}))


def test_a_tcb_info_of_another_pce_is_refused() -> None:
    refused(Stage.BINDING, "pceid", collateral=mint_collateral(info={"pceId": "0100"}))


@pytest.mark.parametrize(
    "qe",
    [
        {"miscselect": b"\1\0\0\0"},
        {"attributes": bytes.fromhex("17000000000000000000000000000000")},  # DEBUG
        {"mrsigner": bytes(32)},
        {"isv_prod_id": b"\1\0"},
    ],
    ids=lambda qe: next(iter(qe)),
)
def test_a_quoting_enclave_that_is_not_intels_is_refused(qe: dict[str, bytes]) -> None:
    refused(Stage.BINDING, "qe-identity", FakePlatform(qe=qe))


def test_bits_of_the_qe_outside_the_mask_do_not_count() -> None:
    # ATTRIBUTES bit 2 (MODE64BIT) and XFRM are not in the mask
    qe = {"attributes": bytes.fromhex("1100000000000000e700000000000000")}

    assert FakePlatform(qe=qe).claims().tcb is not None


@pytest.mark.parametrize("svn", [bytes([5, 0, 6]), bytes([5, 1, 6])], ids=["no identity", "TDX_01"])
def test_a_module_that_intel_did_not_sign_is_refused(svn: bytes) -> None:
    refused(Stage.BINDING, "module-signer", tee_tcb_svn=svn.ljust(16, b"\0"), mrsignerseam=b"\1" * 48)


@pytest.mark.parametrize("svn", [bytes([5, 0, 6]), bytes([5, 1, 6])], ids=["no identity", "TDX_01"])
def test_a_module_with_other_attributes_is_refused(svn: bytes) -> None:
    refused(
        Stage.BINDING, "module-attributes", tee_tcb_svn=svn.ljust(16, b"\0"), seam_attributes=b"\1" + bytes(7)
    )


def test_the_signer_of_the_module_is_that_of_its_own_identity() -> None:
    signer = module_signer() | {"mrsigner": "11" * 48}
    collateral = mint_collateral(info={"tdxModule": signer})

    assert GOOD.claims(collateral=collateral).tcb is not None
    refused(Stage.BINDING, "module-signer", collateral=collateral, tee_tcb_svn=bytes([5, 0, 6, *bytes(13)]))


def test_attributes_of_the_module_outside_the_mask_do_not_count() -> None:
    signer = module_signer() | {"attributesMask": "FE" + "FF" * 7}
    collateral = mint_collateral(info={"tdxModule": signer})
    svn = bytes([5, 0, 6, *bytes(13)])

    claims = GOOD.claims(collateral=collateral, tee_tcb_svn=svn, seam_attributes=b"\1" + bytes(7))

    assert claims.tcb is not None
    assert claims.tcb.module is None


# Step 8: a level that does not cover the platform is refused; which level it is, is told in test_tdx_tcb.


def test_a_platform_that_no_level_covers_is_refused() -> None:
    refused(Stage.TCB, "tcb-platform", tee_tcb_svn=bytes([5, 1, 1, *bytes(13)]))


# Every bit.


@pytest.mark.parametrize("version", [4, 5])
def test_no_bit_of_a_quote_can_be_flipped(version: int) -> None:
    raw = GOOD.quote(version=version, body=BodyType.TD_1_0 if version == 4 else BodyType.TD_1_5) + bytes(8)
    collateral = mint_collateral()
    accepted = []
    for at in range(len(raw)):
        # every byte, its bits in turn: all of them would be eight times as many and see the same checks
        flipped = raw[:at] + bytes([raw[at] ^ 1 << at % 8]) + raw[at + 1 :]
        try:
            evidence = read_tdx_evidence(flipped)
            verify_tdx(evidence, anchors=anchors(), now=NOW, collateral=collateral)
        except Refusal:
            continue
        accepted.append(at)

    assert accepted == []
