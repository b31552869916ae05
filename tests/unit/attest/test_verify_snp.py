"""Every check of the verifier refuses something that only it refuses: the code names the check."""

from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from krunpy.attest.evidence import UnverifiedSnp, read_snp_evidence, read_snp_parts
from krunpy.attest.refusal import Refusal, Stage
from krunpy.attest.verify import SnpClaims, verify_snp
from krunpy.formats import snp_simulated
from krunpy.formats.snp_certs import CertKind, pack_cert_table, pack_evidence
from krunpy.formats.snp_report import SigningKey
from krunpy.formats.snp_tcb import Product, Tcb, pack_tcb
from tests.fakes import amd
from tests.fakes.amd import NOW, OID, FakeChip, name, rsa_key

P384_ORDER = int(
    "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973", 16
)


def verify(evidence: UnverifiedSnp, **more) -> SnpClaims:
    return verify_snp(evidence, anchors=amd.anchors(), now=more.pop("now", NOW), **more)


def refused(evidence: UnverifiedSnp, **more) -> tuple[str, str]:
    with pytest.raises(Refusal) as caught:
        verify(evidence, **more)
    return caught.value.stage, caught.value.code


@pytest.mark.parametrize(
    ("product", "version"),
    [(p, v) for p in Product for v in (2, 3, 4, 5) if (p, v) != (Product.TURIN, 2)],
)
def test_a_good_report_of_every_product_and_version_gives_claims(product: Product, version: int) -> None:
    chip = FakeChip(product=product)
    cpuid = (0, 0, 0) if version == 2 else amd.CPUID[product]

    claims = verify(chip.evidence(version=version, cpuid=cpuid))

    assert claims.product is product
    assert claims.reported_tcb == amd.TCB[product]
    assert not claims.simulated


def test_a_vlek_report_gives_claims_that_name_the_cloud() -> None:
    claims = verify(FakeChip(kind=SigningKey.VLEK).evidence())

    assert claims.csp_id == "CN=fake"
    assert claims.is_chip_masked


def test_a_hwid_in_an_octet_string_is_read() -> None:
    chip = FakeChip()

    assert verify(replace(chip, add={f"{OID}.4": b"\x04\x40" + chip.chip_id}).evidence())


def test_claims_cannot_be_made_up() -> None:
    claims = verify(FakeChip().evidence())

    with pytest.raises(TypeError, match="verify_snp alone"):
        replace(claims, proof=object())


CHAIN = {
    "another issuer": (FakeChip(leaf={"issuer": name("SEV-Naples")}), "chain-issuer"),
    "an issuer of another organization": (
        FakeChip(ask={"subject": name("SEV-Milan", "Nobody")}, leaf={"issuer": name("SEV-Milan", "Nobody")}),
        "chain-names",
    ),
    "an intermediate for another product": (FakeChip(ask={"subject": name("SEV-Genoa")}), "chain-names"),
    "an intermediate of another issuer": (FakeChip(ask={"issuer": name("ARK-Genoa")}), "chain-names"),
    "an intermediate that is no CA": (FakeChip(ask={"is_ca": False}), "chain-ca"),
    "an intermediate without constraints": (FakeChip(ask={"is_ca": None}), "chain-ca"),
    "an intermediate that may not sign": (FakeChip(ask={"cert_sign": False}), "chain-ca"),
    "an intermediate without key usage": (FakeChip(ask={"cert_sign": None}), "chain-ca"),
    "an intermediate with empty key usage": (
        FakeChip(ask={"cert_sign": None, "extensions": (("2.5.29.15", b"\x03\x01\x00", True),)}),
        "chain-ca",
    ),
    "an intermediate signed by another key": (FakeChip(ask={"signer": rsa_key("evil")}), "chain-signature"),
    "an intermediate with another salt": (FakeChip(ask={"salt": 32}), "chain-signature"),
    "an intermediate with SHA-256": (FakeChip(ask={"hash": hashes.SHA256()}), "chain-signature"),
    "a leaf with another name": (FakeChip(leaf={"subject": name("VCEK")}), "chain-names"),
    "a leaf of another organization": (FakeChip(leaf={"subject": name("SEV-VCEK", "Nobody")}), "chain-names"),
    "a VLEK below the ASK": (FakeChip(leaf={"subject": name("SEV-VLEK")}), "chain-names"),
    "a leaf whose issuer is another name": (
        FakeChip(leaf={"issuer": name("SEV-Milan", "Advanced Micro Device")}),
        "chain-names",
    ),
    "a leaf that is a CA": (FakeChip(leaf={"is_ca": True}), "chain-leaf"),
    "a leaf signed by another key": (FakeChip(leaf={"signer": rsa_key("evil")}), "chain-signature"),
    "a leaf with another salt": (FakeChip(leaf={"salt": 32}), "chain-signature"),
    "a leaf with SHA-256": (FakeChip(leaf={"hash": hashes.SHA256()}), "chain-signature"),
    "a leaf on P-256": (FakeChip(leaf={"key": ec.generate_private_key(ec.SECP256R1())}), "chain-key"),
    "a leaf with an RSA key": (FakeChip(leaf={"key": rsa_key("evil")}), "chain-key"),
    "an unknown critical extension": (
        FakeChip(ask={"extensions": (("1.2.3.4", b"\x05\x00", True),)}),
        "chain-extension",
    ),
    "a mark of simulation": (
        FakeChip(ask={"extensions": ((snp_simulated.EXTENSION_OID, b"\x05\x00", True),)}),
        "chain-extension",
    ),
}


