"""The chain from hardware to challenge through Azure's virtual TPM: each link, broken alone, is noticed."""

import base64
import json
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest

from krunpy.attest.azure import VtpmClaims, appraise_vtpm, hash_runtime_data, read_vcek, verify_vtpm
from krunpy.attest.policy import OneOf, Unchecked
from krunpy.attest.refusal import Refusal
from krunpy.formats.evidence_azure import AzureEvidence, parse_azure_evidence
from krunpy.formats.narrow import Fields
from krunpy.formats.snp_report import parse_report
from krunpy.formats.tpm_quote import PcrSelection, pack_tpm_quote
from tests.fakes.amd import FakeChip
from tests.fakes.azure import (
    ALL,
    NONCE,
    PCRS,
    encode_number,
    key,
    make_document,
    make_quote,
    make_runtime_data,
)

CHIP = FakeChip()
ANY = Unchecked(reason="test")


def make_evidence(**changes: Any) -> AzureEvidence:
    return parse_azure_evidence(Fields(json.loads(json.dumps(make_document(CHIP, **changes))), "evidence"))


def verify(evidence: AzureEvidence) -> VtpmClaims:
    report = parse_report(evidence.hcl.hardware_report)
    return verify_vtpm(evidence, report_data=bytes(report.report_data))


def refuse(evidence: AzureEvidence) -> tuple[str, str]:
    with pytest.raises(Refusal) as caught:
        verify(evidence)
    return caught.value.stage.value, caught.value.code


def expecting(nonce: bytes) -> OneOf:
    return OneOf(values=frozenset({nonce}), source="test")


def failures(claims: VtpmClaims, nonce: bytes) -> list[str]:
    return [check.name for check in appraise_vtpm(claims, nonce=expecting(nonce)) if not check.held]


def test_evidence_that_holds_gives_the_challenge_and_the_registers() -> None:
    claims = verify(make_evidence())

    assert (claims.nonce, claims.pcrs, claims.user_data) == (NONCE, PCRS, NONCE.ljust(64, b"\0"))
    assert failures(claims, NONCE) == []


def test_claims_cannot_be_made_without_verifying() -> None:
    with pytest.raises(TypeError, match="verify_vtpm"):
        replace(verify(make_evidence()), proof=None)


def test_runtime_data_that_the_hardware_did_not_sign_is_refused() -> None:
    mine = make_runtime_data("evil")

    assert refuse(make_evidence(runtime_data=mine, signer="evil", report_data=bytes(64))) == (
        "binding",
        "runtime-data",
    )


def test_every_byte_of_report_data_counts() -> None:
    evidence = make_evidence()
    bound = hash_runtime_data(evidence)

    for index in range(64):
        changed = bound[:index] + bytes([bound[index] ^ 1]) + bound[index + 1 :]
        with pytest.raises(Refusal) as caught:
            verify_vtpm(evidence, report_data=changed)
        assert caught.value.code == "runtime-data"


def test_a_quote_signed_by_another_key_is_refused() -> None:
    assert refuse(make_evidence(signer="evil")) == ("signature", "vtpm-signature")


def test_a_quote_changed_after_it_was_signed_is_refused() -> None:
    evidence = make_evidence()
    other = pack_tpm_quote(make_quote(nonce=b"challengf"))

    assert refuse(replace(evidence, message=other)) == ("signature", "vtpm-signature")


def test_a_signature_that_is_empty_or_too_long_is_refused() -> None:
    evidence = make_evidence()

    assert refuse(replace(evidence, signature=b"")) == ("signature", "vtpm-signature")
    assert refuse(replace(evidence, signature=evidence.signature + b"\0")) == ("signature", "vtpm-signature")


def test_a_short_attestation_key_is_refused() -> None:
    runtime = make_runtime_data(bits=1024)

    assert refuse(make_evidence(runtime_data=runtime, bits=1024)) == ("binding", "vtpm-key")


