"""Where AMD and Intel publish collateral, and how their answers hold it: an item in, a path; an answer in, contents.

No socket is opened here, and no certificate is judged.

Source: AMD VCEK Certificate and KDS Interface Specification (publication 57230), section 4; Intel API for the
Provisioning Certification Service, version 4; intel/confidential-computing.tee.dcap.pccs for its caches.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_never
from urllib.parse import unquote

from krunpy.attest.anchors import split_pem
from krunpy.client.collateral_item import (
    AmdChain,
    AmdCrl,
    IntelRootCrl,
    PckCrl,
    TdxQeIdentity,
    TdxTcbInfo,
    Vcek,
    Vendor,
    vendor_of,
)
from krunpy.client.exchange import Target, parse_url
from krunpy.core.errors import FormatError, UsageError
from krunpy.formats.pck_chain import encode_pem
from krunpy.formats.snp_tcb import Product

if TYPE_CHECKING:
    from krunpy.client.collateral_http import Answer
    from krunpy.client.collateral_item import Item

KDS_URL = "https://kdsintf.amd.com"
PCS_URL = "https://api.trustedservices.intel.com"
_INTEL_CERTIFICATES_URL = "https://certificates.trustedservices.intel.com"  # the root CRL is not at PCS
_LARGEST_CERTIFICATE, _LARGEST_DOCUMENT = 4096, 1 << 20  # bytes
_SGX, _TDX = "/sgx/certification/v4", "/tdx/certification/v4"
_CHAIN_HEADERS = {
    "tcb_info": ("tcb-info-issuer-chain", "sgx-tcb-info-issuer-chain"),
    "qe_identity": ("sgx-enclave-identity-issuer-chain",),
    "pck_crl": ("sgx-pck-crl-issuer-chain",),
}
_SIGNATURE = re.compile(r'\s*,\s*"signature"\s*:\s*"([0-9a-fA-F]{128})"\s*\}\s*')


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where to ask. root_crl: Intel's own host for its root CRL; None where pcs is a cache that has it too."""

    kds: Target
    pcs: Target
    root_crl: Target | None

    def of(self, item: Item) -> Target:
        """Return who is asked for an item."""
        if vendor_of(item) is Vendor.AMD:
            return self.kds
        return self.root_crl if isinstance(item, IntelRootCrl) and self.root_crl else self.pcs


def make_sources(*, kds_url: str = "", pcs_url: str = "") -> Sources:
    """Return where to ask: the vendors, or a mirror of AMD's KDS and a cache (PCCS) of Intel's PCS.

    Raises UsageError unless a URL is https://HOST[:PORT]; http only to this machine itself.
    """
    kds, pcs = parse_url(kds_url or KDS_URL), parse_url(pcs_url or PCS_URL)
    for target in (kds, pcs):
        if not target.is_private:
            raise UsageError(
                f"cannot fetch collateral from {target}",
                why="the connection is plain http to another machine: everyone between could withhold a CRL",
                next="use https",
            )
    root = parse_url(_INTEL_CERTIFICATES_URL) if pcs == parse_url(PCS_URL) else None
    return Sources(kds=kds, pcs=pcs, root_crl=root)


def make_path(item: Item, sources: Sources) -> str:
    """Return the path and query that an item is asked for with."""
    match item:
        case Vcek():
            tcb = item.tcb
            fmc = f"fmcSPL={tcb.fmc}&" if item.product is Product.TURIN else ""
            levels = f"{fmc}blSPL={tcb.bootloader}&teeSPL={tcb.tee}&snpSPL={tcb.snp}&ucodeSPL={tcb.microcode}"
            return f"/vcek/v1/{item.product}/{item.hwid.hex()}?{levels}"
        case AmdChain():
            return f"/{item.key.name.lower()}/v1/{item.product}/cert_chain"
        case AmdCrl():
            return f"/{item.key.name.lower()}/v1/{item.product}/crl"
        case TdxTcbInfo():
            return f"{_TDX}/tcb?fmspc={item.fmspc.hex().upper()}"
        case TdxQeIdentity():
            return f"{_TDX}/qe/identity"
        case PckCrl():
            return f"{_SGX}/pckcrl?ca={item.ca}&encoding=der"
        case IntelRootCrl():
            return "/IntelSGXRootCA.der" if sources.root_crl else f"{_SGX}/rootcacrl"
        case _:
            assert_never(item)


def limit_of(item: Item) -> int:
    """Return how many bytes an answer may have."""
    return _LARGEST_CERTIFICATE if isinstance(item, Vcek) else _LARGEST_DOCUMENT


def read_answer(item: Item, answer: Answer) -> bytes:
    """Return the contents that an answer of status 200 holds, not checked yet.

    Raises FormatError if the answer has another shape.
    """
    match item:
        case Vcek() | AmdCrl():
            return answer.body
        case AmdChain():
            return _join_pem(answer.body)
        case IntelRootCrl():
            return _decode_der(answer.body)
        case PckCrl():
            chain = _take_chain(answer, "pck_crl")
            return _pack({"pck_crl_issuer_chain": chain, "pck_crl": _decode_der(answer.body).hex()})
        case TdxTcbInfo():
            return _read_signed(answer, "tcbInfo", "tcb_info")
        case TdxQeIdentity():
            return _read_signed(answer, "enclaveIdentity", "qe_identity")
        case _:
            assert_never(item)


def _refuse(why: str) -> FormatError:
    return FormatError("cannot read the answer", why=why)


def _pack(members: dict[str, str]) -> bytes:
    return json.dumps(members, separators=(",", ":"), ensure_ascii=False).encode()


def _join_pem(text: bytes) -> bytes:
    """Return a chain with one form for the same certificates: nothing signs the text around them."""
    return b"".join(encode_pem(der) + b"\n" for der in split_pem(text))


def _take_chain(answer: Answer, part: str) -> str:
    for name in _CHAIN_HEADERS[part]:
        if name in answer.headers:
            text = unquote(answer.headers[name], encoding="ascii", errors="replace")
            return _join_pem(text.encode()).decode()
    raise _refuse(f"it has no header {_CHAIN_HEADERS[part][0]}")


def _decode_der(body: bytes) -> bytes:
    """Return DER from itself or from its hex: Intel's caches send the latter."""
    if not body.startswith(b"30"):  # DER starts with the byte 30h, which is "0"
        return body
    try:
        return bytes.fromhex(body.decode("ascii"))
    except ValueError as error:
        raise _refuse("it is neither DER nor hex") from error


def _read_signed(answer: Answer, outer: str, part: str) -> bytes:
    """Return the members of the collateral document; the signed object is cut out as it came."""
    try:
        text = answer.body.decode()
        start = re.match(rf'\s*\{{\s*"{outer}"\s*:\s*', text)
        if start is None:
            raise _refuse(f'its first member is not "{outer}"')
        _, end = json.JSONDecoder().raw_decode(text, start.end())
    except (ValueError, RecursionError) as error:
        raise _refuse("it is not JSON in UTF-8") from error
    signature = _SIGNATURE.fullmatch(text, end)
    if signature is None:
        raise _refuse(f'after "{outer}" it holds something else than a signature of 64 bytes in hex')
    return _pack(
        {
            f"{part}_issuer_chain": _take_chain(answer, part),
            part: text[start.end() : end],
            f"{part}_signature": signature[1],
        }
    )
