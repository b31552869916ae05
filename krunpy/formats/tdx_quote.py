"""Intel TDX quotes, versions 4 and 5: read all of their parts. No signature is checked here.

Source: Intel TDX DCAP Quoting Library API, appendix A.3 and A.4 (quote formats); Intel TDX Module
Base Architecture Specification, TDREPORT structures; the 1.5 extended body as in Intel's QVL.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from enum import IntEnum

from krunpy.core.errors import FormatError
from krunpy.core.octets import Digest48, ReportData

LARGEST_QUOTE = 65536  # bytes
TEE_TYPE_TDX = 0x81
KEY_TYPE_ECDSA_P256 = 2

_HEADER = struct.Struct("<HHIHH16s20s")  # version, key type, TEE type, QE SVN, PCE SVN, QE vendor, user data
_BODY_HEADER = struct.Struct("<HI")  # version 5: type and size of the body
_CERTIFICATION = struct.Struct("<HI")  # type and size of certification data
_U16, _U32 = struct.Struct("<H"), struct.Struct("<I")
_TD_1_0 = struct.Struct("<16s48s48s8s8s8s48s48s48s48s48s48s48s48s64s")
_TD_1_5 = struct.Struct("<16s48s")
_TD_1_5_EXTENDED = struct.Struct("<B32s48s48s8s16s16s12s48s8s")
_QE_REPORT_SIZE = 384  # bytes
_SIGNATURE_SIZE = 64  # bytes
_CERTIFICATION_QE = 6
_CERTIFICATION_PCK_CHAIN = 5
_V4, _V5 = 4, 5


class BodyType(IntEnum):
    """Which TD report a version 5 quote holds; version 4 always holds TD_1_0."""

    TD_1_0 = 2
    TD_1_5 = 3
    TD_1_5_EXTENDED = 4


_BODY_SIZES = {
    BodyType.TD_1_0: _TD_1_0.size,
    BodyType.TD_1_5: _TD_1_0.size + _TD_1_5.size,
    BodyType.TD_1_5_EXTENDED: _TD_1_0.size + _TD_1_5.size + _TD_1_5_EXTENDED.size,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtendedTd:
    """What the 1.5 extended body adds: service TDs and the platform at the TD's start, as bytes."""

    vm_id: int
    td_id: bytes
    dev_info: bytes
    init_servtd_hash: bytes
    init_servtd_attributes: bytes
    init_cpu_svn: bytes
    init_tee_tcb_svn: bytes
    init_tee_fmspc: bytes
    current_servtd_hash: bytes
    current_servtd_attributes: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class TdReport:
    """The body of a quote. tee_tcb_svn_2 and mrservicetd exist from 1.5 on, extended in its own body."""

    tee_tcb_svn: bytes
    mrseam: Digest48
    mrsignerseam: Digest48
    seam_attributes: bytes
    td_attributes: int
    xfam: int
    mrtd: Digest48
    mrconfigid: Digest48
    mrowner: Digest48
    mrownerconfig: Digest48
    rtmrs: tuple[Digest48, Digest48, Digest48, Digest48]
    report_data: ReportData
    tee_tcb_svn_2: bytes | None = None
    mrservicetd: Digest48 | None = None
    extended: ExtendedTd | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TdxQuote:
    """A quote of the right shape; `signed` is what the attestation key's signature covers.

    signature, qe_signature: r and s, 32 bytes each, big-endian; attestation_key: x and y, 32 bytes each.
    pck_chain: PEM, leaf first.
    padding: how many zero bytes follow the quote's end; nobody signs them.
    """

    version: int
    body_type: BodyType
    qe_svn: int
    pce_svn: int
    qe_vendor: bytes
    user_data: bytes
    td: TdReport
    signed: bytes
    signature: bytes
    attestation_key: bytes
    qe_report: bytes
    qe_signature: bytes
    qe_auth_data: bytes
    pck_chain: bytes
    padding: int = field(compare=False)


def _refuse(why: str) -> FormatError:
    return FormatError("cannot read the TDX quote", why=why)


