"""Whether bytes are the collateral that was asked for, and from when to when they hold.

Everything is verified up to the roots given, so that nobody on the way can fill a cache with what would be
refused later. What it says of evidence is for `attest`.

What is kept of each item: a VCEK, AMD's CRLs and Intel's root CRL in DER; AMD's chains in PEM; Intel's other
items as the members of the collateral document (krunpy/formats/tdx_collateral.py) that they fill, in JSON.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_never

from krunpy.attest.endorsement import verify_endorsement
from krunpy.attest.refusal import Refusal
from krunpy.attest.tdx_chain import verify_tcb_signer
from krunpy.attest.tdx_signatures import load_p256_key
from krunpy.client.collateral_item import (
    AmdChain,
    AmdCrl,
    IntelRootCrl,
    PckCa,
    PckCrl,
    TdxQeIdentity,
    TdxTcbInfo,
    Vcek,
)
from krunpy.core.errors import FormatError
from krunpy.formats.pck_chain import parse_pem_chain
from krunpy.formats.snp_report import SigningKey
from krunpy.formats.snp_tcb import Product
from krunpy.formats.tdx_collateral import SIGNATURE_SIZE, TdxCollateral
from krunpy.formats.tdx_json import parse_signed_json, take_octets
from krunpy.formats.tdx_qe import parse_qe_identity
from krunpy.formats.tdx_tcb_info import parse_tcb_info
from krunpy.formats.x509 import parse_certificate, parse_crl

if TYPE_CHECKING:
    from datetime import datetime

    from krunpy.attest.anchors import Anchor, Anchors, IntelAnchor, IntelAnchors
    from krunpy.client.collateral_item import Item
    from krunpy.formats.narrow import Fields

LARGEST_CONTENTS = 1 << 20  # bytes
PCK_AUTHORITIES = {
    "Intel SGX PCK Platform CA": PckCa.PLATFORM,
    "Intel SGX PCK Processor CA": PckCa.PROCESSOR,
}
_STEMS = {SigningKey.VCEK: "SEV", SigningKey.VLEK: "SEV-VLEK"}
_CHAIN_SIZE = 2  # certificates


@dataclass(frozen=True, slots=True, kw_only=True)
class Roots:
    """The roots that collateral must lead to."""

    amd: Anchors
    intel: IntelAnchors


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """When collateral was issued and until when it holds, by its own words."""

    issued: datetime
    expires: datetime

    def holds_at(self, now: datetime) -> bool:
        """Return whether it holds at a time."""
        return self.issued <= now <= self.expires


def _refuse(why: str) -> FormatError:
    return FormatError("cannot use the collateral", why=why)


def check_contents(item: Item, contents: bytes, roots: Roots) -> Span:
    """Return when the contents of an item, at most 1 MiB, hold.

    Raises FormatError if they cannot be read, are not those of this item, or are not signed below a root.
    """
    if len(contents) > LARGEST_CONTENTS:
        raise _refuse(f"seen {len(contents)} bytes, wanted at most {LARGEST_CONTENTS}")
    try:
        return _check(item, contents, roots)
    except Refusal as refusal:
        raise _refuse(refusal.why) from refusal


def _check(item: Item, contents: bytes, roots: Roots) -> Span:
    match item:
        case Vcek():
            return _check_vcek(item, contents, roots.amd)
        case AmdChain():
            return _check_chain(item, contents, _find_anchor(roots.amd, item.product))
        case AmdCrl():
            return _check_crl(contents, _find_anchor(roots.amd, item.product))
        case TdxTcbInfo():
            return _check_tcb_info(item, contents, roots.intel)
        case TdxQeIdentity():
            return _check_qe_identity(contents, roots.intel)
        case PckCrl():
            return _check_pck_crl(item, contents, roots.intel)
        case IntelRootCrl():
            return _check_root_crl(contents, roots.intel)
        case _:
            assert_never(item)


# --- AMD


def _find_anchor(anchors: Anchors, product: Product) -> Anchor:
    anchor = anchors.find(product, simulated=False)
    if anchor is None:
        raise _refuse(f"no root for {product} is trusted")
    return anchor


def _check_vcek(item: Vcek, contents: bytes, anchors: Anchors) -> Span:
    endorsed = verify_endorsement(contents, None, None, anchors)
    if endorsed.simulated or (endorsed.kind, endorsed.product) != (SigningKey.VCEK, item.product):
        raise _refuse(f"seen a {endorsed.kind.name} of {endorsed.product}, wanted a VCEK of {item.product}")
    if endorsed.hwid != item.hwid:
        seen = "none" if endorsed.hwid is None else endorsed.hwid[:8].hex()
        raise _refuse(f"seen a VCEK of chip {seen}, wanted one of {item.hwid[:8].hex()}")
    names = ("bootloader", "tee", "snp", "microcode", *(("fmc",) if item.product is Product.TURIN else ()))
    for name in names:
        wanted, level = getattr(item.tcb, name), endorsed.levels.get(name)
        if level != wanted:
            raise _refuse(f"seen a VCEK for {name} {level}, wanted {wanted}")
    leaf = endorsed.chain[-1]
    return Span(issued=leaf.not_before, expires=min(link.not_after for link in endorsed.chain))


def _check_chain(item: AmdChain, contents: bytes, anchor: Anchor) -> Span:
    chain = parse_pem_chain(contents)
    if len(chain) != _CHAIN_SIZE:
        raise _refuse(f"seen {len(chain)} certificates, wanted 2")
    if chain[1] != anchor.der:
        raise _refuse("its root is not the one that is trusted")
    intermediate = parse_certificate(chain[0])
    wanted, seen = f"{_STEMS[item.key]}-{item.product}", intermediate.subject.common_name
    if seen != wanted or intermediate.issuer.der != anchor.subject:
        raise _refuse(f'seen a certificate of "{seen[:80]}", wanted "{wanted}"')
    if not anchor.key.has_signed(intermediate):
        raise _refuse(f'"{wanted}" is not signed by the trusted root')
    return Span(issued=intermediate.not_before, expires=min(intermediate.not_after, anchor.not_after))


def _check_crl(contents: bytes, anchor: Anchor) -> Span:
    crl = parse_crl(contents)
    if crl.issuer.der != anchor.subject:
        raise _refuse(f'seen a CRL of "{crl.issuer.common_name[:80]}", wanted one of ARK-{anchor.product}')
    if not anchor.key.has_signed(crl):
        raise _refuse("the CRL is not signed by the trusted root")
    return Span(issued=crl.this_update, expires=crl.next_update)


# --- Intel


def _read_members(contents: bytes) -> Fields:
    return parse_signed_json(contents, "the collateral", limit=LARGEST_CONTENTS)


def _take_text(fields: Fields, name: str) -> bytes:
    try:
        return fields.take_string(name).encode()
    except UnicodeEncodeError as error:
        raise _refuse(f"{name} holds half of a surrogate pair") from error


def _take_chain(fields: Fields, name: str) -> tuple[bytes, ...]:
    """Return the certificates of a signer and Intel's root, in DER."""
    chain = parse_pem_chain(_take_text(fields, name))
    if len(chain) != _CHAIN_SIZE:
        raise _refuse(f"{name}: seen {len(chain)} certificates, wanted 2")
    return chain


