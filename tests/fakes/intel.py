"""Intel's platforms as a test sees them: quotes of every kind, signed below a made-up root; each able to lie."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import TYPE_CHECKING

from krunpy.attest.tdx_evidence import INTEL_QE_VENDOR, UnverifiedTdx, read_tdx_evidence
from krunpy.attest.tdx_verify import verify_tdx
from krunpy.formats.tdx_quote import BodyType
from tests.fakes.intel_collateral import QE_MRSIGNER, mint_collateral
from tests.fakes.intel_pki import (
    CA_CERT,
    NOW,
    PCK,
    PCK_SERIAL,
    PLATFORM_CA,
    SGX,
    Cert,
    anchors,
    key,
    mint,
    mint_root,
    name,
    pairs,
    pem,
    sgx_entries,
    sign,
)

if TYPE_CHECKING:
    from krunpy.attest.tdx_claims import TdxClaims
    from krunpy.formats.tdx_collateral import TdxCollateral

TEE_TCB_SVN = bytes([5, 1, 6, *bytes(13)])
TD = {
    "tee_tcb_svn": TEE_TCB_SVN,
    "mrseam": b"\x5e" * 48,
    "mrsignerseam": bytes(48),
    "seam_attributes": bytes(8),
    "td_attributes": (1 << 28).to_bytes(8, "little"),
    "xfam": (0xE7).to_bytes(8, "little"),
    "mrtd": b"\x11" * 48,
    "mrconfigid": bytes(48),
    "mrowner": bytes(48),
    "mrownerconfig": bytes(48),
    "rtmr0": b"\xa0" * 48,
    "rtmr1": b"\xa1" * 48,
    "rtmr2": b"\xa2" * 48,
    "rtmr3": b"\xa3" * 48,
    "report_data": b"\xdd" * 64,
}
TD_1_5 = {"tee_tcb_svn_2": TEE_TCB_SVN, "mrservicetd": bytes(48)}
TD_EXTENDED = {
    "vm_id": b"\0",
    "td_id": bytes(32),
    "dev_info": bytes(48),
    "init_servtd_hash": bytes(48),
    "init_servtd_attributes": bytes(8),
    "init_cpu_svn": bytes(16),
    "init_tee_tcb_svn": TEE_TCB_SVN,
    "init_tee_fmspc": bytes(12),
    "current_servtd_hash": bytes(48),
    "current_servtd_attributes": bytes(8),
}
BODIES = {
    BodyType.TD_1_0: TD,
    BodyType.TD_1_5: TD | TD_1_5,
    BodyType.TD_1_5_EXTENDED: TD | TD_1_5 | TD_EXTENDED,
}
QE = {
    "cpu_svn": bytes(16),
    "miscselect": bytes(4),
    "reserved1": bytes(28),
    "attributes": bytes.fromhex("15000000000000000000000000000000"),
    "mrenclave": b"\xee" * 32,
    "reserved2": bytes(32),
    "mrsigner": QE_MRSIGNER,
    "reserved3": bytes(96),
    "isv_prod_id": struct.pack("<H", 2),
    "isv_svn": struct.pack("<H", 4),
    "reserved4": bytes(60),
}


def public_point(who: str) -> bytes:
    numbers = key(who).public_key().public_numbers()
    return numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")


@dataclass(frozen=True, kw_only=True)
class FakePlatform:
    """A platform with its chain; quotes are signed by "ak", which its QE vouches for."""

    ca: dict = field(default_factory=dict)  # changes to the PCK CA's certificate
    leaf: dict = field(default_factory=dict)  # changes to the PCK's certificate
    sgx: dict = field(default_factory=dict)  # changes to the SGX extension; None leaves one out
    qe: dict = field(default_factory=dict)  # changes to the QE's report
    qe_signer: str = "pck"
    report_data: bytes | None = None  # of the QE's report
    quote_signer: str = "ak"
    vendor: bytes = INTEL_QE_VENDOR

    @property
    def ca_certificate(self) -> bytes:
        return mint(replace(CA_CERT, **self.ca))

    @property
    def certificate(self) -> bytes:
        entries = {arc: value for arc, value in (sgx_entries() | self.sgx).items() if value is not None}
        cert = Cert(
            subject=name(PCK),
            issuer=name(PLATFORM_CA),
            key="pck",
            signer="ca",
            serial=PCK_SERIAL,
            extensions=((SGX, pairs(entries), False),),
        )
        return mint(replace(cert, **self.leaf))

    @property
    def chain(self) -> tuple[bytes, bytes, bytes]:
        return self.certificate, self.ca_certificate, mint_root()

    def qe_report(self, auth_data: bytes) -> bytes:
        bound = sha256(public_point("ak") + auth_data).digest() + bytes(32)
        return b"".join((QE | self.qe).values()) + (self.report_data or bound)

    def quote(
        self,
        *,
        version: int = 4,
        body: BodyType = BodyType.TD_1_0,
        chain: bytes | None = None,
        signed: slice = slice(None),
        **changes: bytes,
    ) -> bytes:
        """Return a quote; chain: PEM in place of the platform's; signed: the part that the signature covers."""
        header = struct.pack("<HHIHH16s20s", version, 2, 0x81, 0, 0, self.vendor, bytes(20))
        td = b"".join((BODIES[body] | changes).values())
        if version == 5:
            header += struct.pack("<HI", body, len(td))
        auth_data = bytes(range(32))
        report = self.qe_report(auth_data)
        text = pem(*self.chain) if chain is None else chain
        certification = report + sign(self.qe_signer, report) + struct.pack("<H", 32) + auth_data
        certification += struct.pack("<HI", 5, len(text)) + text
        data = sign(self.quote_signer, (header + td)[signed]) + public_point("ak")
        data += struct.pack("<HI", 6, len(certification)) + certification
        return header + td + struct.pack("<I", len(data)) + data

    def evidence(self, **changes: object) -> UnverifiedTdx:
        return read_tdx_evidence(self.quote(**changes))

    def claims(self, *, collateral: TdxCollateral | None = None, **changes: object) -> TdxClaims:
        """Return the claims of a quote, under good collateral unless another is given."""
        return verify_tdx(
            self.evidence(**changes),
            anchors=anchors(),
            now=NOW,
            collateral=collateral or mint_collateral(),
        )