@pytest.mark.parametrize("case", CHAIN)
def test_a_chain_is_refused_for(case: str) -> None:
    chip, code = CHAIN[case]

    assert refused(chip.evidence()) == (Stage.CHAIN, code)


def test_a_leaf_that_names_another_algorithm_than_it_is_signed_with_is_refused() -> None:
    good = FakeChip().evidence()
    evidence = replace(good, leaf=amd.rename_algorithm(good.leaf, rsa_key("ask")))

    assert refused(evidence) == (Stage.CHAIN, "chain-signature")


def test_an_intermediate_with_a_short_key_is_refused() -> None:
    short = rsa.generate_private_key(65537, 2048)
    chip = FakeChip(ask={"key": short}, leaf={"signer": short})

    assert refused(chip.evidence()) == (Stage.CHAIN, "chain-key")


def test_a_root_that_is_not_the_trusted_one_is_refused() -> None:
    assert refused(FakeChip().evidence(root=amd.mint_root(Product.GENOA))) == (Stage.CHAIN, "chain-root")


def test_a_product_without_a_trusted_root_is_refused() -> None:
    only_genoa = amd.make_anchors([amd.mint_root(Product.GENOA)])

    with pytest.raises(Refusal, match="no root for Milan is trusted"):
        verify_snp(FakeChip().evidence(), anchors=only_genoa, now=NOW)


def test_a_missing_intermediate_is_refused_where_none_is_pinned() -> None:
    evidence = replace(FakeChip().evidence(), intermediate=None)

    assert refused(evidence) == (Stage.CHAIN, "chain-intermediate")


def test_a_missing_leaf_is_refused() -> None:
    chip = FakeChip()
    table = pack_cert_table({CertKind.ASK: chip.intermediate, CertKind.VLEK: chip.certificate})

    with pytest.raises(Refusal) as caught:
        read_snp_evidence(pack_evidence(chip.sign(chip.report()), table))

    assert caught.value.code == "chain-missing"


@pytest.mark.parametrize("which", ["ask", "leaf"])
@pytest.mark.parametrize("change", [{"not_before": NOW + timedelta(1)}, {"not_after": NOW - timedelta(1)}])
def test_a_certificate_outside_its_validity_is_refused(which: str, change: dict) -> None:
    assert refused(FakeChip(**{which: change}).evidence()) == (Stage.VALIDITY, "certificate-validity")


def test_a_root_outside_its_validity_is_refused() -> None:
    assert refused(FakeChip().evidence(), now=amd.LATER + timedelta(1))[0] == Stage.VALIDITY


def milan(**changes: int) -> bytes:
    return pack_tcb(replace(amd.TCB[Product.MILAN], **changes), Product.MILAN)


