"""Intel's chains: two shapes, exact names, each certificate for its purpose only, up to a root that is trusted."""

from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from krunpy.attest.anchors import load_intel_anchors, make_intel_anchors
from krunpy.attest.refusal import Refusal, Stage
from krunpy.attest.tdx_chain import verify_pck_chain, verify_tcb_signer
from krunpy.core.errors import FormatError
from tests.fakes.amd import usage
from tests.fakes.intel import FakePlatform, public_point
from tests.fakes.intel_pki import (
    CA_CERT,
    CA_USAGE,
    DATA_USAGE,
    PCK,
    PCK_SERIAL,
    PLATFORM_CA,
    PROCESSOR_CA,
    ROOT,
    ROOT_CERT,
    SGX,
    SIGNER_CERT,
    Cert,
    anchors,
    key,
    mint,
    mint_root,
    name,
    octets,
    tlv,
)

OTHER = "2.5.29.99"
OTHER_ROOT = replace(ROOT_CERT, key="evil", signer="evil")


def refused(code: str, chain: tuple[bytes, ...], *, signer: bool = False) -> None:
    verify = verify_tcb_signer if signer else verify_pck_chain
    with pytest.raises(Refusal) as caught:
        verify(chain, anchors())
    stage = Stage.COLLATERAL if signer else Stage.CHAIN
    assert (caught.value.stage, caught.value.code) == (stage, code)


def test_a_good_pck_chain_gives_its_serials_and_times() -> None:
    endorsed = verify_pck_chain(FakePlatform().chain, anchors())

    assert [link.what for link in endorsed.chain] == ["root CA", "PCK platform CA", "PCK certificate"]
    assert endorsed.chain[2].serial == PCK_SERIAL


def test_a_good_signer_chain_gives_its_link() -> None:
    assert verify_tcb_signer((mint(SIGNER_CERT), mint_root()), anchors()).link.serial == SIGNER_CERT.serial


@pytest.mark.parametrize("length", [0, 1, 2])
def test_a_pck_chain_of_another_length_is_refused(length: int) -> None:
    refused("chain-length", FakePlatform().chain[3 - length :])


def test_a_chain_with_one_certificate_more_is_refused() -> None:
    refused("chain-length", (*FakePlatform().chain[:2], mint(CA_CERT), mint_root()))


def test_a_root_with_intels_names_that_is_not_trusted_is_refused() -> None:
    platform = FakePlatform(ca={"signer": "evil"})

    refused("chain-root", (platform.certificate, platform.ca_certificate, mint(OTHER_ROOT)))


@pytest.mark.parametrize(
    ("code", "platform"),
    {
        "CA of another name": ("chain-names", FakePlatform(ca={"subject": name("Intel SGX PCK CA")})),
        "CA of another organization": (
            "chain-names",
            FakePlatform(ca={"subject": name(PLATFORM_CA, "Intel")}),
        ),
        "CA with another issuer": ("chain-issuer", FakePlatform(ca={"issuer": name(PROCESSOR_CA)})),
        "CA signed by another key": ("chain-signature", FakePlatform(ca={"signer": "evil"})),
        "CA signed with another hash": ("chain-signature", FakePlatform(ca={"hash": hashes.SHA384})),
        "CA that is none": ("chain-usage", FakePlatform(ca={"is_ca": False})),
        "CA that does not say so": ("chain-usage", FakePlatform(ca={"is_ca": None})),
        "CA that may not sign certificates": ("chain-usage", FakePlatform(ca={"usage": DATA_USAGE})),
        "CA without a usage": ("chain-usage", FakePlatform(ca={"usage": None})),
        "CA with a critical extension": (
            "chain-extension",
            FakePlatform(ca={"extensions": ((OTHER, b"\5\0", True),)}),
        ),
        "CA on another curve": ("chain-key", FakePlatform(ca={"key": "p384"}, leaf={"signer": "p384"})),
        "PCK of another name": ("chain-names", FakePlatform(leaf={"subject": name("Intel SGX PCK")})),
        "PCK of another organization": ("chain-names", FakePlatform(leaf={"subject": name(PCK, "Other")})),
        "PCK with another issuer": ("chain-issuer", FakePlatform(leaf={"issuer": name(PROCESSOR_CA)})),
        "PCK signed by another key": ("chain-signature", FakePlatform(leaf={"signer": "evil"})),
        "PCK signed by the root": ("chain-signature", FakePlatform(leaf={"signer": "root"})),
        "PCK that is a CA": ("chain-usage", FakePlatform(leaf={"is_ca": True})),
        "PCK that may sign certificates": ("chain-usage", FakePlatform(leaf={"usage": CA_USAGE})),
        "PCK without a usage": ("chain-usage", FakePlatform(leaf={"usage": None})),
        "PCK on another curve": ("chain-key", FakePlatform(leaf={"key": "p384"})),
        "PCK without the SGX extension": ("pck-extension", FakePlatform(leaf={"extensions": ()})),
        "PCK with half an SGX extension": ("pck-extension", FakePlatform(sgx={"4": None})),
        "PCK with a long FMSPC": ("pck-extension", FakePlatform(sgx={"4": octets(bytes(7))})),
    }.values(),
    ids=str,
)
def test_a_pck_chain_with_one_fault_is_refused(code: str, platform: FakePlatform) -> None:
    refused(code, platform.chain)


