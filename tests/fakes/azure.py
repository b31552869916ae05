"""Azure's virtual TPM as a test sees it: a made-up attestation key, and evidence able to lie in one way."""

from __future__ import annotations

import base64
import functools
import json
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from krunpy.core.octets import ReportData
from krunpy.formats.evidence_hcl import HardwareReport, pack_hcl_report
from krunpy.formats.tpm_quote import ALGORITHM_SHA256, PcrSelection, TpmQuote, pack_tpm_quote

if TYPE_CHECKING:
    from tests.fakes.amd import FakeChip
    from tests.fakes.intel import FakePlatform

NONCE = b"challenge"
PCRS = tuple(bytes([index]) * 32 for index in range(24))
ALL = PcrSelection(algorithm=ALGORITHM_SHA256, indices=tuple(range(24)))


@functools.cache
def key(who: str, bits: int) -> rsa.RSAPrivateKey:
    """Return the key of "ak" or "evil", the same for the whole run."""
    del who
    return rsa.generate_private_key(65537, bits)


def encode_number(number: int) -> str:
    raw = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def make_runtime_data(
    who: str = "ak", *, user_data: bytes | None = bytes(64), bits: int = 2048, **changes: Any
) -> bytes:
    """Return runtime data as the HCL writes it; changes: members of the document."""
    numbers = key(who, bits).public_key().public_numbers()
    names = {"e": encode_number(numbers.e), "n": encode_number(numbers.n)}
    document: dict[str, Any] = {
        "keys": [{"kid": "HCLAkPub", "key_ops": ["sign"], "kty": "RSA", **names}],
        "vm-configuration": {"secure-boot": True},
    }
    if user_data is not None:
        document["user-data"] = user_data.hex().upper()
    return json.dumps(document | changes).encode()


def make_quote(
    *, nonce: bytes = NONCE, pcrs: tuple[bytes, ...] = PCRS, selections: tuple[PcrSelection, ...] = (ALL,)
) -> TpmQuote:
    return TpmQuote(
        signer=b"\0\x0b" + bytes(32),
        extra_data=nonce,
        clock_ms=1,
        resets=2,
        restarts=3,
        is_clock_safe=True,
        firmware_version=4,
        selections=selections,
        pcr_digest=sha256(b"".join(pcrs)).digest(),
    )


def make_document(
    chip: FakeChip,
    *,
    version: int = 2,
    nonce: bytes = NONCE,
    runtime_data: bytes | None = None,
    report_data: bytes | None = None,
    message: bytes | None = None,
    signer: str = "ak",
    bits: int = 2048,
    pcrs: tuple[bytes, ...] = PCRS,
) -> dict[str, Any]:
    """Return az-snp-vtpm evidence of version 1 or 2."""
    runtime = (
        runtime_data if runtime_data is not None else make_runtime_data(user_data=nonce.ljust(64, b"\0"))
    )
    bound = sha256(runtime).digest().ljust(64, b"\0") if report_data is None else report_data
    report = chip.sign(chip.report(report_data=ReportData(bound)))
    signed = message if message is not None else pack_tpm_quote(make_quote(nonce=nonce))
    signature = key(signer, bits).sign(signed, padding.PKCS1v15(), hashes.SHA256())
    hcl = pack_hcl_report(HardwareReport.SNP, report, runtime).ljust(2600, b"\0")
    return {
        "version": version,
        "tpm_quote": {
            "signature": signature.hex(),
            "message": signed.hex(),
            "pcrs": [pcr.hex() for pcr in pcrs],
        },
        "hcl_report": base64.urlsafe_b64encode(hcl).decode(),
        "vcek": base64.urlsafe_b64encode(chip.certificate).decode(),
    }


def make_tdx_document(platform: FakePlatform, *, report_data: bytes | None = None) -> dict[str, Any]:
    """Return az-tdx-vtpm evidence of version 2."""
    runtime = make_runtime_data(user_data=NONCE.ljust(64, b"\0"))
    bound = sha256(runtime).digest().ljust(64, b"\0") if report_data is None else report_data
    message = pack_tpm_quote(make_quote())
    signature = key("ak", 2048).sign(message, padding.PKCS1v15(), hashes.SHA256())
    return {
        "version": 2,
        "tpm_quote": {
            "signature": signature.hex(),
            "message": message.hex(),
            "pcrs": [pcr.hex() for pcr in PCRS],
        },
        "hcl_report": base64.urlsafe_b64encode(
            pack_hcl_report(HardwareReport.TDX, bytes(1024), runtime)
        ).decode(),
        "td_quote": base64.urlsafe_b64encode(platform.quote(report_data=bound)).decode(),
    }