@pytest.mark.parametrize("exponent", [1, 3, 65536])
def test_another_exponent_is_refused(exponent: int) -> None:
    names = {
        "e": encode_number(exponent),
        "n": encode_number(key("ak", 2048).public_key().public_numbers().n),
    }
    runtime = make_runtime_data(keys=[{"kid": "HCLAkPub", "kty": "RSA", **names}])

    assert refuse(make_evidence(runtime_data=runtime)) == ("binding", "vtpm-key")


def test_a_signed_message_that_is_no_quote_is_refused() -> None:
    assert refuse(make_evidence(message=b"certify, not quote")) == ("parse", "vtpm-quote")


@pytest.mark.parametrize(
    "selections",
    [
        (),
        (PcrSelection(algorithm=4, indices=tuple(range(24))),),
        (PcrSelection(algorithm=11, indices=tuple(range(23))),),
        (ALL, ALL),
        (PcrSelection(algorithm=11, indices=()), ALL),
    ],
)
def test_a_quote_of_other_registers_is_refused(selections: tuple[PcrSelection, ...]) -> None:
    message = pack_tpm_quote(make_quote(selections=selections))

    assert refuse(make_evidence(message=message)) == ("binding", "vtpm-selection")


def test_registers_that_were_exchanged_are_refused() -> None:
    exchanged = (PCRS[1], PCRS[0], *PCRS[2:])

    assert refuse(make_evidence(pcrs=exchanged)) == ("binding", "vtpm-pcrs")


def test_a_quote_for_another_challenge_does_not_hold() -> None:
    message = pack_tpm_quote(make_quote(nonce=b"yesterday"))

    assert failures(verify(make_evidence(message=message)), NONCE) == ["vtpm-nonce"]


def test_a_challenge_that_only_begins_alike_does_not_hold() -> None:
    assert failures(verify(make_evidence()), NONCE[:-1]) == ["vtpm-nonce", "vtpm-user-data"]


@pytest.mark.parametrize(
    "user_data", [b"yesterday".ljust(64, b"\0"), NONCE.ljust(64, b"\1"), NONCE[:-1], b"", None]
)
def test_other_user_data_does_not_hold_from_version_2_on(user_data: bytes | None) -> None:
    runtime = make_runtime_data(user_data=user_data)

    assert failures(verify(make_evidence(runtime_data=runtime)), NONCE) == ["vtpm-user-data"]
    assert failures(verify(make_evidence(runtime_data=runtime, version=1)), NONCE) == []


def test_what_was_not_asked_for_is_shown_as_any() -> None:
    checks = appraise_vtpm(verify(make_evidence()), nonce=ANY)

    assert {check.name: (check.wanted, check.held) for check in checks} == {
        "vtpm-nonce": ("any", True),
        "vtpm-user-data": ("any", True),
        "vtpm-init-data": ("any", True),
        "vtpm-pcr-digest": ("any", True),
    }


def test_the_init_data_register_is_the_eighth() -> None:
    (check,) = (
        check for check in appraise_vtpm(verify(make_evidence()), nonce=ANY) if check.name == "vtpm-init-data"
    )

    assert check.seen == PCRS[8].hex()


def test_the_bound_hash_is_sha256_and_zeros() -> None:
    evidence = make_evidence()

    assert hash_runtime_data(evidence) == sha256(evidence.hcl.runtime_data).digest() + bytes(32)


def test_a_vcek_in_pem_is_read_and_a_broken_one_is_refused() -> None:
    evidence = make_evidence()
    lines = base64.encodebytes(evidence.vek)
    pem = b"-----BEGIN CERTIFICATE-----\n" + lines + b"-----END CERTIFICATE-----\n"

    assert read_vcek(evidence) == evidence.vek
    assert read_vcek(replace(evidence, vek=pem)) == evidence.vek
    with pytest.raises(Refusal):
        read_vcek(replace(evidence, vek=b"-----BEGIN CERTIFICATE-----\n"))
    with pytest.raises(Refusal):
        read_vcek(replace(evidence, vek=b"-----BEGIN CERTIFICATE-----A-----END CERTIFICATE-----"))
