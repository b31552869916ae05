"""AMD's SEV-SNP products and the layout of their TCB versions.

A TCB version is eight bytes whose meaning depends on the product; two are compared component by
component, never as one integer.

Source: AMD SEV-SNP Firmware ABI (publication 56860), sections 2.2 and 7.3.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import StrEnum

from krunpy.core.errors import FormatError

TCB_SIZE = 8  # bytes
_MILAN_GENOA = struct.Struct("<BB4sBB")
_TURIN = struct.Struct("<BBBB3sB")

# CPUID family and model ranges (combined values). Siena and Bergamo (A0h to AFh) use the Genoa chain.
_FAMILY_19H, _FAMILY_1AH = 0x19, 0x1A


class Product(StrEnum):
    """A processor generation with its own root key."""

    MILAN = "Milan"
    GENOA = "Genoa"
    TURIN = "Turin"


_MODELS = (
    (_FAMILY_19H, 0x00, 0x0F, Product.MILAN),
    (_FAMILY_19H, 0x10, 0x1F, Product.GENOA),
    (_FAMILY_19H, 0xA0, 0xAF, Product.GENOA),
    (_FAMILY_1AH, 0x00, 0x11, Product.TURIN),
)


def find_product(family: int, model: int) -> Product | None:
    """Return the product of a CPUID family and model, None if no root key is known for it."""
    for known_family, first, last, product in _MODELS:
        if family == known_family and first <= model <= last:
            return product
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tcb:
    """Security patch levels, each 0 to 255; fmc exists on Turin only and is 0 elsewhere."""

    bootloader: int = 0
    tee: int = 0
    snp: int = 0
    microcode: int = 0
    fmc: int = 0

    def is_at_least(self, floor: Tcb) -> bool:
        """Return whether every component is at or above the floor's."""
        return (
            self.bootloader >= floor.bootloader
            and self.tee >= floor.tee
            and self.snp >= floor.snp
            and self.microcode >= floor.microcode
            and self.fmc >= floor.fmc
        )

    def __str__(self) -> str:
        fmc = f"fmc {self.fmc}, " if self.fmc else ""
        return (
            f"{fmc}bootloader {self.bootloader}, tee {self.tee}, snp {self.snp}, microcode {self.microcode}"
        )


def parse_tcb(raw: bytes, product: Product) -> Tcb:
    """Return the TCB version in 8 bytes, read as `product` lays it out.

    Raises FormatError on another length or a reserved byte that is not zero.
    """
    if len(raw) != TCB_SIZE:
        raise FormatError("cannot read a TCB version", why=f"seen {len(raw)} bytes, wanted {TCB_SIZE}")
    if product is Product.TURIN:
        fmc, bootloader, tee, snp, reserved, microcode = _TURIN.unpack(raw)
    else:
        fmc = 0
        bootloader, tee, reserved, snp, microcode = _MILAN_GENOA.unpack(raw)
    if any(reserved):
        raise FormatError(
            "cannot read a TCB version",
            why=f"seen reserved bytes {reserved.hex()} for {product}, wanted zero",
        )
    return Tcb(bootloader=bootloader, tee=tee, snp=snp, microcode=microcode, fmc=fmc)


def pack_tcb(tcb: Tcb, product: Product) -> bytes:
    """Return the 8 bytes of a TCB version as `product` lays it out. Raises ValueError on fmc before Turin."""
    if product is Product.TURIN:
        return _TURIN.pack(tcb.fmc, tcb.bootloader, tcb.tee, tcb.snp, b"", tcb.microcode)
    if tcb.fmc:
        msg = f"{product} has no fmc component"
        raise ValueError(msg)
    return _MILAN_GENOA.pack(tcb.bootloader, tcb.tee, b"", tcb.snp, tcb.microcode)
