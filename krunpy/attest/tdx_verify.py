"""Verify TDX evidence: unverified bytes become claims, or a refusal. Nothing is appraised here.

A claim is a field that the hardware has signed, or what Intel's signed collateral says of the platform; whether
its value is the one that was wanted is for a policy.

Source: Intel TDX DCAP Quoting Library API, appendix A (quote, QE report data); Intel SGX DCAP Quote
Verification Library, QuoteVerifier.cpp, steps 4.1.2.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

from krunpy.attest.refusal import Refusal, Stage
from krunpy.attest.revocation import RevocationMode
from krunpy.attest.tdx_chain import verify_pck_chain
from krunpy.attest.tdx_claims import PROOF, TdxClaims, TdxTcb
from krunpy.attest.tdx_collateral import verify_collateral
from krunpy.attest.tdx_revocation import verify_pck_not_revoked
from krunpy.attest.tdx_signatures import load_p256_point
from krunpy.attest.tdx_tcb import evaluate_tcb, find_module
from krunpy.core.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from krunpy.attest.anchors import IntelAnchors
    from krunpy.attest.endorsement import Validity
    from krunpy.attest.tdx_chain import PckEndorsement
    from krunpy.attest.tdx_claims import PckIdentity
    from krunpy.attest.tdx_collateral import SignedCollateral
    from krunpy.attest.tdx_evidence import UnverifiedTdx
    from krunpy.formats.tdx_collateral import TdxCollateral
    from krunpy.formats.tdx_qe import QeIdentity, QeReport
    from krunpy.formats.tdx_tcb_info import TcbInfo

_REPORT_DATA_SIZE = 64  # bytes


def _refuse(code: str, why: str, stage: Stage = Stage.BINDING) -> Refusal:
    return Refusal(stage, code, why=why)


def verify_tdx(
    evidence: UnverifiedTdx,
    *,
    anchors: IntelAnchors,
    now: datetime,
    collateral: TdxCollateral | None,
    revocation: RevocationMode = RevocationMode.REQUIRED,
) -> TdxClaims:
    """Return the claims of evidence that holds.

    anchors: the roots that are trusted; now: the verifier's clock, with a time zone.
    collateral: None verifies signatures only: steps 3, 4, 7 and 8 are left out, and the claims say so.
    revocation: what a missing or stale CRL in the collateral means.

    1. Chain: the PCK's certificates lead to a trusted root (`tdx_chain`).
    2. Validity: each of them is valid at `now`.
    3. Collateral: Intel signed it and it is of `now` (`tdx_collateral`); its signers are valid at `now`.
    4. Revocation: no certificate used is revoked (`tdx_revocation`).
    5. QE: the PCK signed the QE's report, and that binds the attestation key (`_require_qe`).
    6. Signature: the attestation key signed the quote's bytes as they came.
    7. Binding: the collateral is about this platform, QE and TDX module (`_bind`).
    8. TCB: Intel's levels give a status (`tdx_tcb`).

    Raises Refusal; its stage and code name the first step that failed.
    """
    # 1
    endorsed = verify_pck_chain(evidence.chain, anchors)
    # 2
    _require_valid(endorsed.chain, now)
    signed = None
    is_checked = False
    if collateral is not None:
        # 3
        signed = verify_collateral(collateral, anchors, now)
        _require_valid(signed.signers, now)
        # 4
        is_checked = verify_pck_not_revoked(endorsed, signed.signers, collateral, revocation, now)
    # 5
    _require_qe(evidence, endorsed)
    # 6
    _require_signed(evidence)
    # 7 and 8
    tcb = None if signed is None else _evaluate(evidence, endorsed.identity, signed)
    return TdxClaims(
        quote=evidence.quote,
        simulated=False,  # there is no software TEE of this kind
        pck=endorsed.identity,
        tcb=tcb,
        is_revocation_checked=is_checked,
        proof=PROOF,
    )


def _require_valid(links: Iterable[Validity], now: datetime) -> None:
    for link in links:
        if not link.not_before <= now <= link.not_after:
            raise _refuse(
                "certificate-validity",
                f"seen a {link.what} valid {link.not_before:%Y-%m-%d} to {link.not_after:%Y-%m-%d}, "
                f"wanted one valid at {now:%Y-%m-%d}",
                Stage.VALIDITY,
            )


def _require_qe(evidence: UnverifiedTdx, endorsed: PckEndorsement) -> None:
    """Return nothing.

    1. The PCK signed the QE's report.
    2. Its report data is SHA-256 of attestation key and authentication data, then 32 zero bytes.
    """
    quote = evidence.quote
    # 1
    if not endorsed.key.has_signed(quote.qe_report, quote.qe_signature):
        raise _refuse("qe-signature", "the QE's report is not signed by the PCK", Stage.SIGNATURE)
    # 2
    bound = sha256(quote.attestation_key + quote.qe_auth_data).digest().ljust(_REPORT_DATA_SIZE, b"\0")
    if evidence.qe.report_data != bound:
        raise _refuse("attestation-key", "the QE's report data does not bind the attestation key")


def _require_signed(evidence: UnverifiedTdx) -> None:
    quote = evidence.quote
    try:
        key = load_p256_point(quote.attestation_key)
    except FormatError as error:
        raise _refuse("attestation-key", error.why, Stage.SIGNATURE) from error
    if not key.has_signed(quote.signed, quote.signature):
        raise _refuse("signature", "the quote is not signed by the attestation key", Stage.SIGNATURE)


def _evaluate(evidence: UnverifiedTdx, pck: PckIdentity, signed: SignedCollateral) -> TdxTcb:
    _bind(evidence, pck, signed)
    td = evidence.quote.td
    svns = (td.tee_tcb_svn, td.tee_tcb_svn_2)
    return evaluate_tcb(signed.tcb_info, signed.qe_identity, pck, svns, evidence.qe.isv_svn)


def _bind(evidence: UnverifiedTdx, pck: PckIdentity, signed: SignedCollateral) -> None:
    """Return nothing.

    1. The TCB Info is for the platform's FMSPC and PCEID.
    2. The QE is the one that the QE identity names (`_require_identity`).
    3. The TDX module's signer and attributes are the ones that the TCB Info names (`_require_module`).

    Raises Refusal (stage binding; stage tcb if the module is not named at all).
    """
    info = signed.tcb_info
    # 1
    if info.fmspc != pck.fmspc:
        raise _refuse("fmspc", f"seen FMSPC {pck.fmspc.hex()}, the TCB Info is for {info.fmspc.hex()}")
    if info.pceid != pck.pceid:
        raise _refuse("pceid", f"seen PCEID {pck.pceid.hex()}, the TCB Info is for {info.pceid.hex()}")
    # 2
    _require_identity(evidence.qe, signed.qe_identity)
    # 3
    _require_module(evidence, info)


def _mask(value: bytes, mask: bytes) -> bytes:
    return bytes(byte & bits for byte, bits in zip(value, mask, strict=True))


def _require_identity(qe: QeReport, identity: QeIdentity) -> None:
    seen_and_wanted = {
        "MISCSELECT": (_mask(qe.miscselect, identity.miscselect_mask), identity.miscselect),
        "ATTRIBUTES": (_mask(qe.attributes, identity.attributes_mask), identity.attributes),
        "MRSIGNER": (qe.mrsigner, identity.mrsigner),
    }
    for name, (seen, wanted) in seen_and_wanted.items():
        if seen != wanted:
            raise _refuse("qe-identity", f"seen {name} {seen.hex()} of the QE, wanted {wanted.hex()}")
    if qe.isv_prod_id != identity.isv_prod_id:
        raise _refuse(
            "qe-identity", f"seen ISVPRODID {qe.isv_prod_id} of the QE, wanted {identity.isv_prod_id}"
        )


def _require_module(evidence: UnverifiedTdx, info: TcbInfo) -> None:
    td = evidence.quote.td
    identity = find_module(info, td.tee_tcb_svn)
    signer = info.module if identity is None else identity.signer
    if td.mrsignerseam != signer.mrsigner:
        raise _refuse(
            "module-signer", f"seen MRSIGNERSEAM {td.mrsignerseam.hex()}, wanted {signer.mrsigner.hex()}"
        )
    seen = _mask(td.seam_attributes, signer.attributes_mask)
    if seen != signer.attributes:
        raise _refuse(
            "module-attributes", f"seen SEAMATTRIBUTES {seen.hex()}, wanted {signer.attributes.hex()}"
        )
