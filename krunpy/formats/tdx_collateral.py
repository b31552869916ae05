"""The collateral of a TDX quote in one document: what Intel signed, byte for byte, and the chains to it.

It is the JSON that the dcap-qvl library reads and writes as QuoteCollateralV3, and holds what Intel's quote
verification library takes as sgx_ql_qve_collateral_t. Nothing is verified here, and no part is read.

Source: dcap-qvl, QuoteCollateralV3; Intel SGX DCAP Quoting Library API, collateral structure.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from krunpy.core.errors import FormatError
from krunpy.formats.tdx_json import parse_signed_json, take_octets

if TYPE_CHECKING:
    from krunpy.formats.narrow import Fields

LARGEST_COLLATERAL = 1 << 20  # bytes
SIGNATURE_SIZE = 64  # bytes: r and s, big-endian
_WHERE = "collateral"


@dataclass(frozen=True, slots=True, kw_only=True)
class TdxCollateral:
    """Endorsements of one platform and its QE.

    pck_crl_issuer_chain, tcb_info_issuer_chain, qe_identity_issuer_chain: PEM, the signer first.
    root_ca_crl, pck_crl: DER; empty if there is none.
    tcb_info, qe_identity: the exact bytes that are signed; their signatures: 64 bytes, r and s.
    """

    pck_crl_issuer_chain: bytes
    root_ca_crl: bytes
    pck_crl: bytes
    tcb_info_issuer_chain: bytes
    tcb_info: bytes
    tcb_info_signature: bytes
    qe_identity_issuer_chain: bytes
    qe_identity: bytes
    qe_identity_signature: bytes


def _take_text(fields: Fields, name: str) -> bytes:
    try:
        return fields.take_string(name).encode()
    except UnicodeEncodeError as error:
        raise FormatError(f"cannot read {_WHERE}.{name}", why="it holds half of a surrogate pair") from error


def _take_der(fields: Fields, name: str) -> bytes:
    text = fields.take_string(name)
    try:
        value = bytes.fromhex(text)
    except ValueError:
        value = b""
    if len(text) != 2 * len(value):
        raise FormatError(f"cannot read {_WHERE}.{name}", why="seen something else, wanted bytes in hex")
    return value


def parse_tdx_collateral(raw: bytes) -> TdxCollateral:
    """Return the parts of a collateral document, at most 1 MiB.

    Raises FormatError unless it is one JSON object of the nine members, each text or bytes in hex.
    """
    fields = parse_signed_json(raw, _WHERE, limit=LARGEST_COLLATERAL)
    collateral = TdxCollateral(
        pck_crl_issuer_chain=_take_text(fields, "pck_crl_issuer_chain"),
        root_ca_crl=_take_der(fields, "root_ca_crl"),
        pck_crl=_take_der(fields, "pck_crl"),
        tcb_info_issuer_chain=_take_text(fields, "tcb_info_issuer_chain"),
        tcb_info=_take_text(fields, "tcb_info"),
        tcb_info_signature=take_octets(fields, "tcb_info_signature", SIGNATURE_SIZE),
        qe_identity_issuer_chain=_take_text(fields, "qe_identity_issuer_chain"),
        qe_identity=_take_text(fields, "qe_identity"),
        qe_identity_signature=take_octets(fields, "qe_identity_signature", SIGNATURE_SIZE),
    )
    fields.require_no_more()
    return collateral


def pack_tdx_collateral(collateral: TdxCollateral) -> bytes:
    """Return the document that `parse_tdx_collateral` reads."""
    document = {
        "pck_crl_issuer_chain": collateral.pck_crl_issuer_chain.decode(),
        "root_ca_crl": collateral.root_ca_crl.hex(),
        "pck_crl": collateral.pck_crl.hex(),
        "tcb_info_issuer_chain": collateral.tcb_info_issuer_chain.decode(),
        "tcb_info": collateral.tcb_info.decode(),
        "tcb_info_signature": collateral.tcb_info_signature.hex(),
        "qe_identity_issuer_chain": collateral.qe_identity_issuer_chain.decode(),
        "qe_identity": collateral.qe_identity.decode(),
        "qe_identity_signature": collateral.qe_identity_signature.hex(),
    }
    return json.dumps(document, ensure_ascii=False).encode()
