"""What collateral there is: one value per thing that AMD or Intel publishes, and a name for each.

The name is a file name and can be read back. Nothing is fetched and no certificate is read here.

Source: AMD VCEK Certificate and KDS Interface Specification (publication 57230), section 4; Intel API for the
Provisioning Certification Service, version 4.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias, assert_never

from krunpy.core.errors import FormatError
from krunpy.formats.snp_report import SigningKey
from krunpy.formats.snp_tcb import Product, Tcb, pack_tcb, parse_tcb

CHIP_ID_SIZE = 64  # bytes
FMSPC_SIZE = 6  # bytes
_HWID_SIZES = {Product.MILAN: 64, Product.GENOA: 64, Product.TURIN: 8}  # bytes


class Vendor(StrEnum):
    """Who publishes it."""

    AMD = "amd"
    INTEL = "intel"


class PckCa(StrEnum):
    """Which of Intel's authorities issued a PCK certificate; processor: single-socket platforms."""

    PLATFORM = "platform"
    PROCESSOR = "processor"


@dataclass(frozen=True, slots=True, kw_only=True)
class Vcek:
    """The certificate of one chip's key at one TCB version. hwid: 64 bytes, on Turin 8."""

    product: Product
    hwid: bytes
    tcb: Tcb


@dataclass(frozen=True, slots=True, kw_only=True)
class AmdChain:
    """The intermediate and the root of a product's VCEKs or VLEKs."""

    product: Product
    key: SigningKey


@dataclass(frozen=True, slots=True, kw_only=True)
class AmdCrl:
    """What a product's root has revoked."""

    product: Product
    key: SigningKey


@dataclass(frozen=True, slots=True, kw_only=True)
class TdxTcbInfo:
    """The TCB levels of one kind of platform. fmspc: 6 bytes."""

    fmspc: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class TdxQeIdentity:
    """The identity of Intel's TD quoting enclave."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PckCrl:
    """What one of Intel's PCK authorities has revoked."""

    ca: PckCa


@dataclass(frozen=True, slots=True, kw_only=True)
class IntelRootCrl:
    """What Intel's root has revoked."""


Item: TypeAlias = Vcek | AmdChain | AmdCrl | TdxTcbInfo | TdxQeIdentity | PckCrl | IntelRootCrl


def make_vcek(product: Product, chip_id: bytes, tcb: Tcb) -> Vcek:
    """Return the VCEK that signs for a chip. chip_id: CHIP_ID of its reports, 64 bytes.

    Raises FormatError if the chip does not name itself: MASK_CHIP_ID leaves zeroes.
    """
    if len(chip_id) != CHIP_ID_SIZE or not any(chip_id):
        raise FormatError(
            "cannot name the VCEK",
            why=f"seen CHIP_ID {chip_id[:8].hex()}..., wanted 64 bytes that are not all zero",
            next="the host hides its chip; it has to hand out the certificate itself",
        )
    return Vcek(product=product, hwid=chip_id[: _HWID_SIZES[product]], tcb=tcb)


def name_item(item: Item) -> str:
    """Return an item's name: a file name of at most 200 characters."""
    match item:
        case Vcek():
            return f"vcek-{item.product.lower()}-{item.hwid.hex()}-{pack_tcb(item.tcb, item.product).hex()}"
        case AmdChain():
            return f"{item.key.name.lower()}-chain-{item.product.lower()}"
        case AmdCrl():
            return f"{item.key.name.lower()}-crl-{item.product.lower()}"
        case TdxTcbInfo():
            return f"tdx-tcb-info-{item.fmspc.hex()}"
        case TdxQeIdentity():
            return "tdx-qe-identity"
        case PckCrl():
            return f"pck-crl-{item.ca}"
        case IntelRootCrl():
            return "intel-root-crl"
        case _:
            assert_never(item)


_PRODUCTS = {product.lower(): product for product in Product}
_KEYS = {key.name.lower(): key for key in (SigningKey.VCEK, SigningKey.VLEK)}
_VCEK = re.compile(r"vcek-([a-z]+)-([0-9a-f]{16}|[0-9a-f]{128})-([0-9a-f]{16})")
_TCB_INFO = re.compile(r"tdx-tcb-info-([0-9a-f]{12})")
_FIXED: tuple[Item, ...] = (
    *(AmdChain(product=product, key=key) for product in Product for key in _KEYS.values()),
    *(AmdCrl(product=product, key=key) for product in Product for key in _KEYS.values()),
    TdxQeIdentity(),
    *(PckCrl(ca=ca) for ca in PckCa),
    IntelRootCrl(),
)
_NAMED = {name_item(item): item for item in _FIXED}


def parse_item(name: str) -> Item:
    """Return the item of a name. Raises FormatError if it names none."""
    if name in _NAMED:
        return _NAMED[name]
    if (match := _TCB_INFO.fullmatch(name)) is not None:
        return TdxTcbInfo(fmspc=bytes.fromhex(match[1]))
    if (match := _VCEK.fullmatch(name)) is not None and match[1] in _PRODUCTS:
        product, hwid = _PRODUCTS[match[1]], bytes.fromhex(match[2])
        if len(hwid) == _HWID_SIZES[product]:
            return Vcek(product=product, hwid=hwid, tcb=parse_tcb(bytes.fromhex(match[3]), product))
    raise FormatError("cannot name the collateral", why=f'"{name[:80]}" is no name of an item')


def vendor_of(item: Item) -> Vendor:
    """Return who publishes an item."""
    return Vendor.AMD if isinstance(item, Vcek | AmdChain | AmdCrl) else Vendor.INTEL


def describe_item(item: Item) -> str:
    """Return what an item is, for people, on one line."""
    match item:
        case Vcek():
            return f"VCEK of {item.product} chip {item.hwid[:8].hex()} at {item.tcb}"
        case AmdChain():
            return f"{item.key.name} chain of {item.product}"
        case AmdCrl():
            return f"{item.key.name} CRL of {item.product}"
        case TdxTcbInfo():
            return f"TDX TCB Info of FMSPC {item.fmspc.hex()}"
        case TdxQeIdentity():
            return "TD QE identity"
        case PckCrl():
            return f"PCK {item.ca} CRL"
        case IntelRootCrl():
            return "Intel root CRL"
        case _:
            assert_never(item)


def list_product_items(product: Product) -> tuple[Item, ...]:
    """Return what does not depend on a chip: both chains and both CRLs of a product."""
    keys = tuple(_KEYS.values())
    return (
        *(AmdChain(product=product, key=key) for key in keys),
        *(AmdCrl(product=product, key=key) for key in keys),
    )


def list_tdx_items(fmspc: bytes, ca: PckCa) -> tuple[TdxTcbInfo, TdxQeIdentity, PckCrl, IntelRootCrl]:
    """Return the four things that a TDX quote is verified with. fmspc: 6 bytes."""
    return TdxTcbInfo(fmspc=fmspc), TdxQeIdentity(), PckCrl(ca=ca), IntelRootCrl()