def _find_root(chain: tuple[bytes, ...], intel: IntelAnchors) -> IntelAnchor:
    root = intel.find(chain[-1])
    if root is None:
        raise _refuse("its chain ends at a root that is not trusted")
    return root


def _require_signed(fields: Fields, part: str, raw: bytes, intel: IntelAnchors) -> datetime:
    """Return until when the chain holds whose first key signed a document. Raises FormatError, Refusal."""
    signature = take_octets(fields, f"{part}_signature", SIGNATURE_SIZE)
    chain = _take_chain(fields, f"{part}_issuer_chain")
    fields.require_no_more()
    signer = verify_tcb_signer(chain, intel)
    if not signer.key.has_signed(raw, signature):
        raise _refuse("it is not signed by the signer that came with it")
    return min(signer.link.not_after, _find_root(chain, intel).not_after)


def _check_tcb_info(item: TdxTcbInfo, contents: bytes, intel: IntelAnchors) -> Span:
    fields = _read_members(contents)
    raw = _take_text(fields, "tcb_info")
    info = parse_tcb_info(raw)
    if info.fmspc != item.fmspc:
        raise _refuse(f"seen a TCB Info of FMSPC {info.fmspc.hex()}, wanted {item.fmspc.hex()}")
    not_after = _require_signed(fields, "tcb_info", raw, intel)
    return Span(issued=info.issue_date, expires=min(info.next_update, not_after))