LATER_TCB = milan(snp=21)
TURIN = FakeChip(product=Product.TURIN)
BINDING = {
    "a VLEK in the report": (FakeChip(), {"signing_key": SigningKey.VLEK}, "signer-kind"),
    "a VCEK in the report": (FakeChip(kind=SigningKey.VLEK), {"signing_key": SigningKey.VCEK}, "signer-kind"),
    "a processor of another product": (FakeChip(), {"cpuid": (0x19, 0x11, 1)}, "product"),
    "an unknown processor": (FakeChip(), {"cpuid": (0x19, 0x50, 1)}, "product"),
    "no processor": (FakeChip(), {"cpuid": (0, 0, 0)}, "product"),
    "a version 2 report on Turin": (TURIN, {"version": 2, "cpuid": (0, 0, 0)}, "product"),
    "a TCB of another layout": (TURIN, {"launch_tcb": milan()}, "tcb-layout"),
    "a reported TCB above the current": (FakeChip(), {"current_tcb": milan(snp=19)}, "tcb-order"),
    "a committed TCB above the current": (FakeChip(), {"committed_tcb": LATER_TCB}, "tcb-order"),
    "a certificate for another TCB": (
        FakeChip(),
        {"reported_tcb": milan(snp=19), "current_tcb": LATER_TCB},
        "tcb-certificate",
    ),
    "a level above 255": (FakeChip(add={f"{OID}.3.8": b"\x02\x02\x01\x73"}), {}, "tcb-certificate"),
    "a reserved level": (FakeChip(add={f"{OID}.3.5": b"\x02\x01\x01"}), {}, "tcb-certificate"),
    "an FMC level on Milan": (FakeChip(add={f"{OID}.3.9": b"\x02\x01\x00"}), {}, "tcb-certificate"),
    "another FMC level": (replace(TURIN, add={f"{OID}.3.9": b"\x02\x01\x02"}), {}, "tcb-certificate"),
    "a VCEK without a chip": (FakeChip(drop=(f"{OID}.4",)), {}, "vcek-identity"),
    "a VCEK with a cloud": (FakeChip(add={f"{OID}.5": b"\x16\x01a"}), {}, "vcek-identity"),
    "another chip": (FakeChip(), {"chip_id": b"\x09" * 64}, "chip-id"),
    "a masked chip": (FakeChip(), {"chip_id": bytes(64)}, "chip-id"),
    "a short chip identity on Milan": (FakeChip(add={f"{OID}.4": bytes(range(1, 9))}), {}, "chip-id"),
    "a long tail of Turin's chip": (TURIN, {"chip_id": bytes(range(1, 9)) + b"\1" + bytes(55)}, "chip-id"),
    "a VLEK with a chip": (FakeChip(kind=SigningKey.VLEK, add={f"{OID}.4": bytes(64)}), {}, "vlek-identity"),
    "a VLEK without a cloud": (FakeChip(kind=SigningKey.VLEK, drop=(f"{OID}.5",)), {}, "vlek-identity"),
    "simulation in the family": (FakeChip(), {"family_id": snp_simulated.FAMILY_ID}, "marks"),
}


@pytest.mark.parametrize("case", BINDING)
def test_a_report_that_does_not_belong_to_its_certificate_is_refused_for(case: str) -> None:
    chip, changes, code = BINDING[case]

    assert refused(chip.evidence(**changes)) == (Stage.BINDING, code)


@pytest.mark.parametrize("level", [1, 2, 3, 4, 5, 6, 7, 8])
def test_a_certificate_that_leaves_out_a_level_is_refused(level: int) -> None:
    chip = FakeChip(drop=(f"{OID}.3.{level}",))

    assert refused(chip.evidence()) == (Stage.BINDING, "tcb-certificate")


def test_a_chip_marked_as_simulated_is_refused_under_a_real_root() -> None:
    chip_id = b"SIM" + bytes(61)
    chip = FakeChip(add={f"{OID}.4": chip_id})

    assert refused(chip.evidence(chip_id=chip_id)) == (Stage.BINDING, "marks")


def test_a_chip_identity_of_another_products_length_is_refused() -> None:
    short = FakeChip(add={f"{OID}.4": bytes(range(1, 9))})
    long = replace(TURIN, add={f"{OID}.4": TURIN.chip_id})

    assert refused(short.evidence(chip_id=TURIN.chip_id)) == (Stage.BINDING, "chip-id")
    assert refused(long.evidence()) == (Stage.BINDING, "chip-id")


def test_a_masked_chip_is_accepted_where_that_is_allowed() -> None:
    evidence = FakeChip().evidence(chip_id=bytes(64))

    assert verify(evidence, allows_masked_chip=True).is_chip_masked


