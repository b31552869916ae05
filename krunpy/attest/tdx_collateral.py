"""Verify collateral: that Intel signed the TCB Info and the QE identity, and that they are of now.

They are read only after their signatures were verified. Whether they are about the platform at hand, and what
they say of it, is for `tdx_verify`. Collateral that was verified is remembered, by its bytes.

Source: Intel TDX DCAP Quoting Library API, collateral; Intel API for the Provisioning Certification Service,
version 4, response headers and signatures.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from krunpy.attest.refusal import Refusal, Stage
from krunpy.attest.tdx_chain import verify_tcb_signer
from krunpy.core.errors import FormatError
from krunpy.formats.pck_chain import parse_pem_chain
from krunpy.formats.tdx_qe import QeIdentity, parse_qe_identity
from krunpy.formats.tdx_tcb_info import TcbInfo, parse_tcb_info

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from typing import TypeVar

    from krunpy.attest.anchors import IntelAnchors
    from krunpy.attest.endorsement import Validity
    from krunpy.formats.tdx_collateral import TdxCollateral

    _Document = TypeVar("_Document", TcbInfo, QeIdentity)


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedCollateral:
    """A TCB Info and a QE identity that Intel signed, and the certificates of the signers."""

    tcb_info: TcbInfo
    qe_identity: QeIdentity
    signers: tuple[Validity, Validity]


def _refuse(code: str, why: str, next: str = "") -> Refusal:
    return Refusal(Stage.COLLATERAL, code, why=why, next=next)


def _read_signed(
    chain: bytes, raw: bytes, signature: bytes, anchors: IntelAnchors, read: Callable[[bytes], _Document]
) -> tuple[_Document, Validity]:
    """Return a document and its signer.

    1. The chain leads from a TCB signing certificate to a trusted root.
    2. Its key signed the document's bytes.
    3. The document is of the kind and version that we read.
    """
    try:
        # 1
        signer = verify_tcb_signer(parse_pem_chain(chain), anchors)
        # 2
        if not signer.key.has_signed(raw, signature):
            raise _refuse("collateral-signature", "a TCB Info or QE identity is not signed by its signer")
        # 3
        return read(raw), signer.link
    except FormatError as error:
        raise _refuse("collateral-format", f"{error.what}: {error.why}") from error


@lru_cache(maxsize=128)
def _verify_signed(collateral: TdxCollateral, anchors: IntelAnchors) -> SignedCollateral:
    tcb_info, tcb_signer = _read_signed(
        collateral.tcb_info_issuer_chain,
        collateral.tcb_info,
        collateral.tcb_info_signature,
        anchors,
        parse_tcb_info,
    )
    qe_identity, qe_signer = _read_signed(
        collateral.qe_identity_issuer_chain,
        collateral.qe_identity,
        collateral.qe_identity_signature,
        anchors,
        parse_qe_identity,
    )
    return SignedCollateral(tcb_info=tcb_info, qe_identity=qe_identity, signers=(tcb_signer, qe_signer))


def verify_collateral(collateral: TdxCollateral, anchors: IntelAnchors, now: datetime) -> SignedCollateral:
    """Return what Intel signed.

    1. TCB Info and QE identity are each signed by a TCB signer below a trusted root (`_read_signed`).
    2. Both are of now: issueDate is past, nextUpdate is not.

    Raises Refusal (stage collateral).
    """
    # 1
    signed = _verify_signed(collateral, anchors)
    # 2
    for what, document in (("TCB Info", signed.tcb_info), ("QE identity", signed.qe_identity)):
        if not document.issue_date <= now <= document.next_update:
            raise _refuse(
                "collateral-stale",
                f"seen a {what} for {document.issue_date:%Y-%m-%d} to {document.next_update:%Y-%m-%d}, "
                f"wanted one for {now:%Y-%m-%d}",
                next="run `krunpy collateral fetch`",
            )
    return signed
