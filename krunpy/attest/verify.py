"""Verify SEV-SNP evidence: unverified bytes become claims, or a refusal. Nothing is appraised here.

A claim is a field that the hardware (or, visibly, the software TEE) has signed; whether its value is the
one that was wanted is for `appraise`.

Source: AMD SEV-SNP Firmware ABI (publication 56860), section 7.3; AMD VCEK Certificate and KDS Interface
Specification (publication 57230).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from krunpy.attest.endorsement import EndorsedKey, verify_endorsement
from krunpy.attest.refusal import Refusal, Stage
from krunpy.attest.revocation import Revocation, verify_not_revoked
from krunpy.core.errors import FormatError
from krunpy.formats import snp_simulated
from krunpy.formats.snp_report import SIGNED_SIZE, SigningKey, SnpReport
from krunpy.formats.snp_tcb import Product, Tcb, find_product, parse_tcb

if TYPE_CHECKING:
    from datetime import datetime

    from krunpy.attest.anchors import Anchors
    from krunpy.attest.evidence import UnverifiedSnp

NO_REVOCATION = Revocation()

_FIRST_WITH_CPUID = 3  # report version
_TURIN_HWID_SIZE = 8  # bytes
_CHIP_ID_SIZE = 64  # bytes
_PROOF = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpClaims:
    """What verified evidence says, of one of the two kinds below. Only `verify_snp` makes one.

    simulated: a software TEE signed it: nothing is confidential.
    is_revocation_checked: a fresh CRL was read and does not name the chain.
    key_digest: SHA-256 of the endorsement key as SubjectPublicKeyInfo.
    """

    report: SnpReport
    product: Product
    simulated: bool
    current_tcb: Tcb
    reported_tcb: Tcb
    committed_tcb: Tcb
    launch_tcb: Tcb
    is_revocation_checked: bool
    csp_id: str | None
    key_digest: bytes
    proof: object

    def __post_init__(self) -> None:
        if self.proof is not _PROOF:
            msg = "claims come from verify_snp alone"
            raise TypeError(msg)

    @property
    def is_chip_masked(self) -> bool:
        """Whether CHIP_ID is zero, so that the chip is not known."""
        return not any(self.report.chip_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class HardwareClaims(SnpClaims):
    """Claims that a processor has signed: what needs hardware is released to these alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedClaims(SnpClaims):
    """Claims that a software TEE has signed: nothing about them is confidential."""


def _refuse(code: str, why: str) -> Refusal:
    return Refusal(Stage.BINDING, code, why=why)


def verify_snp(
    evidence: UnverifiedSnp,
    *,
    anchors: Anchors,
    now: datetime,
    revocation: Revocation = NO_REVOCATION,
    allows_masked_chip: bool = False,
) -> HardwareClaims | SimulatedClaims:
    """Return the claims of evidence that holds.

    anchors: the roots that are trusted; now: the verifier's clock, with a time zone.
    allows_masked_chip: accept a VCEK for a report whose CHIP_ID is zero.

    1. Chain: the key's certificates lead to a trusted root (`endorsement`).
    2. Validity: each of them is valid at `now`.
    3. Revocation: none is revoked (`revocation`).
    4. Binding: the report and the certificate speak of the same key, product, chip and TCB (`_bind`).
    5. Signature: the key signed the report's bytes as they came.
    6. Marks: simulated evidence is marked so, other evidence bears no such mark.

    Raises Refusal; its stage and code name the first step that failed.
    """
    report = evidence.report
    # 1
    endorsed = verify_endorsement(evidence.leaf, evidence.intermediate, evidence.root, anchors)
    # 2
    _require_valid(endorsed, now)
    # 3
    all_crls = Revocation(mode=revocation.mode, crls=revocation.crls + evidence.crls)
    is_checked = verify_not_revoked(endorsed, all_crls, now)
    # 4
    current, reported, committed, launch = _bind(report, endorsed, allows_masked_chip=allows_masked_chip)
    # 5
    _require_signed(evidence, endorsed)
    # 6
    _require_marks(report, simulated=endorsed.simulated)
    kind = SimulatedClaims if endorsed.simulated else HardwareClaims
    return kind(
        report=report,
        product=endorsed.product,
        simulated=endorsed.simulated,
        current_tcb=current,
        reported_tcb=reported,
        committed_tcb=committed,
        launch_tcb=launch,
        is_revocation_checked=is_checked,
        csp_id=endorsed.csp_id,
        key_digest=endorsed.digest,
        proof=_PROOF,
    )


def _require_valid(endorsed: EndorsedKey, now: datetime) -> None:
    for link in endorsed.chain:
        if not link.not_before <= now <= link.not_after:
            raise Refusal(
                Stage.VALIDITY,
                "certificate-validity",
                why=f"seen a {link.what} valid {link.not_before:%Y-%m-%d} to {link.not_after:%Y-%m-%d}, "
                f"wanted one valid at {now:%Y-%m-%d}",
            )