@pytest.mark.parametrize(
    "value", [b"\x02\x02\x00\x73", b"\x02\x01\x73\x00", b"\x02\x01\xff", b"\x04\x01\x73", b""]
)
def test_a_level_that_is_not_a_minimal_integer_is_refused(value: bytes) -> None:
    chip = FakeChip(add={f"{OID}.3.8": value})

    assert refused(chip.evidence()) == (Stage.PARSE, "certificate-format")


@pytest.mark.parametrize("value", [b"\x0c\x01a", b"\x16\x01a\0", b""])
def test_a_cloud_that_is_not_an_ia5_string_is_refused(value: bytes) -> None:
    chip = FakeChip(kind=SigningKey.VLEK, add={f"{OID}.5": value})

    assert refused(chip.evidence()) == (Stage.PARSE, "certificate-format")


@pytest.mark.parametrize("leaf", [b"", b"\x30\x00", bytes(5000)])
def test_what_is_no_certificate_is_refused(leaf: bytes) -> None:
    assert refused(replace(FakeChip().evidence(), leaf=leaf)) == (Stage.PARSE, "certificate-format")


def test_a_report_that_no_key_signed_is_refused() -> None:
    chip = FakeChip()

    with pytest.raises(Refusal, match="no key signed it"):
        chip.evidence(signing_key=SigningKey.NONE)


def test_a_report_signed_by_another_key_is_refused() -> None:
    assert refused(FakeChip(signer="other").evidence()) == (Stage.SIGNATURE, "signature")


@pytest.mark.parametrize("at", [0x2A0, 0x2E8])
def test_a_scalar_outside_its_range_is_refused(at: int) -> None:
    chip = FakeChip()
    raw = chip.sign(chip.report())
    scalar = int.from_bytes(raw[at : at + 72], "little")

    for changed in (0, scalar + P384_ORDER, scalar + (1 << 400)):
        forged = raw[:at] + changed.to_bytes(72, "little") + raw[at + 72 :]

        assert refused(chip.evidence(forged)) == (Stage.SIGNATURE, "signature")


def test_no_flipped_bit_of_a_report_is_accepted() -> None:
    chip = FakeChip(product=Product.GENOA)
    raw = chip.sign(chip.report(version=5))
    good = chip.evidence(raw)
    accepted = []
    for index in range(len(raw)):
        flipped = bytearray(raw)
        flipped[index] ^= 1 << (index % 8)
        try:
            evidence = read_snp_parts(
                bytes(flipped), leaf=good.leaf, intermediate=good.intermediate, root=good.root
            )
            verify(evidence)
        except Refusal:
            continue
        accepted.append(index)

    assert verify(good)
    assert accepted == []


@pytest.mark.parametrize("part", ["leaf", "intermediate", "root"])
def test_no_flipped_bit_of_a_certificate_is_accepted(part: str) -> None:
    good = FakeChip().evidence()
    der = getattr(good, part)
    accepted = []
    for index in range(len(der)):
        flipped = bytearray(der)
        flipped[index] ^= 1 << (index % 8)
        try:
            verify(replace(good, **{part: bytes(flipped)}))
        except Refusal:
            continue
        accepted.append(index)

    assert accepted == []


def test_verification_with_a_known_chain_is_near_the_bare_signature_check() -> None:
    """A loose bound that a second RSA verification, or parsing of roots per call, would break."""
    import time

    evidence, roots = FakeChip().evidence(), amd.anchors()
    key = amd.ec_key("leaf").public_key()
    signature = amd.ec_key("leaf").sign(evidence.raw[:0x2A0], ec.ECDSA(hashes.SHA384()))

    def best(action) -> float:
        times = []
        for _ in range(30):
            start = time.perf_counter()
            action()
            times.append(time.perf_counter() - start)
        return min(times)

    bare = best(lambda: key.verify(signature, evidence.raw[:0x2A0], ec.ECDSA(hashes.SHA384())))
    full = best(lambda: verify_snp(evidence, anchors=roots, now=NOW))

    assert full < bare * 2.5, f"{full * 1e6:.0f} us against {bare * 1e6:.0f} us"


def test_a_report_for_a_lower_launch_tcb_is_left_to_the_policy() -> None:
    low = pack_tcb(Tcb(bootloader=1, tee=0, snp=1, microcode=1), Product.MILAN)

    assert verify(FakeChip().evidence(launch_tcb=low)).launch_tcb.snp == 1
