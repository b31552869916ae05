"""The reference-value document: signed over one form, read back whole, refused if anything in it changed."""

import contextlib
import json
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from krunpy.core.errors import EvidenceError, FormatError
from krunpy.core.octets import Digest32, Digest48
from krunpy.formats.canonical import encode_canonical
from krunpy.measure.description import (
    LaunchDescription,
    measure_cmdline,
    measure_file,
    measure_firmware,
    predict_described,
)
from krunpy.measure.launch import Layout
from krunpy.measure.reference_values import (
    PredictedValue,
    ReferenceValues,
    Tee,
    encode_reference_values,
    parse_reference_values,
)
from tests.fakes.firmware import build_sev_firmware

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
DESCRIBED = LaunchDescription(
    layout=Layout.SEV_METADATA,
    firmware=measure_firmware("firmware", build_sev_firmware()),
    kernel=measure_file("kernel", b"kernel"),
    initrd=measure_file("initrd", b"initrd"),
    cmdline=measure_cmdline("quiet"),
    vcpus=2,
)
VALUES = ReferenceValues(
    workload="web",
    manifest_hash=Digest32(bytes(32)),
    tee=Tee.SNP,
    vmm="qemu",
    values=(
        PredictedValue(registers={"launch_digest": predict_described(DESCRIBED)}, inputs=DESCRIBED.to_dict()),
    ),
)
REGISTERS = {name: Digest48(bytes([at] * 48)) for at, name in enumerate(("mrtd", "rtmr1", "rtmr2", "rtmr3"))}
TDX = replace(VALUES, tee=Tee.TDX, values=(PredictedValue(registers=REGISTERS, inputs={"memory_mib": 512}),))
SIGNED = encode_reference_values(VALUES, KEY)


@pytest.mark.parametrize("values", [VALUES, TDX])
@pytest.mark.parametrize("key", [None, KEY])
def test_a_document_is_read_back_whole(values: ReferenceValues, key: Ed25519PrivateKey | None) -> None:
    read = parse_reference_values(encode_reference_values(values, key))

    assert read.values == values
    assert read.signer == (key.public_key().public_bytes_raw() if key else None)


def test_the_same_values_and_key_give_the_same_bytes() -> None:
    assert encode_reference_values(VALUES, KEY) == SIGNED


def test_rtmr0_of_a_pinned_machine_is_kept() -> None:
    pinned = PredictedValue(registers=REGISTERS | {"rtmr0": Digest48(bytes(48))}, inputs={})
    values = replace(TDX, values=(pinned,))

    assert parse_reference_values(encode_reference_values(values, None)).values == values


def test_any_change_of_what_is_signed_is_refused() -> None:
    for at in range(0, len(SIGNED), 7):
        changed = SIGNED[:at] + bytes([SIGNED[at] ^ 0x01]) + SIGNED[at + 1 :]

        with pytest.raises((FormatError, EvidenceError)):
            parse_reference_values(changed)


def change(**members: object) -> bytes:
    whole = json.loads(SIGNED)
    return encode_canonical({name: value for name, value in (whole | members).items() if value is not None})


def test_a_signature_by_another_key_is_refused() -> None:
    other = Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key().public_bytes_raw().hex()

    with pytest.raises(EvidenceError, match="signature is not that of"):
        parse_reference_values(change(signer=other))


def test_a_signature_over_the_bare_document_is_refused() -> None:
    body = json.loads(SIGNED)["document"]

    with pytest.raises(EvidenceError, match="signature is not that of"):
        parse_reference_values(change(signature=KEY.sign(encode_canonical(body)).hex()))


def with_body(**members: object) -> bytes:
    body = {name: value for name, value in (VALUES.to_dict() | members).items() if value is not None}
    return encode_canonical({"document": body})


@pytest.mark.parametrize(
    ("document", "why"),
    [
        (change(signature=None), '"signature" is missing'),
        (change(signer=None), '"signer" is missing'),
        (change(more=1), "unknown members"),
        (SIGNED + b"\n", "not the canonical form"),
        (with_body(type="else"), "wanted"),
        (with_body(version=2), "wanted"),
        (with_body(tee="sgx"), "sgx"),
        (with_body(workload="../x"), "workload id"),
        (with_body(manifest_hash="00"), "32 bytes"),
        (with_body(values=[]), "there is none"),
        (with_body(values=[{"launch_digest": "00" * 48}]), '"inputs" is missing'),
        (with_body(values=[{"launch_digest": "00" * 48, "inputs": []}]), "not an object"),
        (with_body(values=[{"launch_digest": "00" * 47, "inputs": {}}]), "48 bytes"),
        (with_body(values=[{"launch_digest": "00" * 48, "inputs": {}, "rtmr0": "00"}]), "unknown members"),
        (with_body(tee="tdx"), '"mrtd" is missing'),
        (with_body(more=1), "unknown members"),
    ],
)
def test_a_document_that_is_not_one_is_refused(document: bytes, why: str) -> None:
    with pytest.raises(FormatError, match=why):
        parse_reference_values(document)


@given(st.binary(max_size=300))
def test_any_bytes_give_values_or_a_refusal(junk: bytes) -> None:
    for document in (junk, b'{"document":' + junk + b"}"):
        with contextlib.suppress(FormatError, EvidenceError):
            parse_reference_values(document)
