"""Intel's collateral as a test sees it: TCB Info, QE identity and CRLs that can be changed and signed anew."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from krunpy.formats.tdx_collateral import TdxCollateral
from tests.fakes.intel_pki import (
    CA_CERT,
    COMPONENTS,
    FMSPC,
    PLATFORM_CA,
    ROOT,
    SIGNER_CERT,
    key,
    mint,
    mint_root,
    name,
    pem,
    sign,
)

QE_MRSIGNER = bytes.fromhex("dc9e2a7c6f948f17474e34a7fc43ed030f7c1563f1babddf6340c82e0e54a8c5")


def level(status: str, date: str = "2025-01-01T00:00:00Z", *advisories: str) -> dict:
    said = {"tcbDate": date, "tcbStatus": status}
    return said | ({"advisoryIDs": list(advisories)} if advisories else {})


def isv_level(isv_svn: int, status: str, date: str = "2025-01-01T00:00:00Z", *advisories: str) -> dict:
    return {"tcb": {"isvsvn": isv_svn}, **level(status, date, *advisories)}


def platform_level(components: bytes, pce_svn: int, tdx: bytes, **said: object) -> dict:
    tcb = {
        "sgxtcbcomponents": [{"svn": svn} for svn in components],
        "pcesvn": pce_svn,
        "tdxtcbcomponents": [{"svn": svn} for svn in tdx],
    }
    return {"tcb": tcb, **said}


def module_signer() -> dict:
    return {"mrsigner": "00" * 48, "attributes": "00" * 8, "attributesMask": "FF" * 8}


def tcb_info() -> dict:
    """Return a TCB Info: the platform is UpToDate, SWHardeningNeeded below, then OutOfDate."""
    tdx = bytes([5, 0, 6, *bytes(13)])
    older = bytes([3, 0, 5, *bytes(13)])
    return {
        "id": "TDX",
        "version": 3,
        "issueDate": "2026-05-20T00:00:00Z",
        "nextUpdate": "2026-06-19T00:00:00Z",
        "fmspc": FMSPC.hex(),
        "pceId": "0000",
        "tcbType": 0,
        "tcbEvaluationDataNumber": 20,
        "tdxModule": module_signer(),
        "tdxModuleIdentities": [
            {
                "id": "TDX_01",
                **module_signer(),
                "tcbLevels": [
                    isv_level(5, "UpToDate"),
                    isv_level(3, "OutOfDate", "2024-01-01T00:00:00Z", "INTEL-SA-1"),
                    isv_level(2, "Revoked", "2023-01-01T00:00:00Z"),
                ],
            }
        ],
        "tcbLevels": [
            platform_level(COMPONENTS, 13, tdx, **level("UpToDate")),
            platform_level(b"\6" + COMPONENTS[1:], 13, tdx, **level("SWHardeningNeeded")),
            platform_level(
                bytes([5, 5, *COMPONENTS[2:]]),
                11,
                older,
                **level("OutOfDate", "2023-06-01T00:00:00Z", "INTEL-SA-2"),
            ),
        ],
    }


def qe_identity() -> dict:
    return {
        "id": "TD_QE",
        "version": 2,
        "issueDate": "2026-05-20T00:00:00Z",
        "nextUpdate": "2026-06-19T00:00:00Z",
        "tcbEvaluationDataNumber": 21,
        "miscselect": "00000000",
        "miscselectMask": "FFFFFFFF",
        "attributes": "11000000000000000000000000000000",
        "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
        "mrsigner": QE_MRSIGNER.hex().upper(),
        "isvprodid": 2,
        "tcbLevels": [isv_level(4, "UpToDate"), isv_level(3, "OutOfDate"), isv_level(2, "Revoked")],
    }


def mint_crl(
    issuer: str,
    signer: str,
    *serials: int,
    this_update: datetime = datetime(2026, 5, 15, tzinfo=UTC),
    next_update: datetime = datetime(2026, 6, 20, tzinfo=UTC),
    critical: str = "",
) -> bytes:
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(name(issuer))
        .last_update(this_update)
        .next_update(next_update)
        .add_extension(x509.CRLNumber(1), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(key(signer).public_key()), critical=False
        )
    )
    for serial in serials:
        revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(this_update)
        builder = builder.add_revoked_certificate(revoked.build())
    if critical:
        extension = x509.UnrecognizedExtension(x509.ObjectIdentifier(critical), b"\5\0")
        builder = builder.add_extension(extension, critical=True)
    return builder.sign(key(signer), hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def mint_collateral(
    *,
    info: dict | bytes | None = None,
    identity: dict | bytes | None = None,
    info_chain: tuple[bytes, ...] | None = None,
    identity_chain: tuple[bytes, ...] | None = None,
    info_signer: str = "signer",
    identity_signer: str = "signer",
    root_crl: bytes | None = None,
    pck_crl: bytes | None = None,
) -> TdxCollateral:
    """Return collateral that is good but for what is given; a dict replaces members, bytes the whole text."""
    info_raw = info if isinstance(info, bytes) else json.dumps(tcb_info() | (info or {})).encode()
    identity_raw = (
        identity if isinstance(identity, bytes) else json.dumps(qe_identity() | (identity or {})).encode()
    )
    chain = (mint(SIGNER_CERT), mint_root())
    return TdxCollateral(
        pck_crl_issuer_chain=pem(mint(CA_CERT), mint_root()),
        root_ca_crl=root_crl or mint_crl(ROOT, "root"),
        pck_crl=pck_crl or mint_crl(PLATFORM_CA, "ca"),
        tcb_info_issuer_chain=pem(*(info_chain or chain)),
        tcb_info=info_raw,
        tcb_info_signature=sign(info_signer, info_raw),
        qe_identity_issuer_chain=pem(*(identity_chain or chain)),
        qe_identity=identity_raw,
        qe_identity_signature=sign(identity_signer, identity_raw),
    )