class _Cursor:
    """A position in bytes of which every part is declared."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def take(self, size: int, what: str) -> bytes:
        """Return the next `size` bytes. Raises FormatError past the end."""
        if size > len(self._data) - self.at:
            raise _refuse(f"seen {len(self._data) - self.at} bytes of {what}, wanted {size}")
        self.at += size
        return self._data[self.at - size : self.at]

    def take_number(self, layout: struct.Struct, what: str) -> int:
        """Return the next little-endian integer."""
        (value,) = layout.unpack(self.take(layout.size, what))
        return int(value)

    def require_end(self, what: str) -> None:
        """Return nothing; raises FormatError if bytes are left."""
        if self.at != len(self._data):
            raise _refuse(f"seen {len(self._data) - self.at} bytes after the {what}")


def _read_body_type(cursor: _Cursor, version: int) -> BodyType:
    if version == _V4:
        return BodyType.TD_1_0
    kind, size = _BODY_HEADER.unpack(cursor.take(_BODY_HEADER.size, "body header"))
    if kind not in BodyType.__members__.values() or size != _BODY_SIZES[BodyType(kind)]:
        raise _refuse(f"seen a body of type {kind} and {size} bytes, wanted a TD report")
    return BodyType(kind)


def _read_td(body: bytes, kind: BodyType) -> TdReport:
    (
        tcb_svn, mrseam, mrsignerseam, seam_attributes, td_attributes, xfam, mrtd, mrconfigid, mrowner,
        mrownerconfig, rtmr0, rtmr1, rtmr2, rtmr3, report_data,
    ) = _TD_1_0.unpack_from(body)  # fmt: skip
    tcb_svn_2: bytes | None = None
    mrservicetd: Digest48 | None = None
    extended: ExtendedTd | None = None
    if kind is not BodyType.TD_1_0:
        tcb_svn_2, service = _TD_1_5.unpack_from(body, _TD_1_0.size)
        mrservicetd = Digest48(service)
    if kind is BodyType.TD_1_5_EXTENDED:
        fields = _TD_1_5_EXTENDED.unpack_from(body, _TD_1_0.size + _TD_1_5.size)
        extended = ExtendedTd(**dict(zip(ExtendedTd.__dataclass_fields__, fields, strict=True)))
    return TdReport(
        tee_tcb_svn=tcb_svn,
        mrseam=Digest48(mrseam),
        mrsignerseam=Digest48(mrsignerseam),
        seam_attributes=seam_attributes,
        td_attributes=int.from_bytes(td_attributes, "little"),
        xfam=int.from_bytes(xfam, "little"),
        mrtd=Digest48(mrtd),
        mrconfigid=Digest48(mrconfigid),
        mrowner=Digest48(mrowner),
        mrownerconfig=Digest48(mrownerconfig),
        rtmrs=(Digest48(rtmr0), Digest48(rtmr1), Digest48(rtmr2), Digest48(rtmr3)),
        report_data=ReportData(report_data),
        tee_tcb_svn_2=tcb_svn_2,
        mrservicetd=mrservicetd,
        extended=extended,
    )


def _read_qe(certification: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    """Return the QE's report, its signature, its authentication data, and the PCK chain in PEM."""
    cursor = _Cursor(certification)
    report = cursor.take(_QE_REPORT_SIZE, "QE report")
    signature = cursor.take(_SIGNATURE_SIZE, "QE signature")
    auth_data = cursor.take(cursor.take_number(_U16, "QE data length"), "QE data")
    kind, size = _CERTIFICATION.unpack(cursor.take(_CERTIFICATION.size, "PCK certification header"))
    if kind != _CERTIFICATION_PCK_CHAIN:
        raise _refuse(f"seen PCK certification type {kind}, wanted 5, a certificate chain")
    chain = cursor.take(size, "PCK chain")
    cursor.require_end("PCK chain")
    return report, signature, auth_data, chain


def parse_tdx_quote(raw: bytes) -> TdxQuote:
    """Return the parts of a quote; zero bytes after its declared end are padding.

    raw: at most 64 KiB.

    Raises FormatError unless it is a TDX quote of version 4 or 5 with an ECDSA P-256 key and a PCK chain,
    whose lengths fill each other exactly.
    """
    if len(raw) > LARGEST_QUOTE:
        raise _refuse(f"seen {len(raw)} bytes, wanted at most {LARGEST_QUOTE}")
    cursor = _Cursor(raw)
    header = _HEADER.unpack(cursor.take(_HEADER.size, "header"))
    version, key_type, tee_type, qe_svn, pce_svn, qe_vendor, user_data = header
    if version not in {_V4, _V5} or key_type != KEY_TYPE_ECDSA_P256 or tee_type != TEE_TYPE_TDX:
        raise _refuse(
            f"seen version {version}, key type {key_type}, TEE type {tee_type:#x}; wanted 4 or 5, 2, 0x81"
        )
    body_type = _read_body_type(cursor, version)
    td = _read_td(cursor.take(_BODY_SIZES[body_type], "TD report"), body_type)
    signed = raw[: cursor.at]
    inner = _Cursor(cursor.take(cursor.take_number(_U32, "signature length"), "signature data"))
    if raw[cursor.at :].strip(b"\0"):
        raise _refuse("seen bytes other than zero after the quote's end")
    signature = inner.take(_SIGNATURE_SIZE, "signature")
    attestation_key = inner.take(_SIGNATURE_SIZE, "attestation key")
    kind, size = _CERTIFICATION.unpack(inner.take(_CERTIFICATION.size, "certification header"))
    if kind != _CERTIFICATION_QE:
        raise _refuse(f"seen certification type {kind}, wanted 6, a QE report")
    qe_report, qe_signature, qe_auth_data, pck_chain = _read_qe(inner.take(size, "certification data"))
    inner.require_end("certification data")
    return TdxQuote(
        version=version,
        body_type=body_type,
        qe_svn=qe_svn,
        pce_svn=pce_svn,
        qe_vendor=qe_vendor,
        user_data=user_data,
        td=td,
        signed=signed,
        signature=signature,
        attestation_key=attestation_key,
        qe_report=qe_report,
        qe_signature=qe_signature,
        qe_auth_data=qe_auth_data,
        pck_chain=pck_chain,
        padding=len(raw) - cursor.at,
    )
