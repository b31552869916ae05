"""Refuse platforms, CAs and signers that Intel has revoked, by the two CRLs of the collateral.

The root's CRL names PCK CAs and TCB signers; the CRL of a PCK CA names the platforms it issued.

Source: RFC 5280, section 5; Intel SGX PCK Certificate and Certificate Revocation List Profile Specification,
section 1.4.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from krunpy.attest.refusal import Refusal, Stage
from krunpy.attest.revocation import RevocationMode
from krunpy.core.errors import FormatError
from krunpy.formats.x509 import RevocationList, parse_crl

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from krunpy.attest.endorsement import Validity
    from krunpy.attest.tdx_chain import PckEndorsement
    from krunpy.attest.tdx_signatures import P256Key
    from krunpy.formats.tdx_collateral import TdxCollateral


def _refuse(code: str, why: str, next: str = "") -> Refusal:
    return Refusal(Stage.REVOCATION, code, why=why, next=next)


@lru_cache(maxsize=128)
def _verify_crl(der: bytes, issuer: bytes, key: P256Key) -> RevocationList:
    """Return a CRL of one issuer.

    1. It is the issuer's, by name, and signed with its key.
    2. It has no critical extension, which could narrow what it speaks of.
    """
    try:
        crl = parse_crl(der)
    except FormatError as error:
        raise _refuse("crl-format", f"a CRL cannot be read: {error.why}") from error
    # 1
    if crl.issuer.der != issuer:
        raise _refuse("crl-issuer", f'seen a CRL of "{crl.issuer.common_name[:80]}", which is not the issuer')
    if not key.has_issued(crl):
        raise _refuse("crl-signature", f'the CRL of "{crl.issuer.common_name[:80]}" is not signed by it')
    # 2
    if any(extension.is_critical for extension in crl.extensions.values()):
        raise _refuse("crl-extension", f'the CRL of "{crl.issuer.common_name[:80]}" has a critical extension')
    return crl


def _require_absent(
    der: bytes, issuer: bytes, key: P256Key, now: datetime, links: Iterable[Validity]
) -> None:
    """Return nothing; refuses unless a CRL is the issuer's and fresh, and names none of `links`."""
    crl = _verify_crl(der, issuer, key)
    for link in links:
        if link.serial in crl.serials:
            raise _refuse("revoked", f"the {link.what} with serial {link.serial:#x} is revoked")
    if not crl.this_update <= now <= crl.next_update:
        raise _refuse(
            "crl-stale",
            f'seen a CRL of "{crl.issuer.common_name}" for {crl.this_update:%Y-%m-%d} to '
            f"{crl.next_update:%Y-%m-%d}, wanted one for {now:%Y-%m-%d}",
            next="run `krunpy collateral fetch`",
        )


def verify_pck_not_revoked(
    endorsed: PckEndorsement,
    signers: Iterable[Validity],
    collateral: TdxCollateral,
    mode: RevocationMode,
    now: datetime,
) -> bool:
    """Return whether both CRLs were fresh and name neither the platform, its CA, nor a signer.

    1. The root's CRL is the root's, signed by it, and fresh, and names no CA and no signer.
    2. The PCK CRL is the one of the CA that issued the PCK, signed by it, and fresh, and does not name the PCK.

    A revoked certificate is refused in every mode that reads CRLs, even by a CRL that is stale; another fault
    of a CRL is refused where one is required, and leaves the chain unchecked otherwise.

    Raises Refusal (stage revocation).
    """
    if mode is RevocationMode.OFF:
        return False
    _, ca, leaf = endorsed.chain
    anchor = endorsed.anchor
    checks = (
        (collateral.root_ca_crl, anchor.subject, anchor.key, (ca, *signers)),  # 1
        (collateral.pck_crl, endorsed.ca_subject, endorsed.ca_key, (leaf,)),  # 2
    )
    is_checked = True
    for der, issuer, key, links in checks:
        try:
            _require_absent(der, issuer, key, now, links)
        except Refusal as refusal:
            if mode is RevocationMode.REQUIRED or refusal.code == "revoked":
                raise
            is_checked = False
    return is_checked
