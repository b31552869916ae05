"""Azure's virtual TPM: bind its quote to a hardware report, and appraise what the quote says.

The hardware report of an Azure confidential VM is made at its start and signs no challenge; it signs the hash
of the runtime data, which names the TPM's attestation key (AK), and the AK signs the challenge and the
registers. The hardware report itself is verified and appraised elsewhere.

Source: Microsoft, "Azure confidential VM guest attestation design"; TCG TPM 2.0 Library, part 2, section 10.12;
confidential-containers/trustee, deps/verifier, az_snp_vtpm, which does not compare the register selection.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from krunpy.attest.anchors import split_pem
from krunpy.attest.appraise_checks import check_octets
from krunpy.attest.policy import OneOf, Unchecked
from krunpy.attest.refusal import Refusal, Stage
from krunpy.core.errors import FormatError
from krunpy.formats.evidence_azure import PCR_COUNT
from krunpy.formats.tpm_quote import ALGORITHM_SHA256, TpmQuote, parse_tpm_quote

if TYPE_CHECKING:
    from krunpy.attest.policy import Expected
    from krunpy.attest.verdict import Check
    from krunpy.formats.evidence_azure import AzureEvidence

INIT_DATA_PCR = 8

_REPORT_DATA_SIZE = 64  # bytes
_FIRST_WITH_USER_DATA = 2  # version of the encoding
_AK_BITS = (2048, 3072, 4096)
_AK_EXPONENT = 65537
_PEM_START = b"-----BEGIN"
_PROOF = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class VtpmClaims:
    """What a verified quote says. Only `verify_vtpm` makes one.

    nonce:     what the asker gave, as the TPM signed it; pcrs: SHA-256 PCR 0 to 23.
    user_data: of the runtime data, which the hardware signs; None before version 2 of the encoding, empty if
               it should be there and is not.
    """

    nonce: bytes
    pcrs: tuple[bytes, ...]
    user_data: bytes | None
    quote: TpmQuote
    proof: object

    def __post_init__(self) -> None:
        if self.proof is not _PROOF:
            msg = "claims come from verify_vtpm alone"
            raise TypeError(msg)


def _refuse(code: str, why: str) -> Refusal:
    return Refusal(Stage.BINDING, code, why=why)


def read_vcek(evidence: AzureEvidence) -> bytes:
    """Return the VCEK that came along, in DER. Raises Refusal (stage parse) if it is broken PEM."""
    if not evidence.vek.startswith(_PEM_START):
        return evidence.vek
    try:
        certificates = split_pem(evidence.vek)
    except FormatError as error:
        raise Refusal(Stage.PARSE, "evidence-format", why=error.why) from error
    if not certificates:
        raise Refusal(Stage.PARSE, "evidence-format", why="the VCEK in PEM holds no certificate")
    return certificates[0]


def hash_runtime_data(evidence: AzureEvidence) -> bytes:
    """Return the 64 bytes that the hardware report must have as REPORT_DATA: SHA-256, then zeros."""
    return sha256(evidence.hcl.runtime_data).digest().ljust(_REPORT_DATA_SIZE, b"\0")


def verify_vtpm(evidence: AzureEvidence, *, report_data: bytes) -> VtpmClaims:
    """Return the claims of a virtual TPM that the hardware vouches for.

    report_data: REPORT_DATA of the hardware report, 64 bytes; the caller has verified that report.

    1. REPORT_DATA is the hash of the runtime data.
    2. The attestation key in the runtime data signed the quote's message.
    3. The message is a quote of all 24 registers of the SHA-256 bank, and of no other.
    4. The values that came with it have the digest that was signed.

    Raises Refusal: stage binding, signature for step 2, parse if the message is no quote.
    """
    # 1
    wanted = hash_runtime_data(evidence)
    if report_data != wanted:
        raise _refuse(
            "runtime-data",
            f"the report signs {report_data.hex()}, the runtime data's hash is {wanted[:32].hex()}",
        )
    # 2
    _require_signed(evidence)
    # 3
    try:
        quote = parse_tpm_quote(evidence.message)
    except FormatError as error:
        raise Refusal(Stage.PARSE, "vtpm-quote", why=error.why) from error
    banks = [(selection.algorithm, selection.indices) for selection in quote.selections]
    if banks != [(ALGORITHM_SHA256, tuple(range(PCR_COUNT)))]:
        raise _refuse("vtpm-selection", f"seen a quote of {banks}, wanted SHA-256 PCR 0 to 23")
    # 4
    digest = sha256(b"".join(evidence.pcrs)).digest()
    if digest != quote.pcr_digest:
        raise _refuse(
            "vtpm-pcrs", f"the registers' digest is {digest.hex()}, the quote signs {quote.pcr_digest.hex()}"
        )
    has_user_data = evidence.version >= _FIRST_WITH_USER_DATA
    return VtpmClaims(
        nonce=quote.extra_data,
        pcrs=evidence.pcrs,
        user_data=(evidence.hcl.runtime.user_data or b"") if has_user_data else None,
        quote=quote,
        proof=_PROOF,
    )


def _require_signed(evidence: AzureEvidence) -> None:
    runtime = evidence.hcl.runtime
    if runtime.modulus.bit_length() not in _AK_BITS or runtime.exponent != _AK_EXPONENT:
        raise _refuse(
            "vtpm-key",
            f"seen an attestation key of {runtime.modulus.bit_length()} bits and exponent "
            f"{runtime.exponent:#x}, wanted RSA of 2048, 3072 or 4096 bits and 0x10001",
        )
    try:
        key = rsa.RSAPublicNumbers(runtime.exponent, runtime.modulus).public_key()
        key.verify(evidence.signature, evidence.message, padding.PKCS1v15(), hashes.SHA256())
    except ValueError as error:
        raise _refuse("vtpm-key", "the attestation key is no RSA key") from error
    except InvalidSignature as error:
        raise Refusal(
            Stage.SIGNATURE, "vtpm-signature", why="the quote is not signed by the key in the runtime data"
        ) from error


def appraise_vtpm(claims: VtpmClaims, *, nonce: Expected) -> tuple[Check, ...]:
    """Return the checks of a virtual TPM's claims.

    nonce: the accepted challenges; the user data, where there is some, must be the same, then zeros.
    """
    hint = "the quote is for another challenge: ask for new evidence"
    user_data: Expected = nonce
    if claims.user_data is None:
        user_data = Unchecked(reason="the encoding is older than version 2, which binds it")
    elif isinstance(nonce, OneOf):
        padded = frozenset(value.ljust(len(claims.user_data), b"\0") for value in nonce.values)
        user_data = OneOf(values=padded, source=nonce.source)
    init_data = Unchecked(reason="compare it with SHA-256 of 32 zeros and your init-data's digest")
    digest = Unchecked(reason="firmware and boot are measured there; compare them with your image's")
    return (
        check_octets("vtpm-nonce", claims.nonce, nonce, hint),
        check_octets("vtpm-user-data", claims.user_data, user_data, hint),
        check_octets("vtpm-init-data", claims.pcrs[INIT_DATA_PCR], init_data, ""),
        check_octets("vtpm-pcr-digest", claims.quote.pcr_digest, digest, ""),
    )
