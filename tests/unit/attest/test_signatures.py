"""Keys are of one kind and on their curve; a signature has one length."""

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from krunpy.attest.signatures import load_report_key, load_root_key
from krunpy.attest.tdx_signatures import load_p256_key, load_p256_point
from krunpy.core.errors import FormatError


def spki(key) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize(
    ("public_key", "why"),
    [
        (b"", "it is no public key"),
        (b"\x30\x00", "it is no public key"),
        (spki(ed25519.Ed25519PrivateKey.generate()), "it is not RSA with 4096 bits"),
        (spki(ec.generate_private_key(ec.SECP384R1())), "it is not RSA with 4096 bits"),
        (spki(rsa.generate_private_key(65537, 2048)), "it is not RSA with 4096 bits"),
    ],
)
def test_a_root_key_is_rsa_with_4096_bits(public_key: bytes, why: str) -> None:
    with pytest.raises(FormatError) as caught:
        load_root_key(public_key)
    assert caught.value.why == why


P384, P256 = spki(ec.generate_private_key(ec.SECP384R1())), spki(ec.generate_private_key(ec.SECP256R1()))


def off_the_curve(public_key: bytes) -> bytes:
    return public_key[:-1] + bytes([public_key[-1] ^ 1])


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (off_the_curve(P384), "it is no point on P-384"),
        (P384[:-96], "it is no point on P-384"),
        (P256, "it is not on P-384"),
    ],
)
def test_a_report_key_is_a_point_on_p384(wrong: bytes, why: str) -> None:
    load_report_key(P384)

    with pytest.raises(FormatError) as caught:
        load_report_key(wrong)
    assert caught.value.why == why


@pytest.mark.parametrize(
    ("wrong", "why"), [(off_the_curve(P256), "it is no point on P-256"), (P384, "it is not on P-256")]
)
def test_a_platform_key_is_a_point_on_p256(wrong: bytes, why: str) -> None:
    load_p256_key(P256)

    with pytest.raises(FormatError) as caught:
        load_p256_key(wrong)
    assert caught.value.why == why


def test_a_signature_without_its_leading_zero_is_another_signature() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    verifier = load_p256_point(
        key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)[1:]
    )
    message = b""
    s = 1 << 255
    while s >> 248:  # one in 256 has a zero there
        message += b"."
        r, s = decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA256())))
    whole = r.to_bytes(32, "big") + s.to_bytes(32, "big")

    assert verifier.has_signed(message, whole)
    assert not verifier.has_signed(message, whole[:32] + whole[33:])
