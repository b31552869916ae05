"""What a report has to show before a guest of the reference-kbs dialect gets a passphrase."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from krunpy.core.octets import ReportData, Secret
from krunpy.formats import snp_simulated
from krunpy.formats.snp_report import GuestPolicy
from krunpy.formats.snp_tcb import Product
from krunpy.server.app import make_app
from krunpy.server.mode import Mode
from krunpy.server.reference_kbs_attestation import encrypt_passphrase
from krunpy.server.refusals import Refusal
from tests.fakes.amd import FakeChip
from tests.fakes.libkrun_guest import PASSPHRASE, LibkrunGuest
from tests.fakes.libkrun_guest import require_kbs_refused as require_refused

POLICY = GuestPolicy.RESERVED_ONE | GuestPolicy.SMT


@pytest.mark.parametrize(
    ("refusal", "changes"),
    [
        (Refusal.LAUNCH_DIGEST_UNKNOWN, {"measurement": b"\x5b" * 48}),
        (Refusal.POLICY_REFUSED, {"policy": POLICY | GuestPolicy.DEBUG}),
        (Refusal.POLICY_REFUSED, {"policy": POLICY | GuestPolicy.MIGRATE_MA}),
        (Refusal.POLICY_REFUSED, {"vmpl": 1}),
        (Refusal.REPORT_DATA_MISMATCH, {"report_data": ReportData(bytes(64))}),
        (Refusal.EVIDENCE_NOT_VERIFIED, {"chip_id": bytes(64)}),
        (Refusal.EVIDENCE_NOT_VERIFIED, {"family_id": snp_simulated.FAMILY_ID}),
        (Refusal.EVIDENCE_MALFORMED, {"version": 9}),
    ],
)
def test_a_report_that_shows_something_else_is_refused(kbs, libkrun, refusal, changes):
    libkrun.report = changes

    require_refused(libkrun, refusal)

    assert kbs.fake.admin("GET", "/v1/workloads/web").json["released"] == 0


def test_a_report_by_another_key_or_below_another_root_is_refused(kbs, libkrun):
    require_refused(replace(libkrun, chip=FakeChip(signer="evil")), Refusal.EVIDENCE_NOT_VERIFIED)

    kbs.collateral.chip = FakeChip(ask={"signer": rsa.generate_private_key(65537, 4096)})
    require_refused(LibkrunGuest(kbs), Refusal.EVIDENCE_NOT_VERIFIED)


def test_no_flipped_bit_of_a_report_is_accepted(kbs, libkrun):
    accepted = []
    for offset in (*range(0, 0x2A0, 41), 0x2A0, 0x2E8):
        guest = LibkrunGuest(kbs, libkrun.prefix)
        guest.auth()
        evidence = bytearray(guest.make_evidence())
        evidence[offset] ^= 1
        if not guest.attest(guest.make_attest_body(bytes(evidence))).raw:
            accepted.append(offset)

    assert accepted == []


def test_a_server_with_amds_own_roots_refuses_the_tests(kbs, libkrun):
    from krunpy.server.verifier import make_appraiser

    broker = replace(kbs.fake.broker, appraiser=make_appraiser(b"", collateral=kbs.collateral))
    real = replace(kbs, fake=replace(kbs.fake, app=make_app(broker, serves_reference_kbs=True)))

    require_refused(replace(libkrun, server=real), Refusal.EVIDENCE_NOT_VERIFIED)


def test_a_server_that_accepts_simulations_serves_no_guest_of_this_dialect(kbs, libkrun):
    broker = replace(kbs.fake.broker, mode=Mode.DEVELOPMENT)
    loose = replace(kbs, fake=replace(kbs.fake, app=make_app(broker, serves_reference_kbs=True)))

    require_refused(replace(libkrun, server=loose), Refusal.TEE_NOT_ALLOWED)


def test_no_passphrase_is_encrypted_for_what_hardware_did_not_sign():
    with pytest.raises(TypeError, match="hardware's claims, seen NoneType"):
        encrypt_passphrase(None, Secret(b"x"), None)


def test_without_amds_certificate_it_could_not_be_checked(kbs, libkrun):
    kbs.collateral.complete_snp = lambda _payload, _product: None

    require_refused(libkrun, Refusal.COULD_NOT_CHECK)


def test_a_report_that_names_no_product_is_of_the_one_that_the_image_names(kbs, libkrun):
    old = {"version": 2, "cpuid": (0, 0, 0)}
    guest = replace(libkrun, report=old, generation="milan\x7f what was in the buffer")
    assert guest.run() == PASSPHRASE
    assert kbs.collateral.asked == [Product.MILAN]

    record = require_refused(LibkrunGuest(kbs, report=old, generation="genoa"), Refusal.EVIDENCE_NOT_VERIFIED)

    assert "the guest says Genoa, its chain is Milan's" in record["detail"]
    assert record["verdict"]["checks"][-1]["held"] is False


def test_a_report_that_names_its_product_is_believed_before_the_image(kbs, libkrun):
    libkrun.generation = "genoa"

    assert libkrun.run() == PASSPHRASE
    assert kbs.collateral.asked == [None]


def test_a_damaged_passphrase_is_refused(kbs, libkrun):
    with kbs.fake.broker.database.change() as connection:
        connection.execute("UPDATE workloads SET sealed_key=x'01020304'")

    require_refused(libkrun, Refusal.DISK_KEY_DAMAGED)