def _check_qe_identity(contents: bytes, intel: IntelAnchors) -> Span:
    fields = _read_members(contents)
    raw = _take_text(fields, "qe_identity")
    identity = parse_qe_identity(raw)
    not_after = _require_signed(fields, "qe_identity", raw, intel)
    return Span(issued=identity.issue_date, expires=min(identity.next_update, not_after))


def _take_der(fields: Fields, name: str) -> bytes:
    text = fields.take_string(name)
    try:
        der = bytes.fromhex(text)
    except ValueError:
        der = b""
    if der.hex() != text:
        raise _refuse(f"{name} is not bytes in lower-case hex")
    return der


def _check_pck_crl(item: PckCrl, contents: bytes, intel: IntelAnchors) -> Span:
    fields = _read_members(contents)
    crl = parse_crl(_take_der(fields, "pck_crl"))
    chain = _take_chain(fields, "pck_crl_issuer_chain")
    fields.require_no_more()
    root, ca = _find_root(chain, intel), parse_certificate(chain[0])
    seen = ca.subject.common_name
    if PCK_AUTHORITIES.get(seen) is not item.ca or crl.issuer.der != ca.subject.der:
        raise _refuse(f'seen a CRL of "{seen[:80]}", wanted one of the PCK {item.ca} CA, with its chain')
    if ca.issuer.der != root.subject or not root.key.has_issued(ca):
        raise _refuse(f'"{seen}" is not signed by the trusted root')
    if not load_p256_key(ca.public_key).has_issued(crl):
        raise _refuse(f'the CRL is not signed by "{seen}"')
    return Span(issued=crl.this_update, expires=min(crl.next_update, ca.not_after, root.not_after))


def _check_root_crl(contents: bytes, intel: IntelAnchors) -> Span:
    crl = parse_crl(contents)
    named = [root for root in intel.roots.values() if root.subject == crl.issuer.der]
    if not named:
        raise _refuse(f'seen a CRL of "{crl.issuer.common_name[:80]}", wanted one of Intel\'s root')
    if not any(root.key.has_issued(crl) for root in named):
        raise _refuse("the CRL is not signed by the trusted root")
    return Span(issued=crl.this_update, expires=crl.next_update)


def join_collateral(tcb_info: bytes, qe_identity: bytes, pck_crl: bytes, root_crl: bytes) -> TdxCollateral:
    """Return the collateral of a TDX quote from the contents of its four items. Raises FormatError."""
    tcb, qe, pck = _read_members(tcb_info), _read_members(qe_identity), _read_members(pck_crl)
    return TdxCollateral(
        pck_crl_issuer_chain=_take_text(pck, "pck_crl_issuer_chain"),
        root_ca_crl=root_crl,
        pck_crl=_take_der(pck, "pck_crl"),
        tcb_info_issuer_chain=_take_text(tcb, "tcb_info_issuer_chain"),
        tcb_info=_take_text(tcb, "tcb_info"),
        tcb_info_signature=take_octets(tcb, "tcb_info_signature", SIGNATURE_SIZE),
        qe_identity_issuer_chain=_take_text(qe, "qe_identity_issuer_chain"),
        qe_identity=_take_text(qe, "qe_identity"),
        qe_identity_signature=take_octets(qe, "qe_identity_signature", SIGNATURE_SIZE),
    )