def _require_signed(evidence: UnverifiedSnp, endorsed: EndorsedKey) -> None:
    r, s = evidence.report.signature_r, evidence.report.signature_s
    if not endorsed.key.has_signed(evidence.raw[:SIGNED_SIZE], r, s):
        raise Refusal(
            Stage.SIGNATURE, "signature", why=f"the report is not signed by the {endorsed.kind.name}"
        )


def _bind(report: SnpReport, endorsed: EndorsedKey, *, allows_masked_chip: bool) -> tuple[Tcb, Tcb, Tcb, Tcb]:
    """Return the current, reported, committed and launch TCB of a report that the certificate is for.

    1. The kind of key that the report names is the certificate's.
    2. The processor that the report names is the certificate's product.
    3. The TCB versions have the product's layout; reported and committed are not above current.
    4. The certificate was made for the reported TCB, every component stated.
    5. A VCEK names the chip that the report names; a VLEK names a cloud and no chip.

    Raises Refusal (stage binding).
    """
    # 1
    if report.signing_key is not endorsed.kind:
        raise _refuse(
            "signer-kind",
            f"the report names {report.signing_key.name}, the certificate is {endorsed.kind.name}",
        )
    # 2
    _require_product(report, endorsed.product)
    # 3
    raw_tcbs = (report.current_tcb, report.reported_tcb, report.committed_tcb, report.launch_tcb)
    try:
        current, reported, committed, launch = (parse_tcb(raw, endorsed.product) for raw in raw_tcbs)
    except FormatError as error:
        raise _refuse("tcb-layout", error.why) from error
    for name, tcb in (("reported", reported), ("committed", committed)):
        if not current.is_at_least(tcb):
            raise _refuse("tcb-order", f"seen {name} TCB ({tcb}) above the current ({current})")
    # 4
    _require_levels(endorsed, reported)
    # 5
    if endorsed.kind is SigningKey.VCEK:
        _require_chip(report, endorsed, allows_masked_chip=allows_masked_chip)
    elif endorsed.csp_id is None or endorsed.hwid is not None:
        raise _refuse("vlek-identity", "a VLEK names a cloud provider and no chip; this certificate does not")
    return current, reported, committed, launch


def _require_product(report: SnpReport, product: Product) -> None:
    if report.version < _FIRST_WITH_CPUID:
        if product is Product.TURIN:  # its TCB layout cannot be told from a version 2 report
            raise _refuse("product", "seen a version 2 report for Turin, wanted version 3 or newer")
        return
    family, model, _ = report.cpuid
    named = find_product(family, model)
    if named is not product:
        raise _refuse(
            "product",
            f"seen family {family:#x} model {model:#x} ({named or 'unknown'}), "
            f"the certificate is for {product}",
        )


def _require_levels(endorsed: EndorsedKey, reported: Tcb) -> None:
    wanted = {
        "bootloader": reported.bootloader,
        "tee": reported.tee,
        "snp": reported.snp,
        "microcode": reported.microcode,
    }
    # AMD's certificates state their reserved levels as well; Turin's have fmc in the place of spl4
    if endorsed.product is Product.TURIN:
        wanted |= {"fmc": reported.fmc, "spl5": 0, "spl6": 0, "spl7": 0}
    else:
        wanted |= {"spl4": 0, "spl5": 0, "spl6": 0, "spl7": 0}
    if endorsed.levels != wanted:
        raise _refuse(
            "tcb-certificate", f"the report's TCB is {reported}, the certificate is for {endorsed.levels}"
        )


def _require_chip(report: SnpReport, endorsed: EndorsedKey, *, allows_masked_chip: bool) -> None:
    if endorsed.hwid is None or endorsed.csp_id is not None:
        raise _refuse("vcek-identity", "a VCEK names a chip and no cloud provider; this certificate does not")
    if allows_masked_chip and not any(report.chip_id):
        return
    size = _TURIN_HWID_SIZE if endorsed.product is Product.TURIN else _CHIP_ID_SIZE
    if len(endorsed.hwid) != size or report.chip_id != endorsed.hwid.ljust(_CHIP_ID_SIZE, b"\0"):
        raise _refuse(
            "chip-id",
            f"seen CHIP_ID {report.chip_id[:8].hex()}…, the certificate is for {endorsed.hwid[:8].hex()}…",
        )


def _require_marks(report: SnpReport, *, simulated: bool) -> None:
    marks = (
        report.family_id == snp_simulated.FAMILY_ID,
        report.chip_id.startswith(snp_simulated.CHIP_ID_PREFIX),
    )
    if simulated and not all(marks):
        raise _refuse("marks", "seen simulated evidence without the marks of simulation")
    if not simulated and any(marks):
        raise _refuse("marks", "seen the marks of simulation in evidence signed as hardware")
