"""Refuse keys that AMD has revoked: by a CRL that is given, and by what is known from before.

Serial numbers of VCEKs are 0 for all chips, so a CRL cannot name a chip; a policy's deny-lists can.

Source: RFC 5280, section 5; AMD VCEK Certificate and KDS Interface Specification (publication 57230),
section 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING

from krunpy.attest.refusal import Refusal, Stage
from krunpy.core.errors import FormatError
from krunpy.formats.snp_tcb import Product
from krunpy.formats.x509 import RevocationList, parse_crl

if TYPE_CHECKING:
    from datetime import datetime

    from krunpy.attest.anchors import Anchor
    from krunpy.attest.endorsement import EndorsedKey

# AMD's Genoa CRL revokes the first Genoa ASK (2022-10-31); so it is refused without a CRL too
_KNOWN_REVOKED = {Product.GENOA: frozenset({0x20001})}


class RevocationMode(StrEnum):
    """What a missing or stale CRL means. A revoked key is refused in every mode that reads a CRL."""

    OFF = "off"  # no CRL is read
    IF_FRESH = "if-fresh"  # without a fresh CRL of AMD's the key is unchecked, and the claims say so
    REQUIRED = "required"  # no key is accepted without a CRL that says it is not revoked


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    """How revocation is checked; crls: in DER, from wherever, for they are signed."""

    mode: RevocationMode = RevocationMode.OFF
    crls: tuple[bytes, ...] = ()


@lru_cache(maxsize=64)
def _verify_crl(anchor: Anchor, der: bytes) -> RevocationList:
    try:
        crl = parse_crl(der)
    except FormatError as error:
        raise Refusal(Stage.REVOCATION, "crl-format", why=f"the CRL cannot be read: {error.why}") from error
    if crl.issuer.der != anchor.subject:
        raise Refusal(
            Stage.REVOCATION,
            "crl-issuer",
            why=f'seen a CRL of "{crl.issuer.common_name[:80]}", wanted the root\'s',
        )
    if not anchor.key.has_signed(crl):
        raise Refusal(Stage.REVOCATION, "crl-signature", why="the CRL is not signed by the root")
    if any(extension.is_critical for extension in crl.extensions.values()):
        raise Refusal(Stage.REVOCATION, "crl-extension", why="the CRL has a critical extension")
    return crl


def _read_fresh(anchor: Anchor, der: bytes, now: datetime) -> RevocationList:
    crl = _verify_crl(anchor, der)
    if not crl.this_update <= now <= crl.next_update:
        raise Refusal(
            Stage.REVOCATION,
            "crl-stale",
            why=f"seen a CRL for {crl.this_update:%Y-%m-%d} to {crl.next_update:%Y-%m-%d}, "
            f"wanted one for {now:%Y-%m-%d}",
            next="fetch a new CRL from AMD's key distribution service",
        )
    return crl


def verify_not_revoked(endorsed: EndorsedKey, revocation: Revocation, now: datetime) -> bool:
    """Return whether a fresh CRL was read and names no certificate of the chain.

    1. No certificate is among those known to be revoked.
    2. A CRL counts if it is the root's, signed by it, and fresh; one must count where it is required.
    3. No certificate is named by one of them. Serial 0 is no name: all VCEKs have it.

    Raises Refusal (stage revocation).
    """
    serials = {link.serial: link.what for link in endorsed.chain if link.serial > 0}
    # 1
    if not endorsed.simulated:
        _require_absent(serials, _KNOWN_REVOKED.get(endorsed.product, frozenset()))
    if revocation.mode is RevocationMode.OFF:
        return False
    # 2
    fresh = []
    problem: Refusal | None = None
    for der in revocation.crls:
        try:
            fresh.append(_read_fresh(endorsed.anchor, der, now))
        except Refusal as refusal:
            problem = problem or refusal
    # 3
    for crl in fresh:
        _require_absent(serials, crl.serials)
    if fresh:
        return True
    if revocation.mode is RevocationMode.REQUIRED:
        raise problem or Refusal(
            Stage.REVOCATION,
            "crl-missing",
            why="seen no CRL, and the policy requires one",
            next="fetch the CRL from AMD's key distribution service",
        )
    return False


def _require_absent(serials: dict[int, str], revoked: frozenset[int]) -> None:
    for serial, what in serials.items():
        if serial in revoked:
            raise Refusal(Stage.REVOCATION, "revoked", why=f"the {what} with serial {serial:#x} is revoked")