def test_a_certificate_that_names_another_algorithm_than_it_is_signed_with_is_refused() -> None:
    good = FakePlatform()
    sha256, sha384 = (bytes.fromhex(f"300a06082a8648ce3d04030{arc}") for arc in (2, 3))
    signed = x509.load_der_x509_certificate(good.certificate).tbs_certificate_bytes.replace(sha256, sha384)
    signature = key("ca").sign(signed, ec.ECDSA(hashes.SHA256()))
    leaf = tlv(0x30, signed + sha384 + tlv(3, b"\0" + signature))

    refused("chain-signature", (leaf, good.ca_certificate, mint_root()))


def test_a_key_that_is_no_point_is_refused() -> None:
    good = FakePlatform()
    point = public_point("pck")
    signed = x509.load_der_x509_certificate(good.certificate).tbs_certificate_bytes.replace(point, bytes(64))
    signature = key("ca").sign(signed, ec.ECDSA(hashes.SHA256()))
    leaf = tlv(0x30, signed + bytes.fromhex("300a06082a8648ce3d040302") + tlv(3, b"\0" + signature))

    refused("chain-key", (leaf, good.ca_certificate, mint_root()))


def test_a_pck_that_may_sign_data_and_certificates_is_refused() -> None:
    both = usage(cert_sign=False)
    both._key_cert_sign = True

    refused("chain-usage", FakePlatform(leaf={"usage": both}).chain)


def test_a_critical_extension_of_a_pck_that_is_not_known_is_refused() -> None:
    good = FakePlatform()
    leaf = Cert(
        subject=name(PCK),
        issuer=name(PLATFORM_CA),
        key="pck",
        signer="ca",
        serial=PCK_SERIAL,
        extensions=((SGX, b"\x30\0", False), (OTHER, b"\5\0", True)),
    )

    refused("chain-extension", (mint(leaf), good.ca_certificate, mint_root()))


def test_bytes_that_are_no_certificate_are_refused() -> None:
    good = FakePlatform()

    refused("certificate-format", (b"\x30\0", good.ca_certificate, mint_root()))
    refused("certificate-format", (good.certificate, b"\x30\0", mint_root()))
    refused("certificate-format", (b"\x30\0", mint_root()), signer=True)


def test_no_byte_of_a_certificate_can_be_changed() -> None:
    chain = FakePlatform().chain
    accepted = []
    for index, der in enumerate(chain):
        for at in range(len(der)):
            changed = der[:at] + bytes([der[at] ^ 1 << at % 8]) + der[at + 1 :]
            try:
                verify_pck_chain((*chain[:index], changed, *chain[index + 1 :]), anchors())
            except Refusal:
                continue
            accepted.append((index, at))

    assert accepted == []


# The signer of collateral.


def test_a_signer_below_another_root_is_refused() -> None:
    refused("chain-root", (mint(replace(SIGNER_CERT, signer="evil")), mint(OTHER_ROOT)), signer=True)


def test_a_pck_cannot_sign_collateral_even_directly_below_the_root() -> None:
    platform = FakePlatform()
    below_root = FakePlatform(leaf={"issuer": name(ROOT), "signer": "root"})

    refused("chain-length", platform.chain, signer=True)
    refused("chain-names", (below_root.certificate, mint_root()), signer=True)


@pytest.mark.parametrize(
    ("code", "changes"),
    {
        "another name": ("chain-names", {"subject": name("Intel SGX Signing")}),
        "another organization": ("chain-names", {"subject": name("Intel SGX TCB Signing", "Other")}),
        "another issuer": ("chain-issuer", {"issuer": name(PLATFORM_CA)}),
        "another key": ("chain-signature", {"signer": "evil"}),
        "a CA": ("chain-usage", {"is_ca": True}),
        "for certificates": ("chain-usage", {"usage": CA_USAGE}),
        "another curve": ("chain-key", {"key": "p384"}),
        "critical extension": ("chain-extension", {"extensions": ((OTHER, b"\5\0", True),)}),
    }.values(),
    ids=str,
)
def test_a_signer_with_one_fault_is_refused(code: str, changes: dict) -> None:
    refused(code, (mint(replace(SIGNER_CERT, **changes)), mint_root()), signer=True)


# The roots.


def test_intels_pinned_root_is_read_and_made_once() -> None:
    (root,) = load_intel_anchors().roots.values()

    assert root.not_after.year == 2049
    assert load_intel_anchors() is load_intel_anchors()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"subject": name("Intel Root"), "issuer": name("Intel Root")}, 'seen "Intel Root"'),
        ({"subject": name(ROOT, "Other"), "issuer": name(ROOT, "Other")}, 'of "Other"'),
        ({"is_ca": False}, "may not sign"),
        ({"usage": DATA_USAGE}, "may not sign"),
        ({"key": "p384", "signer": "p384"}, "not on P-256"),
        ({"issuer": name(PLATFORM_CA)}, "not signed by itself"),
        ({"signer": "evil"}, "not signed by itself"),
    ],
    ids=["name", "organization", "no CA", "usage", "curve", "issuer", "signature"],
)
def test_what_is_no_root_of_intels_cannot_be_trusted(changes: dict, match: str) -> None:
    with pytest.raises(FormatError, match=match):
        make_intel_anchors([mint(replace(ROOT_CERT, **changes))])
