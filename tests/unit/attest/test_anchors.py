"""Roots of trust: what is pinned is what the files hold, and nothing simulated slips in."""

from hashlib import sha256
from importlib import resources

import pytest

from krunpy.attest.anchors import load_amd_anchors, make_anchor, make_anchors, read_pinned, split_pem
from krunpy.core.errors import FormatError
from krunpy.formats import snp_simulated
from krunpy.formats.snp_tcb import Product
from tests.fakes.amd import Cert, mint_root, name, rsa_key

ROOTS = resources.files("krunpy.attest").joinpath("roots")


def root(common_name: str = "ARK-Milan", **changes) -> bytes:
    subject = name(common_name, changes.pop("organization", "Advanced Micro Devices"))
    defaults = {
        "subject": subject,
        "issuer": subject,
        "key": rsa_key("ark"),
        "signer": rsa_key("ark"),
        "is_ca": True,
    }
    return Cert(**(defaults | changes)).der()


def test_every_pinned_root_is_read_and_verified() -> None:
    anchors = load_amd_anchors()

    assert set(anchors.hardware) == set(Product)
    assert anchors.simulated == {}
    for product, anchor in anchors.hardware.items():
        assert set(anchor.intermediates) == {f"SEV-{product}", f"SEV-VLEK-{product}"}
        assert not anchor.simulated


def test_the_pinned_roots_are_made_once() -> None:
    assert load_amd_anchors() is load_amd_anchors()


def test_the_list_of_sources_names_every_file_with_its_digest() -> None:
    sources = ROOTS.joinpath("SOURCES").read_text()
    files = [file for file in ROOTS.iterdir() if file.name.endswith(".pem")]

    assert len(files) == 10
    for file in files:
        (der,) = split_pem(file.read_bytes())
        assert f"{file.name}\n  sha256 of DER  {sha256(der).hexdigest()}\n" in sources


@pytest.mark.parametrize("text", ["amd_genoa_ark.pem", None])
def test_a_package_file_that_is_not_the_pinned_one_is_refused(text: str | None) -> None:
    contents = b"" if text is None else ROOTS.joinpath(text).read_bytes()

    with pytest.raises(FormatError, match="differs from the one that was pinned"):
        read_pinned("amd_milan_ark.pem", contents)


@pytest.mark.parametrize(
    ("der", "why"),
    [
        (lambda: root("ARK-Rome"), "wanted ARK-Milan"),
        (lambda: root(organization="Nobody"), "Nobody"),
        (lambda: root(signer=rsa_key("evil")), "signed by itself"),
        (lambda: root(issuer=name("ARK-Genoa")), "signed by itself"),
        (lambda: root(is_ca=None), "certificate authority"),
        (lambda: root(extensions=((snp_simulated.EXTENSION_OID, b"\5\0", True),)), "mark of simulation"),
        (lambda: root("SIM-ARK-Milan", organization=snp_simulated.ORGANIZATION), "SIM-ARK-Milan"),
        (lambda: b"\x30\x00", "end"),
    ],
)
def test_a_root_that_is_not_amds_kind_is_refused(der, why: str) -> None:
    with pytest.raises(FormatError, match=why):
        make_anchors([der()])


def test_a_hardware_root_is_not_accepted_as_simulated() -> None:
    with pytest.raises(FormatError, match="SIM-ARK-Milan"):
        make_anchor(mint_root(Product.MILAN), simulated=True)


def test_a_simulated_root_without_its_mark_is_refused() -> None:
    unmarked = root("SIM-ARK-Milan", organization=snp_simulated.ORGANIZATION)

    with pytest.raises(FormatError, match="mark of simulation"):
        make_anchor(unmarked, simulated=True)


@pytest.mark.parametrize(
    "text", [b"-----BEGIN CERTIFICATE-----\nA\n-----END CERTIFICATE-----", bytes(70_000)]
)
def test_broken_pem_is_refused(text: bytes) -> None:
    with pytest.raises(FormatError):
        split_pem(text)
